"""Counts of distinct texts: each task counts its own, and what is shuffled are these counts in packed rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedall_spark import list_offsets
from embedall_spark.corpus import hash_table, packed_ints
from embedall_spark.corpus.vocabulary_index import string_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.hash_table import Bytes, Ints, Longs, Words

    Batches = Iterable[pa.RecordBatch]

# What a task's table holds, together some 200 MB: distinct texts, and bytes of them.
_MAX_TOKENS, _MAX_BYTES = 3 << 20, 1 << 26
_ROWS = 1 << 16
# A new table has slots for so many.
_FEW = 1 << 12
_ONCE = np.empty(0, np.int64)
_PACKED = "bucket int, tokens binary, lengths binary, counts binary"


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
                if counter.is_full:
                    yield counter.pack()
                counter.add(texts, occurrences)
        yield counter.pack()

    packed = rows.mapInArrow(count_in_task, _PACKED)
    # A text's counts come into one partition, also where adaptive execution merges partitions.
    return packed.repartition("bucket").sortWithinPartitions("bucket").mapInArrow(_merge, "token string, count bigint")


class TokenCounter:
    """Counts of texts, and numbers for the distinct ones in the order of their first occurrence."""

    def __init__(self, tokens: int, size: int) -> None:
        """Reserve room for ``tokens`` distinct texts of ``size`` bytes together; more is made where it is needed."""
        self._text, self._room = np.empty(size, np.uint8), (tokens, size)
        self._offsets, self._counts = np.zeros(tokens + 1, np.int64), np.empty(tokens, np.int64)
        self._size, self._slots = 0, _empty_slots(_FEW)

    @property
    def is_full(self) -> bool:
        """Whether there are as many texts or bytes as room was reserved for."""
        tokens, size = self._room
        return self._size >= tokens or int(self._offsets[self._size]) >= size

    def add(self, texts: pa.StringArray, occurrences: Longs = _ONCE) -> Ints:
        """Count texts, each once or as often as it occurs, and return their numbers, int32 [n]."""
        return self.add_bytes(*string_buffers(texts), occurrences)

    def add_bytes(self, data: Bytes, offsets: Longs, occurrences: Longs) -> Ints:
        """Do what add() does, with the texts' bytes one after the other, and int64 offsets that begin with 0."""
        codes = np.empty(len(offsets) - 1, np.int32)
        done = 0
        while True:
            table = (self._slots, self._text, self._offsets, self._counts)
            self._size, done = hash_table.count_texts(*table, self._size, data, offsets, occurrences, codes, done)
            if done == len(codes):
                return codes
            if self._size == hash_table.capacity(self._slots):
                self._slots = _empty_slots(2 * self._size)
                hash_table.build(self._slots, self._text, self._offsets[: self._size + 1])
            elif self._size == len(self._counts):
                room = np.empty(self._size, np.int64)
                self._counts, self._offsets = np.append(self._counts, room), np.append(self._offsets, room)
            else:
                self._text = np.append(self._text, np.empty(len(self._text) + len(data), np.uint8))

    def totals(self) -> tuple[pa.StringArray, Longs]:
        """Return the distinct texts in the order of their numbers, and how often each occurs, int64 [n]."""
        return _strings(self._text, self._offsets[: self._size + 1]), self._counts[: self._size].copy()

    def pack(self) -> pa.RecordBatch:
        """Return all counts as rows of _PACKED, of each bucket one, and start empty again."""
        ends, buckets = self._offsets[: self._size + 1], np.empty(self._size, np.int32)
        hash_table.buckets(self._text, ends, buckets)
        order = np.argsort(buckets, kind="stable")
        buckets = buckets[order]
        bounds = list_offsets.from_runs(buckets)
        lengths = np.diff(ends)[order]
        offsets = list_offsets.from_lengths(lengths)
        text = np.empty(int(offsets[-1]), np.uint8)
        hash_table.gather(self._text, ends, order, offsets, text)
        columns = [
            pa.array(buckets[bounds[:-1]]),
            packed_ints.binary_array(text, offsets[bounds]),
            packed_ints.binary_array(lengths.astype(np.int32), 4 * bounds),
            packed_ints.binary_array(self._counts[order], 8 * bounds),
        ]
        self._clear()
        return pa.RecordBatch.from_arrays(columns, ["bucket", "tokens", "lengths", "counts"])

    def flush(self) -> Iterator[pa.RecordBatch]:
        """Yield all counts as rows (token, count), and start empty again."""
        for start in range(0, self._size, _ROWS):
            stop = min(start + _ROWS, self._size)
            tokens, counts = _strings(self._text, self._offsets[start : stop + 1]), self._counts[start:stop].copy()
            yield pa.RecordBatch.from_arrays([tokens, pa.array(counts)], ["token", "count"])
        self._clear()

    def _clear(self) -> None:
        self._size, self._slots = 0, _empty_slots(_FEW)


def _merge(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Turn rows of _PACKED, in the order of their buckets, into rows (token, count)."""
    counter, current = TokenCounter(1 << 18, 1 << 22), None
    for batch in batches:
        for row, bucket in enumerate(batch.column("bucket").to_pylist()):
            if bucket != current and counter.is_full:
                yield from counter.flush()
            current = bucket
            text, lengths, counts = (batch.column(name)[row].as_buffer() for name in ("tokens", "lengths", "counts"))
            offsets = list_offsets.from_lengths(np.frombuffer(lengths, np.int32))
            counter.add_bytes(np.frombuffer(text, np.uint8), offsets, np.frombuffer(counts, np.int64))
    yield from counter.flush()


def _strings(text: Bytes, offsets: Longs) -> pa.StringArray:
    data = pa.py_buffer(text[offsets[0] : offsets[-1]].tobytes())
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer((offsets - offsets[0]).astype(np.int32)), data)


def _empty_slots(tokens: int) -> Words:
    return np.zeros(hash_table.slots_size(tokens), np.uint64)
