"""Titles and words suggested for rows of a latent space, one row or a whole table, as Spark jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from embedall_spark.errors import ConfigError
from embedall_spark.schemas import SUGGESTIONS, conform
from embedall_spark.vectors import in_batches, to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pyspark.sql import DataFrame

    from embedall_spark.latent.latent_model import WordDecoder

    Batches = Iterable[pa.RecordBatch]

TITLE, WORD = "title", "word"
REACH = 10  # candidate rows per title: items of the same title may have other tags
MAX_COOCCURRING = 100_000  # words whose counts come to the driver
TOO_MANY_WORDS = f"--prefix: more than {MAX_COOCCURRING:,} words share a title with its words; begin with a rarer word"
_MAX_PREFIX_WORDS = 50  # words of a prefix that are counted
_MATRIX_BYTES = 64 << 20  # the decoder, which is sent to every task
_CELLS = 1 << 21  # shares of a batch, in float64
_MIN_SHARE = 1e-4
_LIFT_POWER, _SMOOTHING = 0.35, 1.0  # chosen on validation products, see benchmarks/latent_measures.py


class CooccurrenceCounts(NamedTuple):
    """Number of titles that contain a word, and a word together with each word of a prefix."""

    titles: int
    """Number of titles."""
    items: dict[str, int]
    """Titles that contain each word; only words that share a title with a word of the prefix are here."""
    together: dict[str, list[int]]
    """Titles that contain the word and each word of the prefix, in the prefix's order."""


def candidates(rows: DataFrame, titled: DataFrame) -> DataFrame:
    """Return the rows whose titles may be suggested: id, vector and title.

    Of rows with the same title and vector two are kept: if one is the query's own, the other still has the title.

    Args:
        rows: VECTORS of the latent space.
        titled: id and title.
    """
    titles_by_id = titled.where("title IS NOT NULL").groupBy("id").agg(F.min("title").alias("title"))
    same = Window.partitionBy("title", F.xxhash64("vector")).orderBy("id")
    numbered = rows.select("id", "vector").join(titles_by_id, "id").withColumn("place", F.row_number().over(same))
    return numbered.where("place <= 2").select("id", "vector", "title")


def titles(hits: DataFrame, titled: DataFrame, n: int) -> DataFrame:
    """Return the first ``n`` different titles of each query, as SUGGESTIONS; fewer if the hits have fewer.

    Args:
        hits: NEIGHBORS among the candidates, ``n * REACH`` of each query.
        titled: from candidates().
        n: titles per query.
    """
    hit_titles = hits.join(titled.select("id", "title"), "id")
    best = hit_titles.groupBy("query", "title").agg(F.min("rank").alias("place"), F.max("score").alias("score"))
    rank = F.row_number().over(Window.partitionBy("query").orderBy("place"))
    ranked = best.withColumn("rank", rank).where(F.col("rank") <= n).withColumn("kind", F.lit(TITLE))
    return conform(ranked.withColumnsRenamed({"query": "id", "title": "text"}), SUGGESTIONS)


def words(rows: DataFrame, decoder: WordDecoder, tokens: Sequence[str], n: int) -> DataFrame:
    """Return the ``n`` likeliest words of each row, as SUGGESTIONS.

    Args:
        rows: id, vector and norm of the latent space.
        decoder: of its model.
        tokens: the words, in the order of the decoder.
        n: words per row.

    Raises:
        ConfigError: the decoder is too large to be sent to the tasks.
    """
    if decoder.matrix.nbytes > _MATRIX_BYTES:
        raise ConfigError(
            f"the decoder of {len(tokens):,} words has {decoder.matrix.nbytes >> 20} MiB, and at most "
            f"{_MATRIX_BYTES >> 20} MiB are sent to a task; fit with a smaller input.most_words or k"
        )
    task = _decode(decoder, pa.array(tokens, pa.string()), n)
    suggestions = rows.select("id", "vector", "norm").mapInArrow(task, "id string, rank int, text string, score float")
    return conform(suggestions.withColumn("kind", F.lit(WORD)), SUGGESTIONS)


def cooccurrence_counts(items: DataFrame, prefix: Sequence[str]) -> CooccurrenceCounts:
    """Return the counts of the words that share a title with a word of a prefix.

    Args:
        items: tokens of each title, as item_tokens.tokenize_items() returns them.
        prefix: the words of the prefix.

    Raises:
        ConfigError: the prefix has more words, or more words share a title with them, than can be counted at once.
    """
    check_prefix(prefix)
    sharing = items.where(F.arrays_overlap("tokens", F.array(*map(F.lit, prefix))))
    cooccurring = sharing.select("tokens", F.explode("tokens").alias("token")).select("token").distinct()
    counts = [F.count_if(F.array_contains("tokens", word)) for word in prefix]
    occurrences = items.select("tokens", F.explode("tokens").alias("token")).join(cooccurring, "token", "left_semi")
    counted = occurrences.groupBy("token").agg(F.count("*").alias("items"), F.array(*counts).alias("together"))
    table = counted.limit(MAX_COOCCURRING + 1).toArrow()
    if len(table) > MAX_COOCCURRING:
        raise ConfigError(TOO_MANY_WORDS)
    tokens, titles, together = (column.to_pylist() for column in table.columns)
    by_token = dict(zip(tokens, titles, strict=True))
    return CooccurrenceCounts(items.count(), by_token, dict(zip(tokens, together, strict=True)))


def check_prefix(prefix: Sequence[str]) -> None:
    """Raise ConfigError if a prefix has more words than can be counted."""
    if len(prefix) > _MAX_PREFIX_WORDS:
        raise ConfigError(f"--prefix: {len(prefix):,} words, and at most {_MAX_PREFIX_WORDS:,} can be counted")


def rerank_by_prefix(
    shares: Sequence[tuple[str, float]], prefix: Sequence[str], counts: CooccurrenceCounts
) -> list[tuple[str, float]]:
    """Return words ranked by the picture and by the prefix of a title, the likeliest first.

    A word's share is multiplied, for each of the g prefix words, by the lift to the power .35 / sqrt(g): how many times
    more often the two share a title than they would by chance (pointwise mutual information, Church and Hanks 1990, as
    a factor), with smoothed counts.

    Args:
        shares: as LatentModel.suggest_words() returns them.
        prefix: the words of the prefix.
        counts: as cooccurrence_counts() returns them for the prefix.
    """
    counted = [(index, counts.items[word]) for index, word in enumerate(prefix) if word in counts.items]
    power, ranked = _LIFT_POWER / max(1, len(counted)) ** 0.5, []
    for word, share in shares:
        # A word that shares no title with a prefix word gets the same penalty, however rare it is.
        chance = counts.items.get(word, 1) / max(1, counts.titles)
        score = max(share, _MIN_SHARE)
        for index, titles in counted:
            together = counts.together[word][index] if word in counts.together else 0
            score *= ((together + _SMOOTHING * chance) / ((titles + _SMOOTHING) * chance)) ** power
        ranked.append((word, score))
    return sorted(ranked, key=lambda hit: -hit[1])


def _decode(decoder: WordDecoder, tokens: pa.Array, n: int) -> Callable[[Batches], Batches]:
    """Build the task's function."""
    n = min(n, len(tokens))

    def convert(batch: pa.RecordBatch) -> pa.RecordBatch:
        shares = decoder.shares(to_matrix(batch["vector"]), batch["norm"].to_numpy())
        # Equal shares are in the order of the words.
        order = np.argsort(-shares.astype(np.float32), axis=1, kind="stable")[:, :n]
        rank = np.tile(np.arange(1, n + 1, dtype=np.int32), len(shares))
        scores = np.take_along_axis(shares, order, axis=1).astype(np.float32)
        ids = batch["id"].take(pa.array(np.repeat(np.arange(len(shares)), n)))
        columns = [ids, pa.array(rank), tokens.take(pa.array(order.ravel())), pa.array(scores.ravel())]
        return pa.RecordBatch.from_arrays(columns, ["id", "rank", "text", "score"])

    return in_batches(convert, max(1, _CELLS // len(tokens)))
