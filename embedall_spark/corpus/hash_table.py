"""Compiled hash tables over the bytes of texts: they look up ids of tokens, and count tokens.

A table is an array of slots (int32, a power of two, -1 where free) over tokens that lie one after the other in
``text``; ``offsets`` says where each begins. A lookup waits for memory three times: for the slot, the token's offset
and its bytes. So texts are taken in groups, and each step prefetches for a whole group before any of it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numba import int32, int64, njit, types, uint8, uint64, void

from embedall_spark.numba_intrinsics import prefetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Bytes: TypeAlias = NDArray[np.uint8]
    Ints: TypeAlias = NDArray[np.int32]
    Longs: TypeAlias = NDArray[np.int64]

_GROUP = 32
# Mapped files and Arrow's buffers are read-only; a signature that says so also takes writable arrays.
_BYTES = types.Array(uint8, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)
_INTS = types.Array(int32, 1, "C", readonly=True)
_TWO = types.UniTuple(int64, 2)  # type: ignore[no-untyped-call]

_inlined: Callable[[Callable[..., Any]], Any] = njit(nogil=True, cache=True, inline="always")


@njit(uint64(_BYTES, int64, int64), nogil=True, cache=True, inline="always")
def hash_of(text: Bytes, start: int, stop: int) -> np.uint64:
    """FNV-1a over the bytes, finished as splitmix64 does, since FNV alone leaves the low bits of short keys weak."""
    state = uint64(0xCBF29CE484222325)
    for index in range(start, stop):
        state = (state ^ uint64(text[index])) * uint64(0x100000001B3)
    state = (state ^ (state >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> uint64(27))) * uint64(0x94D049BB133111EB)
    return state ^ (state >> uint64(31))


@_inlined
def _prefetch_group(
    slots: Any, text: Any, offsets: Any, queries: Any, query_offsets: Any, begin: Any, end: Any, first: Any
) -> None:
    """Write into ``first`` the slots at which the lookups of queries ``begin`` to ``end`` start; prefetch for them."""
    mask = uint64(slots.size - 1)
    for index in range(begin, end):
        slot = int64(hash_of(queries, query_offsets[index], query_offsets[index + 1]) & mask)
        first[index - begin] = slot
        prefetch(slots, slot)
    for index in range(end - begin):
        prefetch(offsets, int64(max(slots[first[index]], 0)))
    for index in range(end - begin):
        prefetch(text, offsets[max(slots[first[index]], 0)])


@_inlined
def _same(text: Any, begin: Any, end: Any, other: Any, start: Any, stop: Any) -> Any:
    if end - begin != stop - start:
        return False
    for step in range(stop - start):  # noqa: SIM110 (numba knows no generators)
        if text[begin + step] != other[start + step]:
            return False
    return True


@_inlined
def _slot_of(slots: Any, text: Any, offsets: Any, queries: Any, start: Any, stop: Any, slot: Any) -> Any:
    """Return the slot of a query, or the free one where it belongs; probing starts at ``slot``."""
    mask = int64(slots.size - 1)
    token = slots[slot]
    while token >= 0 and not _same(text, offsets[token], offsets[token + 1], queries, start, stop):
        slot = (slot + 1) & mask
        token = slots[slot]
    return slot


@njit(void(int32[::1], _BYTES, _LONGS), nogil=True, cache=True)
def build(slots: Ints, text: Bytes, offsets: Longs) -> None:
    """Fill a table with the ids of distinct tokens.

    Args:
        slots: int32 [a power of two above the number of tokens], all -1.
        text: uint8, the tokens' bytes one after the other.
        offsets: int64 [tokens + 1], where each token begins in ``text``.
    """
    mask = int64(slots.size - 1)
    for token in range(offsets.size - 1):
        slot = int64(hash_of(text, offsets[token], offsets[token + 1]) & uint64(mask))
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = token


@njit(void(_INTS, _BYTES, _LONGS, _BYTES, _LONGS, int32[::1]), nogil=True, cache=True)
def lookup(slots: Ints, text: Bytes, offsets: Longs, queries: Bytes, query_offsets: Longs, ids: Ints) -> None:
    """Write the id of each queried token into ``ids`` (int32); -1 for one that is not in the table."""
    count = query_offsets.size - 1
    first = np.empty(_GROUP, np.int64)
    for begin in range(0, count, _GROUP):
        end = min(begin + _GROUP, count)
        _prefetch_group(slots, text, offsets, queries, query_offsets, begin, end, first)
        for index in range(begin, end):
            start, stop = query_offsets[index], query_offsets[index + 1]
            ids[index] = slots[_slot_of(slots, text, offsets, queries, start, stop, first[index - begin])]


@njit(
    _TWO(int32[::1], uint8[::1], int64[::1], int64[::1], int64, _BYTES, _LONGS, _LONGS, int64),
    nogil=True,
    cache=True,
)
def count_texts(
    slots: Ints,
    text: Bytes,
    offsets: Longs,
    counts: Longs,
    size: int,
    batch: Bytes,
    batch_offsets: Longs,
    occurrences: Longs,
    first: int,
) -> tuple[int, int]:
    """Count the texts of a batch from index ``first`` on, until all are counted or another token would not fit.

    Args:
        slots: the table; at most half of the slots are taken.
        text: room for the tokens' bytes, uint8.
        offsets: int64, the first ``size`` + 1 of them in use.
        counts: int64, occurrences of each token.
        size: number of distinct tokens so far.
        batch: uint8, the texts one after the other.
        batch_offsets: int64 [texts + 1].
        occurrences: int64 [texts], how often each text counts; [0]: once.
        first: index of the text to go on with.

    Returns:
        The number of distinct tokens, and the index of the text to go on with.
    """
    count, capacity = batch_offsets.size - 1, slots.size // 2
    probes = np.empty(_GROUP, np.int64)
    for begin in range(first, count, _GROUP):
        end = min(begin + _GROUP, count)
        _prefetch_group(slots, text, offsets, batch, batch_offsets, begin, end, probes)
        for index in range(begin, end):
            start, stop = batch_offsets[index], batch_offsets[index + 1]
            slot = _slot_of(slots, text, offsets, batch, start, stop, probes[index - begin])
            token, times = slots[slot], occurrences[index] if occurrences.size else 1
            if token >= 0:
                counts[token] += times
                continue
            offset = offsets[size]
            if size >= capacity or offset + stop - start > text.size:
                return size, index
            for step in range(stop - start):
                text[offset + step] = batch[start + step]
            slots[slot], counts[size], offsets[size + 1] = size, times, offset + stop - start
            size += 1
    return size, count


@njit(void(_BYTES, _LONGS, _LONGS, _LONGS, uint8[::1]), nogil=True, cache=True)
def gather(text: Bytes, offsets: Longs, ids: Longs, out_offsets: Longs, out: Bytes) -> None:
    """Write the bytes of the tokens of ``ids`` one after the other into ``out``, each at its offset."""
    for index in range(ids.size):
        begin = offsets[ids[index]]
        for step in range(out_offsets[index + 1] - out_offsets[index]):
            out[out_offsets[index] + step] = text[begin + step]


@njit(void(_BYTES, _LONGS, _INTS, int64[::1]), nogil=True, cache=True)
def hashes(text: Bytes, offsets: Longs, ids: Ints, out: Longs) -> None:
    """Write the hash of the bytes of each id's token into ``out``."""
    for index in range(ids.size):
        out[index] = int64(hash_of(text, offsets[ids[index]], offsets[ids[index] + 1]))
