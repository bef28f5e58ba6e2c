"""Tokens of titles and tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator
from pyspark.sql import functions as F

from embedall_spark import list_offsets
from embedall_spark.config import Section
from embedall_spark.corpus.tokenizer import TokensConfig, tokenize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

_TOKENS = "id string, tokens array<string>, tags array<string>"


class ItemTextConfig(Section):
    """How titles and tags are split into words."""

    use: tuple[Literal["title", "tags"], ...] = Field(("title", "tags"), description="columns of the items")
    split_tags: bool = Field(
        True, description="split tags into words, as titles are; false: each tag, lower-cased, is one word"
    )
    tokens: TokensConfig = Field(TokensConfig(), description="how titles are split into words. Keys:")

    @field_validator("use")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("need title, tags or both")
        return value


def tokenize_items(items: DataFrame, config: ItemTextConfig) -> DataFrame:
    """Return the words of each item: id and tokens, sorted, each word once; an empty array if it has none.

    Args:
        items: ITEMS.
        config: how titles and tags are split.
    """
    no_title, no_tags = F.lit(None).cast("string"), F.lit(None).cast("array<string>")
    tags = F.col("tags") if "tags" in config.use else no_tags
    title = F.col("title") if "title" in config.use else no_title
    if config.split_tags:
        # A line break ends a sentence, so that words of title and tags are not joined.
        title, tags = F.concat_ws("\n", title, tags), no_tags
    whole = F.filter(F.transform(tags, lambda tag: F.lower(F.trim(tag))), lambda tag: tag != "")
    texts = items.select("id", title.alias("text"), F.coalesce(whole, F.array().cast("array<string>")).alias("tags"))
    tokenized = texts.mapInArrow(_splitter(config.tokens), _TOKENS)
    return tokenized.select("id", F.array_sort(F.array_distinct(F.concat("tokens", "tags"))).alias("tokens"))


def tokens_of(items: pa.Table, config: ItemTextConfig) -> Iterator[list[str]]:
    """Yield the words of each item, as tokenize_items() returns them, without Spark.

    Args:
        items: ITEMS.
        config: how titles and tags are split.
    """
    titles = items["title"].to_pylist() if "title" in config.use else [None] * len(items)
    tags = items["tags"].to_pylist() if "tags" in config.use else [None] * len(items)
    joined = titles
    if config.split_tags:
        joined = ["\n".join(filter(None, [title, *(own or [])])) for title, own in zip(titles, tags, strict=True)]
        tags = [None] * len(items)
    for words, own in zip(_tokens(pa.array(joined, pa.string()), config.tokens).to_pylist(), tags, strict=True):
        whole = (tag.strip(" ").lower() for tag in own or [] if tag is not None)
        yield sorted({*words, *filter(None, whole)})


def tokenize_text(text: str, config: ItemTextConfig) -> list[str]:
    """Return the words of a text that a user types, as tokenize_items() returns those of a title."""
    return sorted(set(_tokens(pa.array([text], pa.string()), config.tokens).flatten().to_pylist()))


def report(items: DataFrame, vocabulary: DataFrame) -> dict[str, int]:
    """Return how many items and words can be used.

    Args:
        items: from tokenize_items().
        vocabulary: table whose ``id`` is every word that has a vector: VECTORS of words, or text_features.vocabulary().

    Returns:
        ``items``; ``items_without_words``: of these, with an empty title and no tag; ``items_unknown``: with words, but
        none that has a vector; ``words``: different ones; ``words_unknown``: of these, without a vector.
    """
    known_words = vocabulary.select(F.col("id").alias("token"), F.lit(True).alias("known"))
    exploded = items.select("id", F.explode_outer("tokens").alias("token")).join(known_words, "token", "left")
    by_item = exploded.groupBy("id").agg(F.count("token").alias("words"), F.count("known").alias("known"))
    item_counts = by_item.agg(
        F.count("*"), F.count_if(F.col("words") == 0), F.count_if((F.col("words") > 0) & (F.col("known") == 0))
    ).first()
    by_word = exploded.where("token IS NOT NULL").groupBy("token").agg(F.count("known").alias("known"))
    word_counts = by_word.agg(F.count("*"), F.count_if(F.col("known") == 0)).first()
    assert item_counts is not None and word_counts is not None
    names = ("items", "items_without_words", "items_unknown", "words", "words_unknown")
    return dict(zip(names, (*item_counts, *word_counts), strict=True))


def _splitter(config: TokensConfig) -> Callable[[Batches], Batches]:
    """Build the task's function: texts are split into words, other columns are unchanged."""

    def splitter(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                columns = [batch["id"], _tokens(batch["text"], config), batch["tags"]]
                yield pa.RecordBatch.from_arrays(columns, ["id", "tokens", "tags"])

    return splitter


def _tokens(text: pa.StringArray, config: TokensConfig) -> pa.ListArray:
    """Return the words of each text; none for a text that the corpus would refuse."""
    rows, nulls = len(text), pa.nulls(len(text), pa.string())
    columns = {"id": pa.array(np.arange(rows)), "text": text, "origin": nulls, "problem": nulls}
    sequences, _ = tokenize(pa.RecordBatch.from_pydict(columns), config.model_copy(update={"boundaries": "document"}))
    counts = np.zeros(rows, np.int64)
    # A text of many words is cut; its other pieces have ids of their own, but follow the first.
    first = np.flatnonzero((sequences.ids >= 0) & (sequences.ids < rows))
    lengths = np.diff(sequences.offsets)
    if len(first):
        counts[sequences.ids[first]] = np.add.reduceat(lengths, first)
    ends = list_offsets.from_lengths(counts).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), sequences.tokens)
