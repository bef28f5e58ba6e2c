"""Words with n-grams (Bojanowski et al. 2017): the index that a run trains with, and the vectors that come of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import pyarrow as pa

from embedall_spark import vectors as vectors_
from embedall_spark.corpus.ngrams import NO_NGRAMS, NgramIndex
from embedall_spark.train import shard_io

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.corpus.ngrams import Lengths
    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.shard_io import Manifest

_PIECE_ROWS = 200_000
_ROWS = "bucket int, vector array<float>, min_n int, max_n int, buckets int, run_id string"


def open_index(vocabulary: str, config: TrainConfig) -> NgramIndex:
    """Return the n-grams of a vocabulary's words; empty unless the configuration has n-grams."""
    return NgramIndex.open(vocabulary, config.ngrams) if config.max_n else NO_NGRAMS


def compose(inputs: NDArray[np.float32], index: NgramIndex) -> None:
    """Replace each word's row by its vector, the mean of the row and those of its n-grams.

    Args:
        inputs: float32 [V + U, padded length], rows of the words and then of the n-grams; changed.
        index: the words' n-grams.
    """
    _compose(inputs, index.offsets, index.rows)


def table(spark: SparkSession, manifest: Manifest, vocabulary: str, lengths: Lengths, run_id: str) -> DataFrame:
    """Return the vectors of a checkpoint's n-grams, those that occur in some word, as NGRAMS."""
    count = int(manifest["ngrams"])
    pieces = [(first, min(first + _PIECE_ROWS, count)) for first in range(0, count, _PIECE_ROWS)]
    rows = spark.createDataFrame(pieces, "first long, stop long").repartition(max(1, len(pieces)))
    return rows.mapInArrow(_read(manifest, vocabulary, lengths, run_id), _ROWS)


def _read(
    manifest: Manifest, vocabulary: str, lengths: Lengths, run_id: str
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        buckets = NgramIndex.open(vocabulary, lengths).buckets
        path, (words,) = f"{manifest['folder']}/{manifest['inputs'][0]}", manifest["rows"]
        for piece in (row for batch in batches for row in batch.to_pylist()):
            begin, end = words + piece["first"], words + piece["stop"]
            saved = shard_io.read_rows(path, words + len(buckets), int(manifest["lengths"]["inputs"]), begin, end)
            for row, rows in saved:
                numbers = buckets[row - words : row - words + len(rows)]
                yield from _batch(numbers, rows, lengths, run_id).to_batches(4096)

    return read


def _batch(buckets: NDArray[np.int32], rows: NDArray[np.float32], lengths: Lengths, run_id: str) -> pa.Table:
    def repeat(value: Any) -> pa.Array:
        return pa.repeat(pa.scalar(value, pa.int32() if isinstance(value, int) else pa.string()), len(rows))

    columns = {"bucket": pa.array(buckets), "vector": vectors_.to_column(rows)}
    facts = {"min_n": lengths.min_n, "max_n": lengths.max_n, "buckets": lengths.bucket, "run_id": run_id}
    return pa.table({**columns, **{name: repeat(value) for name, value in facts.items()}})


@numba.njit(nogil=True, cache=True)
def _compose(inputs: NDArray[np.float32], offsets: NDArray[np.int64], rows: NDArray[np.int32]) -> None:
    words = len(offsets) - 1
    for word in range(words):
        total = inputs[word]
        for i in range(offsets[word], offsets[word + 1]):
            total += inputs[words + rows[i]]
        total /= np.float32(offsets[word + 1] - offsets[word] + 1)
