"""Counts of distinct texts; nearly all of the counting is done before anything is shuffled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.corpus import hash_table
from embedall_spark.corpus.vocabulary_index import string_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

# Limits of a task's table, together 180 MB: distinct texts, and bytes of them.
_MAX_TOKENS, _MAX_BYTES = 1 << 22, 1 << 26
_MIN_SLOTS = 1 << 12
_ROWS = 1 << 16
_ONCE = np.empty(0, np.int64)


def count_texts(texts: DataFrame) -> DataFrame:
    """Return token string and count bigint: the occurrences of each text in all columns, which must not hold nulls."""
    return count(texts, lambda batch: ((column, _ONCE) for column in batch.columns))


def count(
    rows: DataFrame, texts_of: Callable[[pa.RecordBatch], Iterable[tuple[pa.StringArray, NDArray[np.int64]]]]
) -> DataFrame:
    """Return token string and count bigint: how often each text occurs.

    Args:
        rows: any.
        texts_of: returns the texts in a batch of the rows, and how often each occurs there; nothing stands for once.
    """

    def count_in_task(batches: Batches) -> Iterator[pa.RecordBatch]:
        counter = TokenCounter(_MAX_TOKENS, _MAX_BYTES)
        for batch in batches:
            for texts, occurrences in texts_of(batch):
                yield from counter.add(texts, occurrences)
        yield from counter.flush()

    partial_counts = rows.mapInArrow(count_in_task, "token string, count bigint")
    return partial_counts.groupBy("token").agg(F.sum("count").alias("count"))


class TokenCounter:
    """Counts of texts in bounded memory: when the table is full, its counts are yielded and it starts empty again."""

    def __init__(self, tokens: int, size: int) -> None:
        """Reserve room for ``tokens`` distinct texts, a power of two, of ``size`` bytes together."""
        self._text = np.empty(size, np.uint8)
        self._offsets, self._counts = np.zeros(tokens + 1, np.int64), np.empty(tokens, np.int64)
        self._size, self._slots = 0, self._empty_slots()

    def add(self, texts: pa.StringArray, occurrences: NDArray[np.int64] = _ONCE) -> Iterator[pa.RecordBatch]:
        """Count texts, each once or as often as it occurs; yield rows (token, count) whenever the table is full."""
        data, offsets = string_buffers(texts)
        done = 0
        while True:
            table = (self._slots, self._text, self._offsets, self._counts)
            self._size, done = hash_table.count_texts(*table, self._size, data, offsets, occurrences, done)
            if done == len(texts):
                return
            if self._size == len(self._slots) // 2 and self._size < len(self._counts):
                self._slots = np.full(2 * len(self._slots), -1, np.int32)
                hash_table.build(self._slots, self._text, self._offsets[: self._size + 1])
                continue
            if not self._size:
                # One text is longer than the whole buffer.
                self._text = np.empty(len(data), np.uint8)
            yield from self.flush()

    def flush(self) -> Iterator[pa.RecordBatch]:
        """Yield all counts as rows (token, count), and start empty again."""
        ends = self._offsets[: self._size + 1]
        for start in range(0, self._size, _ROWS):
            stop = min(start + _ROWS, self._size)
            offsets = (ends[start : stop + 1] - ends[start]).astype(np.int32)
            text = pa.py_buffer(self._text[ends[start] : ends[stop]].tobytes())
            tokens = pa.StringArray.from_buffers(stop - start, pa.py_buffer(offsets), text)
            counts = pa.array(self._counts[start:stop].copy())
            yield pa.RecordBatch.from_arrays([tokens, counts], ["token", "count"])
        self._size, self._slots = 0, self._empty_slots()

    def _empty_slots(self) -> NDArray[np.int32]:
        return np.full(min(_MIN_SLOTS, 2 * len(self._counts)), -1, np.int32)
