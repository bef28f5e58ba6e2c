"""Vectors of words that are too many to be numbers of their own: learnt from the left vectors of their items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from embedall_spark.latent.fit import covariance
from embedall_spark.latent.preprocessing import prepare
from embedall_spark.latent.text import text_features
from embedall_spark.search import exact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.latent.preprocessing import Preparation
    from embedall_spark.latent.text.text_features import TextModel
    from embedall_spark.run_context import Run

    Batches = Iterable[pa.RecordBatch]
    Float = NDArray[np.float64]

PRIOR = 1.0  # items at the mean that each word has beside its own
_WORDS = "id string, vector array<float>, norm double, count bigint"


def learn(
    run: Run, found: DataFrame, train: DataFrame, left: DataFrame, rest: TextModel, how: Preparation
) -> tuple[DataFrame, DataFrame]:
    """Return words' vectors, and what all items are composed of them while P and Q are fitted.

    Args:
        run: where the stage goes.
        found: words.of_items().
        train: of these the training items.
        left: VECTORS.
        rest: the words.
        how: the left side's preparation.

    Raises:
        BadData: no training item has a left vector.
        ConfigError: they are longer than the closed form takes.
    """
    mean = mean_vector(train, left, how)
    vectors = run.stage("word_vectors", lambda: fit(train, left, rest, how, mean))
    others = text_features.composed(found.join(train.select("id"), "id", "left_anti"), vectors, rest)
    return vectors, leave_one_out(train, vectors, rest, left, how, mean).unionByName(others)


def mean_vector(train: DataFrame, left: DataFrame, how: Preparation) -> Float:
    """Return the mean of the training items' prepared left vectors, float64 [d].

    Args:
        train: words.of_items() of the training items.
        left: VECTORS.
        how: the left side's preparation.

    Raises:
        BadData: no training item has a left vector.
        ConfigError: they are longer than the closed form takes.
    """
    return covariance.of_vectors(left.join(train.select("id"), "id", "left_semi"), how).mean


def fit(train: DataFrame, left: DataFrame, rest: TextModel, how: Preparation, mean: Float) -> DataFrame:
    """Return the vectors of words: id, vector, norm and count, its training items that have a left vector.

    A word's vector is the sum of its items' left vectors about their mean, by their number and PRIOR: its column of
    Cxy (D + ridge)^-1, with D the diagonal of the words' second moments. It is the ridge map (Hoerl and Kennard 1970)
    of a side whose words do not depend on each other, which rare words nearly do not. The driver holds none of it; a
    task holds one batch of rows and one word.

    Args:
        train: words.of_items() of the training items.
        left: VECTORS.
        rest: the words.
        how: the left side's preparation.
        mean: from centre().
    """
    exploded = train.select("id", F.explode("tokens").alias("token"))
    known = exploded.join(text_features.vocabulary(train, rest).withColumnRenamed("id", "token"), "token")
    rows = known.join(left.select("id", "vector"), "id").select("token", "id", "vector")
    # Frequent words are numbers of their own, so that no task gets a large share of the rows.
    return rows.repartition("token").sortWithinPartitions("token", "id").mapInArrow(_averager(how, mean), _WORDS)


def leave_one_out(
    train: DataFrame, vectors: DataFrame, rest: TextModel, left: DataFrame, how: Preparation, mean: Float
) -> DataFrame:
    """Return what text.composed() does of training items, each as if its words were learnt without it.

    A word of two items is half of each: composed of such words, training items would be nearer to their own left
    vectors than an item never seen is, and the fit would trust rare words too much. As a word's vector is a mean, one
    item is taken out exactly (but for its share of ``mean``).

    Args:
        train: words.of_items() of the training items; those without a left vector are left out.
        vectors: from fit().
        rest: the words.
        left: VECTORS.
        how: the left side's preparation.
        mean: from centre().
    """
    own = left.select("id", F.col("vector").alias("own"))
    found = text_features.item_word_vectors(train, vectors, rest).join(own, "id")
    return found.mapInArrow(_composer(how, mean), text_features.COMPOSED)


def _averager(how: Preparation, mean: Float) -> Callable[[Batches], Batches]:
    """Build the task's function: means of rows of equal words, which follow each other."""

    def finished(names: list[str], sums: Float, counts: NDArray[np.int64]) -> pa.RecordBatch:
        block = text_features.rows(pa.array(names, pa.string()), sums / (counts + PRIOR)[:, None], keep_zeros=True)
        return pa.RecordBatch.from_arrays([*block.columns, pa.array(counts)], ["id", "vector", "norm", "count"])

    def averager(batches: Batches) -> Iterator[pa.RecordBatch]:
        held: tuple[str, Float, int] | None = None
        for batch in batches:
            if not batch.num_rows:
                continue
            runs = pc.run_end_encode(batch["token"])
            names, ends = runs.values.to_pylist(), runs.run_ends.to_numpy()
            starts = np.concatenate([[0], ends[:-1]])
            sums = np.add.reduceat(prepare(exact.to_matrix(batch["vector"]), how) - mean, starts, axis=0)
            counts = np.diff(ends, prepend=0).astype(np.int64)
            if held is not None and held[0] == names[0]:
                sums[0] += held[1]
                counts[0] += held[2]
            elif held is not None:
                yield finished([held[0]], held[1][None], np.array([held[2]]))
            held = (names[-1], sums[-1], int(counts[-1]))
            yield finished(names[:-1], sums[:-1], counts[:-1])
        if held is not None:
            yield finished([held[0]], held[1][None], np.array([held[2]]))

    return averager


def _composer(how: Preparation, mean: Float) -> Callable[[Batches], Batches]:
    """Build the task's function."""

    def one(batch: pa.RecordBatch) -> pa.RecordBatch:
        weights, matrix, starts = text_features.parts(batch)
        counts = batch["counts"].flatten().to_numpy()[:, None]
        own = prepare(exact.to_matrix(batch["own"]), how) - mean
        item = np.repeat(np.arange(len(own)), np.diff(starts, append=len(weights)))
        # Of a word that no other item has, only rounding would be left.
        others = np.where(counts > 1, (matrix * (counts + PRIOR) - own[item]) / (counts - 1 + PRIOR), 0.0)
        return text_features.rows(batch["id"], text_features.means(weights, others, starts, None))

    return text_features.in_batches(one)
