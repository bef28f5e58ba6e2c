"""The right side where it is titles and tags: which words are numbers of their own, and which have vectors."""

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
    from embedall_spark.latent.preprocessing import Preparation
    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)


class RightSide(NamedTuple):
    """The right side's vectors, and which belong to which of the left side."""

    vectors: DataFrame
    """VECTORS, or id, vector and norm."""
    fitted: DataFrame
    """Likewise; those that P and Q are fitted to, which differ where words' vectors are learnt."""
    pairs: DataFrame
    """PAIRS."""
    text: TextSide | None = None
    """How words become vectors, where the side is text."""
    alone: DataFrame | None = None
    """Likewise id, vector and norm of each word."""
    items: DataFrame | None = None
    """Likewise ITEMS."""


def build_text_side(
    run: Run, items: DataFrame, parts: DataFrame, left: DataFrame, given: LatentInput, vectors: DataFrame | None,
    how: Preparation, table: str,
) -> RightSide:  # fmt: skip
    """Return the right side of items; figures of their words are recorded.

    Args:
        run: where stages, figures and the table of learnt vectors go.
        items: ITEMS, each id once.
        parts: from split.split().
        left: VECTORS.
        given: which words, and how many.
        vectors: VECTORS of ``given.words``; None: there is no such table.
        how: the left side's preparation.
        table: where words' vectors go that are learnt.

    Raises:
        ConfigError: as fit_text().
        BadData: likewise.
    """
    found = run.stage("words", lambda: item_tokens.tokenize_items(items, given.text))
    train = found.join(parts.where("part = 'train'").select("id"), "id", "left_semi")
    side = fit_text(train, given, vectors, covariance.size(left, "left"), table)
    known, own = text_features.vocabulary(found, side.bags), None
    if vectors is None and side.composed is not None:
        vectors, own = word_vectors.learn(run, found, train, left, side.composed, how)
        run.write_table(table, vectors_of(vectors, WORDS, run.id, run.model_uri), VECTORS, "Vectors of words, learnt")
        known = known.unionByName(vectors.select("id"))
    usable = known if vectors is None else known.unionByName(vectors.select("id")).distinct()
    told = item_tokens.report(found, usable)
    log.info("text: %s", ", ".join(f"{name} {value:,}" for name, value in told.items()))
    for name, value in told.items():
        run.metric(f"text/{name}", value)
    every = run.stage("right", lambda: text_vectors(found, side, vectors))
    fitted = every if own is None else run.stage("right_fit", lambda: text_vectors(found, side, vectors, own))
    alone = text_vectors(known.select("id", F.array("id").alias("tokens")), side, vectors)
    pairs = conform(found.select(F.col("id").alias("left"), F.col("id").alias("right")), PAIRS)
    return RightSide(every, fitted, pairs, side, alone, items)


def fit_text(train: DataFrame, given: LatentInput, vectors: DataFrame | None, size: int, learnt: str) -> TextSide:
    """Return how words become vectors, by statistics of the training items.

    Args:
        train: words.of_items() of the training items.
        given: which words, and how many.
        vectors: VECTORS of ``given.words``, put beside the bags; None: there is no such table. Then the words that are
            too many for bags are ``composed``, of vectors that learned.fit() is to learn.
        size: numbers of a left vector.
        learnt: the table of the vectors that are learnt.

    Raises:
        ConfigError: too many words are left, or the left side's vectors leave no room beside them.
        BadData: none is left.
    """
    least, most = given.min_items, given.most_words
    if vectors is not None:
        bags = text_features.fit_bags(train, min_items=least, most=most)
        return TextSide(given.text, bags, text_features.fit_composed(train, vectors), given.words)
    model, limit = text_features.fit_words(train, min_items=least, most=most), covariance.MAX_SIZE
    count = len(model.tokens)
    dense = given.dense_words or (limit if count <= limit else limit - size)
    if count <= dense:
        return TextSide(given.text, model, None, None)
    if not 1 <= dense <= limit - size:
        raise ConfigError(
            f"{max(dense, 1):,} of {count:,} words beside vectors of {size:,} numbers like the left side's, the closed "
            f"form takes at most {limit:,}: reduce input.dense_words or the left side, or raise input.min_items"
        )
    log.info("%s words are numbers of their own, of %s vectors are learnt", f"{dense:,}", f"{count - dense:,}")
    bags, rest = (model._replace(tokens=model.tokens[some], weights=model.weights[some])
                  for some in (slice(dense), slice(dense, None)))  # fmt: skip
    return TextSide(given.text, bags, rest, learnt)


def text_vectors(
    found: DataFrame, side: TextSide, vectors: DataFrame | None, composed: DataFrame | None = None
) -> DataFrame:
    """Return the vectors of items by their words: id, vector, norm; items of unknown words are left out.

    Args:
        found: words.of_items().
        side: from fit_text().
        vectors: VECTORS of words, where the side has such beside its bags: given to fit_text(), or learnt.
        composed: what takes the place of text.composed() of these, see learned.learn().
    """
    bags = text_features.bags(found, side.bags)
    if side.composed is None or vectors is None:
        return bags
    if composed is None:
        composed = text_features.composed(found, vectors, side.composed)
    return pairs.concat_vectors([bags, composed], [UNIT, UNIT])
