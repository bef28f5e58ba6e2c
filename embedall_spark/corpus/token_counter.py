"""Distinct texts with their counts, nearly all of the counting done before anything is shuffled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.corpus import hash_table
from embedall_spark.corpus.vocabulary_index import bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

# What a task holds at most, 180 MB: so many distinct texts, and so many bytes of them.
_TOKENS, _BYTES = 1 << 22, 1 << 26
_FEWEST_SLOTS = 1 << 12
_ROWS = 1 << 16


def counted(texts: DataFrame) -> DataFrame:
    """Return token string and count bigint: how often each text stands in any column; no column may hold nulls."""
    each = texts.mapInArrow(_tallied, "token string, count bigint")
    return each.groupBy("token").agg(F.sum("count").alias("count"))


def _tallied(batches: Batches) -> Iterator[pa.RecordBatch]:
    tally = Tally(_TOKENS, _BYTES)
    for batch in batches:
        for column in batch.columns:
            yield from tally.add(column)
    yield from tally.flush()


class Tally:
    """Texts and how often each came; when there is no room for another one, it gives all away and begins anew."""

    def __init__(self, tokens: int, size: int) -> None:
        """Make room for so many distinct texts, a power of two, of so many bytes together; memory comes as needed."""
        self._text = np.empty(size, np.uint8)
        self._offsets, self._counts = np.zeros(tokens + 1, np.int64), np.empty(tokens, np.int64)
        self._size, self._slots = 0, self._fewest()

    def add(self, texts: pa.StringArray) -> Iterator[pa.RecordBatch]:
        """Count texts; yield rows (token, count) where the table was full in between."""
        given, ends = bytes_of(texts)
        done = 0
        while True:
            table = (self._slots, self._text, self._offsets, self._counts)
            self._size, done = hash_table.add(*table, self._size, given, ends, done)
            if done == len(texts):
                return
            if self._size == len(self._slots) // 2 and self._size < len(self._counts):
                self._slots = np.full(2 * len(self._slots), -1, np.int32)
                hash_table.build(self._slots, self._text, self._offsets[: self._size + 1])
                continue
            if not self._size:
                # One text is longer than all the room.
                self._text = np.empty(len(given), np.uint8)
            yield from self.flush()

    def flush(self) -> Iterator[pa.RecordBatch]:
        """Yield all as rows (token, count), and forget them."""
        ends = self._offsets[: self._size + 1]
        for start in range(0, self._size, _ROWS):
            stop = min(start + _ROWS, self._size)
            offsets = (ends[start : stop + 1] - ends[start]).astype(np.int32)
            text = pa.py_buffer(self._text[ends[start] : ends[stop]].tobytes())
            tokens = pa.StringArray.from_buffers(stop - start, pa.py_buffer(offsets), text)
            counts = pa.array(self._counts[start:stop].copy())
            yield pa.RecordBatch.from_arrays([tokens, counts], ["token", "count"])
        self._size, self._slots = 0, self._fewest()

    def _fewest(self) -> NDArray[np.int32]:
        return np.full(min(_FEWEST_SLOTS, 2 * len(self._counts)), -1, np.int32)
