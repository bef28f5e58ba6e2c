"""Text side of a latent space: the most frequent words are dimensions, rarer words have vectors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from pyspark.sql import functions as F

from embedall_spark.errors import ConfigError
from embedall_spark.latent import pairs
from embedall_spark.latent.fit import covariance
from embedall_spark.latent.latent_model import UNIT, WORDS, TextSide
from embedall_spark.latent.text import item_tokens, text_features, word_vectors
from embedall_spark.schemas import PAIRS, VECTORS, conform, vectors_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from embedall_spark.latent.config import LatentInput
    from embedall_spark.latent.latent_model import Tower
    from embedall_spark.latent.preprocessing import Preparation
    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)


class RightSide(NamedTuple):
    """The right side's vectors, and their pairs with the left side."""

    vectors: DataFrame
    """VECTORS, or id, vector and norm."""
    fitted: DataFrame
    """The vectors that P and Q are fitted to; they differ from ``vectors`` if word vectors are learned."""
    pairs: DataFrame
    """PAIRS."""
    text: TextSide | None = None
    """How words become vectors, if the side is text."""
    alone: DataFrame | None = None
    """id, vector and norm of each word, if the side is text."""
    items: DataFrame | None = None
    """ITEMS, if the side is text."""
    tower: Tower | None = None
    """How texts become vectors, if a text tower makes them."""


def build_text_side(
    run: Run, items: DataFrame, parts: DataFrame, left: DataFrame, source: LatentInput, vectors: DataFrame | None,
    preparation: Preparation, table: str,
) -> RightSide:  # fmt: skip
    """Return the right side made of titles and tags; record figures of their words.

    Args:
        run: receives stages, figures and the table of learned vectors.
        items: ITEMS, each id once.
        parts: from split.split().
        left: VECTORS.
        source: which words, and how many.
        vectors: VECTORS of ``source.words``; None: there is no such table.
        preparation: of the left side.
        table: where learned word vectors are written.

    Raises:
        ConfigError: as fit_text().
        BadData: likewise.
    """
    tokens = run.stage("words", lambda: item_tokens.tokenize_items(items, source.text))
    train = tokens.join(parts.where("part = 'train'").select("id"), "id", "left_semi")
    side = fit_text(train, source, vectors, covariance.side_dimension(left, "the left side"), table)
    vocabulary, composed = text_features.vocabulary(tokens, side.bags), None
    if vectors is None and side.composed is not None:
        vectors, composed = word_vectors.learn(run, tokens, train, left, side.composed, preparation)
        run.write_table(table, vectors_of(vectors, WORDS, run.id, run.model_uri), VECTORS, "Learned vectors of words")
        vocabulary = vocabulary.unionByName(vectors.select("id"))
    usable = vocabulary if vectors is None else vocabulary.unionByName(vectors.select("id")).distinct()
    figures = item_tokens.report(tokens, usable)
    log.info("text: %s", ", ".join(f"{name} {value:,}" for name, value in figures.items()))
    for name, value in figures.items():
        run.metric(f"text/{name}", value)
    right = run.stage("right", lambda: text_vectors(tokens, side, vectors))
    fitted = right
    if composed is not None:
        fitted = run.stage("right_fit", lambda: text_vectors(tokens, side, vectors, composed))
    alone = text_vectors(vocabulary.select("id", F.array("id").alias("tokens")), side, vectors)
    item_pairs = conform(tokens.select(F.col("id").alias("left"), F.col("id").alias("right")), PAIRS)
    return RightSide(right, fitted, item_pairs, side, alone, items)


def fit_text(
    train: DataFrame, source: LatentInput, vectors: DataFrame | None, left_size: int, learned_table: str
) -> TextSide:
    """Return how words become vectors, by statistics of the training items.

    Args:
        train: from item_tokens.tokenize_items(), of the training items.
        source: which words, and how many.
        vectors: VECTORS of ``source.words``, concatenated to the bags; None: there is no such table. Then the words
            beyond the limit of bags are ``composed``, of vectors that word_vectors.fit() learns.
        left_size: dimension of the left side.
        learned_table: the table of learned vectors.

    Raises:
        ConfigError: too many words are left, or the left side's dimension leaves no room for them.
        BadData: no word is left.
    """
    min_items, max_words = source.min_items, source.most_words
    if vectors is not None:
        bags = text_features.fit_bags(train, min_items=min_items, max_words=max_words)
        return TextSide(source.text, bags, text_features.fit_composed(train, vectors), source.words)
    model = text_features.fit_words(train, min_items=min_items, max_words=max_words)
    count, limit = len(model.tokens), covariance.MAX_SIZE
    dense = source.dense_words or (limit if count <= limit else limit - left_size)
    if count <= dense:
        return TextSide(source.text, model, None, None)
    if not 1 <= dense <= limit - left_size:
        raise ConfigError(
            f"{max(dense, 1):,} of {count:,} words and learned vectors of {left_size:,} dimensions do not fit: the "
            f"closed form takes at most {limit:,} dimensions; reduce input.dense_words or the dimension of the left "
            "side, or raise input.min_items"
        )
    log.info("%s words are dimensions, vectors of %s words are learned", f"{dense:,}", f"{count - dense:,}")
    bags, rare = (model._replace(tokens=model.tokens[part], weights=model.weights[part])
                  for part in (slice(dense), slice(dense, None)))  # fmt: skip
    return TextSide(source.text, bags, rare, learned_table)


def text_vectors(
    items: DataFrame, side: TextSide, vectors: DataFrame | None, composed: DataFrame | None = None
) -> DataFrame:
    """Return the vectors of items by their words: id, vector, norm; items without a known word are left out.

    Args:
        items: from item_tokens.tokenize_items().
        side: from fit_text().
        vectors: VECTORS of words, if the side is composed of them: given to fit_text(), or learned.
        composed: used in place of text_features.compose() of these vectors, see word_vectors.learn().
    """
    bags = text_features.bags_of_words(items, side.bags)
    if side.composed is None or vectors is None:
        return bags
    if composed is None:
        composed = text_features.compose(items, vectors, side.composed)
    return pairs.concat_vectors([bags, composed], [UNIT, UNIT])
