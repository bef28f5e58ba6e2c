"""Titles and words suggested for rows of a latent space: one row or a whole table of them, as Spark jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from embedall_spark.errors import ConfigError
from embedall_spark.latent.latent_model import shares
from embedall_spark.latent.text.text_features import in_batches
from embedall_spark.schemas import SUGGESTIONS, conform
from embedall_spark.search import exact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pyspark.sql import DataFrame

    from embedall_spark.latent.latent_model import Guessing

    Batches = Iterable[pa.RecordBatch]

TITLE, WORD = "title", "word"
REACH = 10  # rows looked at for each title: items of the same title may have other tags
MAX_BESIDE = 100_000  # words whose counts come to the driver
_MOST_GIVEN = 50  # words of a beginning that are counted
_MATRIX_BYTES = 64 << 20  # of what travels to the tasks
_CELLS = 1 << 21  # guesses held at once, in float64
_LEAST = 1e-4  # of a share
_LIFT, _SEEN = 0.35, 1.0  # chosen on validation products, see benchmarks/latent_measures.py


class CooccurrenceCounts(NamedTuple):
    """In how many titles words stand that stand in one with one of some given words."""

    titles: int
    """How many there are."""
    items: dict[str, int]
    """In how many each of these words stands."""
    beside: dict[str, list[int]]
    """In how many together with each of the given words."""


def candidates(rows: DataFrame, titled: DataFrame) -> DataFrame:
    """Return the rows whose titles may be suggested: id, vector and title.

    Of those of the same title and vector two stay: where one of them is the row's own, the other has the title too.

    Args:
        rows: VECTORS of the latent space.
        titled: id and title.
    """
    one = titled.where("title IS NOT NULL").groupBy("id").agg(F.min("title").alias("title"))
    same = Window.partitionBy("title", F.xxhash64("vector")).orderBy("id")
    both = rows.select("id", "vector").join(one, "id").withColumn("place", F.row_number().over(same))
    return both.where("place <= 2").select("id", "vector", "title")


def titles(found: DataFrame, among: DataFrame, n: int) -> DataFrame:
    """Return the first ``n`` different titles of each query, as SUGGESTIONS; fewer where fewer were found.

    Args:
        found: NEIGHBOURS among the candidates, ``n * REACH`` of each query.
        among: candidates().
        n: how many.
    """
    called = found.join(among.select("id", "title"), "id")
    best = called.groupBy("query", "title").agg(F.min("rank").alias("place"), F.max("score").alias("score"))
    rank = F.row_number().over(Window.partitionBy("query").orderBy("place"))
    ranked = best.withColumn("rank", rank).where(F.col("rank") <= n).withColumn("kind", F.lit(TITLE))
    return conform(ranked.withColumnsRenamed({"query": "id", "title": "text"}), SUGGESTIONS)


def words(rows: DataFrame, guessing: Guessing, tokens: Sequence[str], n: int) -> DataFrame:
    """Return the ``n`` likeliest words of each row, as SUGGESTIONS.

    Args:
        rows: id, vector and norm of the latent space.
        guessing: of its model.
        tokens: the words, in the order of the decoder.
        n: how many.

    Raises:
        ConfigError: what guesses words is too large to travel to the tasks.
    """
    if guessing.decoder.nbytes > _MATRIX_BYTES:
        raise ConfigError(
            f"{len(tokens):,} words take {guessing.decoder.nbytes >> 20} MiB, at most {_MATRIX_BYTES >> 20} MiB travel "
            "to the tasks; fit with a smaller input.most_words or k"
        )
    task = _guesser(guessing, pa.array(tokens, pa.string()), n)
    found = rows.select("id", "vector", "norm").mapInArrow(task, "id string, rank int, text string, score float")
    return conform(found.withColumn("kind", F.lit(WORD)), SUGGESTIONS)


def cooccurrence_counts(found: DataFrame, given: Sequence[str]) -> CooccurrenceCounts:
    """Count words that stand in titles beside words that are given.

    Args:
        found: tokens of each title, as latent.text.item_tokens.tokenize_items() gives them.
        given: a few words.

    Raises:
        ConfigError: more words are given, or stand beside them, than can be counted at once.
    """
    if len(given) > _MOST_GIVEN:
        raise ConfigError(f"--prefix: {len(given):,} words, at most {_MOST_GIVEN:,} can be counted")
    some = found.where(F.arrays_overlap("tokens", F.array(*map(F.lit, given))))
    each = some.select("tokens", F.explode("tokens").alias("token")).select("token").distinct()
    counts = [F.count_if(F.array_contains("tokens", word)) for word in given]
    every = found.select("tokens", F.explode("tokens").alias("token")).join(each, "token", "left_semi")
    counted = every.groupBy("token").agg(F.count("*").alias("items"), F.array(*counts).alias("beside"))
    table = counted.limit(MAX_BESIDE + 1).toArrow()
    if len(table) > MAX_BESIDE:
        raise ConfigError(f"--prefix: over {MAX_BESIDE:,} words stand beside it in titles; begin with a rarer word")
    tokens, items, beside = (column.to_pylist() for column in table.columns)
    return CooccurrenceCounts(
        found.count(), dict(zip(tokens, items, strict=True)), dict(zip(tokens, beside, strict=True))
    )


def rerank_by_prefix(
    guess: Sequence[tuple[str, float]], given: Sequence[str], counts: CooccurrenceCounts
) -> list[tuple[str, float]]:
    """Return words ranked by the picture and by the words that a title begins with, the likeliest first.

    A word's guessed share is multiplied, for each of the g given words, by the lift to the power .35 / sqrt(g): how
    many times more often the two stand in a title together than they would by chance (pointwise mutual information,
    Church and Hanks 1990, as a factor), with a little added to the counts.

    Args:
        guess: as LatentModel.guess() returns it.
        given: the words that are there.
        counts: as beside() returns it for them.
    """
    known = [(at, counts.items[word]) for at, word in enumerate(given) if word in counts.items]
    power, ranked = _LIFT / max(1, len(known)) ** 0.5, []
    for word, share in guess:
        # What stands beside none of them is less likely by the same factor, however rare it is.
        chance = counts.items.get(word, 1) / max(1, counts.titles)
        score = max(share, _LEAST)
        for at, items in known:
            together = counts.beside[word][at] if word in counts.beside else 0
            score *= ((together + _SEEN * chance) / ((items + _SEEN) * chance)) ** power
        ranked.append((word, score))
    return sorted(ranked, key=lambda pair: -pair[1])


def _guesser(guessing: Guessing, tokens: pa.Array, n: int) -> Callable[[Batches], Batches]:
    """Build the task's function."""
    step, n = max(1, _CELLS // len(tokens)), min(n, len(tokens))

    def one(batch: pa.RecordBatch) -> pa.RecordBatch:
        found = shares(exact.to_matrix(batch["vector"]), batch["norm"].to_numpy(), *guessing)
        # Equal ones in the order of the words.
        order = np.argsort(-found.astype(np.float32), axis=1, kind="stable")[:, :n]
        rank = np.tile(np.arange(1, n + 1, dtype=np.int32), len(found))
        scores = np.take_along_axis(found, order, axis=1).astype(np.float32)
        ids = batch["id"].take(pa.array(np.repeat(np.arange(len(found)), n)))
        columns = [ids, pa.array(rank), tokens.take(pa.array(order.ravel())), pa.array(scores.ravel())]
        return pa.RecordBatch.from_arrays(columns, ["id", "rank", "text", "score"])

    return in_batches(one, step)
