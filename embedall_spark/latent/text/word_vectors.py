"""Vectors of words that are too rare to be dimensions, learned from the left vectors of their items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from embedall_spark.latent.fit import covariance
from embedall_spark.latent.preprocessing import prepare
from embedall_spark.latent.text import text_features
from embedall_spark.vectors import in_batches, to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.latent.preprocessing import Preparation
    from embedall_spark.latent.text.text_features import TextModel
    from embedall_spark.run_context import Run

    Batches = Iterable[pa.RecordBatch]
    Float = NDArray[np.float64]

PRIOR = 1.0  # items at the mean that are added to each word's own
_WORDS = "id string, vector array<float>, norm double, count bigint"


def learn(
    run: Run, items: DataFrame, train: DataFrame, left: DataFrame, rare: TextModel, preparation: Preparation
) -> tuple[DataFrame, DataFrame]:
    """Return the vectors of words, and the vectors of all items composed of them to which P and Q are fitted.

    Args:
        run: receives the stage.
        items: from item_tokens.tokenize_items().
        train: the training items among these.
        left: VECTORS.
        rare: the words.
        preparation: of the left side.

    Raises:
        BadData: no training item has a left vector.
        ConfigError: the left vectors have more dimensions than the closed form takes.
    """
    mean = mean_vector(train, left, preparation)
    vectors = run.stage("word_vectors", lambda: fit(train, left, rare, preparation, mean))
    others = text_features.compose(items.join(train.select("id"), "id", "left_anti"), vectors, rare)
    return vectors, leave_one_out(train, vectors, rare, left, preparation, mean).unionByName(others)


def mean_vector(train: DataFrame, left: DataFrame, preparation: Preparation) -> Float:
    """Return the mean of the training items' prepared left vectors, float64 [d].

    Args:
        train: from item_tokens.tokenize_items(), of the training items.
        left: VECTORS.
        preparation: of the left side.

    Raises:
        BadData: no training item has a left vector.
        ConfigError: the left vectors have more dimensions than the closed form takes.
    """
    return covariance.of_vectors(left.join(train.select("id"), "id", "left_semi"), preparation).mean


def fit(train: DataFrame, left: DataFrame, rare: TextModel, preparation: Preparation, mean: Float) -> DataFrame:
    """Return the vectors of words: id, vector, norm and count, the number of training items with a left vector.

    A word's vector is the sum of its items' centered left vectors, divided by their number plus PRIOR: its column of
    Cxy (D + ridge)^-1, with D the diagonal of the words' second moments. It is the ridge regression (Hoerl and Kennard
    1970) of a side whose words are independent of each other, which rare words nearly are. The driver holds none of it;
    a task holds one batch of rows and one word.

    Args:
        train: from item_tokens.tokenize_items(), of the training items.
        left: VECTORS.
        rare: the words.
        preparation: of the left side.
        mean: from mean_vector().
    """
    exploded = train.select("id", F.explode("tokens").alias("token"))
    words = exploded.join(text_features.vocabulary(train, rare).withColumnRenamed("id", "token"), "token")
    rows = words.join(left.select("id", "vector"), "id").select("token", "id", "vector")
    # Frequent words are dimensions, so that no task gets a large share of the rows.
    ordered = rows.repartition("token").sortWithinPartitions("token", "id")
    return ordered.mapInArrow(_averager(preparation, mean), _WORDS)


def leave_one_out(
    train: DataFrame, vectors: DataFrame, rare: TextModel, left: DataFrame, preparation: Preparation, mean: Float
) -> DataFrame:
    """Return what text_features.compose() returns for training items, each as if its words were learned without it.

    The vector of a word of two items is half of each: composed of such words, training items would be nearer to their
    own left vectors than unseen items are, and the fit would trust rare words too much. Because a word's vector is a
    mean, one item is removed exactly (except for its share of ``mean``).

    Args:
        train: from item_tokens.tokenize_items(), of the training items; those without a left vector are left out.
        vectors: from fit().
        rare: the words.
        left: VECTORS.
        preparation: of the left side.
        mean: from mean_vector().
    """
    left_vectors = left.select("id", F.col("vector").alias("left_vector"))
    items = text_features.item_word_vectors(train, vectors, rare).join(left_vectors, "id")
    return items.mapInArrow(_composer(preparation, mean), text_features.COMPOSED)


def _averager(preparation: Preparation, mean: Float) -> Callable[[Batches], Batches]:
    """Build the task's function: means of contiguous rows of equal words."""

    def averages(names: list[str], sums: Float, counts: NDArray[np.int64]) -> pa.RecordBatch:
        means = sums / (counts + PRIOR)[:, None]
        batch = text_features.vector_batch(pa.array(names, pa.string()), means, keep_zeros=True)
        return pa.RecordBatch.from_arrays([*batch.columns, pa.array(counts)], ["id", "vector", "norm", "count"])

    def averager(batches: Batches) -> Iterator[pa.RecordBatch]:
        # The last word of a batch may continue in the next one.
        pending: tuple[str, Float, int] | None = None
        for batch in batches:
            if not batch.num_rows:
                continue
            runs = pc.run_end_encode(batch["token"])
            names, ends = runs.values.to_pylist(), runs.run_ends.to_numpy()
            starts = np.concatenate([[0], ends[:-1]])
            sums = np.add.reduceat(prepare(to_matrix(batch["vector"]), preparation) - mean, starts, axis=0)
            counts = np.diff(ends, prepend=0).astype(np.int64)
            if pending is not None and pending[0] == names[0]:
                sums[0] += pending[1]
                counts[0] += pending[2]
            elif pending is not None:
                yield averages([pending[0]], pending[1][None], np.array([pending[2]]))
            pending = (names[-1], sums[-1], int(counts[-1]))
            yield averages(names[:-1], sums[:-1], counts[:-1])
        if pending is not None:
            yield averages([pending[0]], pending[1][None], np.array([pending[2]]))

    return averager


def _composer(preparation: Preparation, mean: Float) -> Callable[[Batches], Batches]:
    """Build the task's function."""

    def convert(batch: pa.RecordBatch) -> pa.RecordBatch:
        weights, matrix, starts = text_features.word_arrays(batch)
        counts = batch["counts"].flatten().to_numpy()[:, None]
        left = prepare(to_matrix(batch["left_vector"]), preparation) - mean
        item = np.repeat(np.arange(len(left)), np.diff(starts, append=len(weights)))
        # For a word that no other item has, only rounding errors would be left.
        others = np.where(counts > 1, (matrix * (counts + PRIOR) - left[item]) / (counts - 1 + PRIOR), 0.0)
        return text_features.vector_batch(batch["id"], text_features.weighted_means(weights, others, starts, None))

    return in_batches(convert, text_features.BATCH_ROWS)
