"""VOCABULARY: the distinct tokens by descending count; counted and numbered in Spark."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import Field
from pyspark.sql import functions as F

from embedall_spark import committed_files, list_offsets, row_numbers
from embedall_spark.config import Section
from embedall_spark.corpus import encoded_pages, sequence_kernels, token_counter
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.errors import BadData
from embedall_spark.schemas import ENCODED, VOCABULARY, conform

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame

    from embedall_spark.corpus.encoded_pages import Batches, Page, Table
    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)
_MAX_SIZE = 2**31 - 1
# Counts whose files are smaller, up to half a million tokens, are sorted by one task: Spark's jobs would take longer.
_ONE_TASK_BYTES = 4 << 20


class VocabularyConfig(Section):
    """Which tokens get a vector."""

    min_count: int = Field(5, ge=1, description="rarer tokens are left out")
    max_vocabulary: int | None = Field(
        None, ge=1, le=_MAX_SIZE, description="at most so many tokens, the most frequent ones; unset: no limit"
    )
    max_final_vocab: int | None = Field(
        None,
        ge=1,
        le=_MAX_SIZE,
        description="as in gensim: raise min_count until at most so many tokens are left; unset: no limit",
    )


def build(run: Run, pages: DataFrame, config: VocabularyConfig, what: str = "tokens") -> DataFrame:
    """Return the tokens of PAGES as VOCABULARY, the stage "vocabulary".

    Ids are given by descending count, and to equal counts by the tokens' UTF-8 bytes, whatever the partitioning. The
    stage's parquet files are sorted by id, and so are their names.

    Args:
        run: where the stage goes.
        pages: PAGES.
        config: which tokens to include.
        what: what log and errors call the tokens.

    Raises:
        BadData: no token occurs ``min_count`` times, or more than 2**31 - 1 do.
    """
    return assign_ids(run, "vocabulary", count(pages), config, what)


def assign_ids(run: Run, stage: str, counted: DataFrame, config: VocabularyConfig, what: str = "tokens") -> DataFrame:
    """Return distinct tokens and their counts (token, count) as VOCABULARY, in a stage of this name.

    Raises:
        BadData: as build().
    """
    counts = run.stage(
        f"{stage}-counts", lambda: counted.where(F.col("count") >= config.min_count).select("token", "count")
    )
    stored = sum(info.size for info in committed_files.of(run.stage_path(f"{stage}-counts")))
    if stored < _ONE_TASK_BYTES:
        ordered = row_numbers.ordered_in_one_part(counts, *_order())
        return run.stage(stage, lambda: _numbered(ordered, [(0, counts.count())], counted, config, what))
    # The order is stored before ids are given: computed twice, it could be divided differently.
    ordered = run.stage(f"{stage}-ordered", lambda: row_numbers.ordered(counts, *_order()))
    return run.stage(stage, lambda: _numbered(ordered, row_numbers.part_sizes(ordered), counted, config, what))


def total_tokens(vocabulary: DataFrame) -> int:
    """Return the number of a corpus's tokens that are in its VOCABULARY."""
    row = vocabulary.agg(F.sum("count")).first()
    return int(row[0] or 0) if row else 0


def encode(pages: DataFrame, folder: str) -> DataFrame:
    """Return PAGES as ENCODED over the VOCABULARY in a folder; other tokens are dropped, empty sequences stay."""
    return pages.select("ids", "lengths", "codes", "tokens", "token_lengths").mapInArrow(_encoded(folder), ENCODED)


def encode_page(page: Page, index: VocabularyIndex) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the ids of a page's tokens that are in the vocabulary, in order, and their number in each sequence.

    Both are int32.
    """
    tokens, lengths = np.empty(len(page.codes), np.int32), np.empty(len(page.lengths), np.int32)
    size = sequence_kernels.translate(index.ids(page.tokens), page.codes, page.lengths, tokens, lengths)
    return tokens[:size], lengths


def _numbered(
    ordered: DataFrame, sizes: list[tuple[int, int]], counted: DataFrame, config: VocabularyConfig, what: str
) -> DataFrame:
    """Return VOCABULARY from its parts; only the parts' sizes pass through the driver."""
    size = sum(number for _, number in sizes)
    if config.max_final_vocab is not None and size > config.max_final_vocab:
        min_count = _count_at(ordered, sizes, config.max_final_vocab) + 1
        log.info("vocabulary: %s %s occur at least %d times; vocabulary.max_final_vocab raises this number to %d",
                 f"{size:,}", what, config.min_count, min_count)  # fmt: skip
        raised = config.model_copy(update={"min_count": min_count, "max_final_vocab": None})
        left = ordered.where(F.col("count") >= min_count)
        return _numbered(left, row_numbers.part_sizes(left), counted, raised, what)
    if not size:
        raise BadData(_none_left(counted, config.min_count, what))
    included = min(size, config.max_vocabulary or size)
    if included > _MAX_SIZE:
        raise BadData(
            f"{size:,} {what} occur {config.min_count} times or more, at most {_MAX_SIZE:,} are possible; raise "
            "vocabulary.min_count"
        )
    limit = f"; the {included:,} most frequent are used" if included < size else ""
    log.info("vocabulary: %s %s occur at least %d times%s", f"{size:,}", what, config.min_count, limit)
    numbered = ordered.withColumn("id", row_numbers.number(sizes).cast("int"))
    used = numbered.where(F.col("id") < included)
    if sizes[-1][0] > 0:
        # The files are in the order of the ids, so that a reader need not sort.
        used = used.repartitionById(sizes[-1][0] + 1, F.col("part").cast("int")).sortWithinPartitions("id")
    return conform(used, VOCABULARY)


def _count_at(ordered: DataFrame, sizes: list[tuple[int, int]], index: int) -> int:
    """Return the count of the token at an index of the order."""
    for part, size in sizes:
        if index < size:
            row = ordered.where((F.col("part") == part) & (F.col("position") == index)).select("count").first()
            assert row is not None
            return int(row[0])
        index -= size
    raise IndexError(index)


def _order() -> tuple[Column, Column]:
    return F.col("count").desc(), F.col("token")


def count(pages: DataFrame) -> DataFrame:
    """Return the distinct tokens of PAGES and how often each occurs: token, count."""
    columns = pages.select("tokens", "token_lengths", "counts")
    return token_counter.count(columns, lambda batch: ((p.tokens, p.counts) for p in encoded_pages.read(batch)))


def _none_left(counted: DataFrame, min_count: int, what: str) -> str:
    row = counted.agg(F.max("count")).first()
    largest = row[0] if row and row[0] is not None else 0
    if not largest:
        return f"there are no {what}; give more input"
    return (
        f"none of the {what} occurs {min_count} times (vocabulary.min_count={min_count}): the most frequent one has "
        f"{largest}; lower vocabulary.min_count or give more input"
    )


def _encoded(folder: str) -> Table:
    def encoded(batches: Batches) -> Batches:
        index = VocabularyIndex.open(folder)
        for batch in batches:
            for page in encoded_pages.read(batch):
                tokens, lengths = encode_page(page, index)
                offsets = list_offsets.from_lengths(lengths).astype(np.int32)
                columns = [pa.array(page.ids), pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens))]
                yield pa.RecordBatch.from_arrays(columns, names=["id", "tokens"])

    return encoded
