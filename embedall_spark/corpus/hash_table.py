"""Compiled hash tables over the bytes of texts: they look up ids of tokens, and count tokens.

A table is an array of slots over tokens that lie one after the other in ``text``; ``offsets`` says where each begins. A
slot is two uint64: a key, and the token's length (high half) and number plus 1 (low half), 0 where it is free. The key
of up to eight bytes is those bytes, so that most tokens are compared without a look at ``text``; that of a longer one
is a hash. Slots are taken at random from memory: a group's are prefetched before the first of them is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numba import int32, int64, njit, types, uint8, uint64, void

from embedall_spark.numba_intrinsics import load_word, prefetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Bytes: TypeAlias = NDArray[np.uint8]
    Ints: TypeAlias = NDArray[np.int32]
    Longs: TypeAlias = NDArray[np.int64]
    Words: TypeAlias = NDArray[np.uint64]

_GROUP = 32
_MIN_SIZE = 8
BUCKETS = 1 << 8
"""Parts into which tokens are divided by their hash."""
# Mapped files and Arrow's buffers are read-only; a signature that says so also takes writable arrays.
_BYTES = types.Array(uint8, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)
_INTS = types.Array(int32, 1, "C", readonly=True)
_WORDS = types.Array(uint64, 1, "C", readonly=True)
_TWO = types.UniTuple(int64, 2)  # type: ignore[no-untyped-call]

_inlined: Callable[[Callable[..., Any]], Any] = njit(nogil=True, cache=True, inline="always")


@njit(uint64(_BYTES, int64, int64), nogil=True, cache=True)
def hash_of(text: Bytes, start: int, stop: int) -> np.uint64:
    """FNV-1a over the bytes, finished as splitmix64 does, since FNV alone leaves the low bits of short texts weak."""
    state = uint64(0xCBF29CE484222325)
    for index in range(start, stop):
        state = (state ^ uint64(text[index])) * uint64(0x100000001B3)
    state = (state ^ (state >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> uint64(27))) * uint64(0x94D049BB133111EB)
    return state ^ (state >> uint64(31))


@njit(int64(_WORDS), nogil=True, cache=True)
def capacity(slots: Words) -> int:
    """Return how many tokens a table takes: three quarters of its slots."""
    return slots.size // 8 * 3


def slots_size(tokens: int) -> int:
    """Return the size of the array of slots for so many tokens: twice a power of two."""
    return max(_MIN_SIZE, 2 << (tokens * 4 // 3).bit_length())


@_inlined
def key_of(text: Any, start: Any, stop: Any) -> Any:
    """Return the key of a text, uint64."""
    if stop - start <= 8:
        return load_word(text, start, stop)
    state = uint64(stop - start)
    while start < stop:
        state = (state ^ load_word(text, start, stop)) * uint64(0x9E3779B97F4A7C15)
        state ^= state >> uint64(32)
        start += 8
    return state


@_inlined
def _mixed(key: Any, length: Any) -> Any:
    state = (key ^ (uint64(length) << uint64(56))) * uint64(0xBF58476D1CE4E5B9)
    return (state ^ (state >> uint64(32))) * uint64(0x94D049BB133111EB)


@_inlined
def first_slot(slots: Any, key: Any, length: Any) -> Any:
    """Return where the search for a text begins."""
    return int64((_mixed(key, length) >> uint64(24)) & uint64(slots.size // 2 - 1))


@_inlined
def _next_slot(slots: Any, slot: Any) -> Any:
    return (slot + 1) & int64(slots.size // 2 - 1)


@_inlined
def _number(slots: Any, slot: Any) -> Any:
    """Return the number of a slot's token, -1 for a free slot."""
    return int64(slots[2 * slot + 1] & uint64(0xFFFFFFFF)) - 1


@_inlined
def _take(slots: Any, slot: Any, key: Any, length: Any, number: Any) -> None:
    slots[2 * slot], slots[2 * slot + 1] = key, (uint64(length) << uint64(32)) | uint64(number + 1)


@_inlined
def _prefetch_group(slots: Any, queries: Any, query_offsets: Any, begin: Any, end: Any, keys: Any, first: Any) -> None:
    """Write the keys of queries ``begin`` to ``end`` and where to begin to search for them; prefetch those slots."""
    for index in range(begin, end):
        start, stop = query_offsets[index], query_offsets[index + 1]
        key = key_of(queries, start, stop)
        slot = first_slot(slots, key, stop - start)
        keys[index - begin], first[index - begin] = key, slot
        prefetch(slots, 2 * slot)


@_inlined
def _same(text: Any, begin: Any, end: Any, other: Any, start: Any, stop: Any) -> Any:
    while begin < end and load_word(text, begin, end) == load_word(other, start, stop):
        begin, start = begin + 8, start + 8
    return begin >= end


@_inlined
def _slot_of(slots: Any, text: Any, offsets: Any, queries: Any, start: Any, stop: Any, key: Any, slot: Any) -> Any:
    """Return the slot of a query, or the free one where it belongs; the search begins at ``slot``."""
    length = uint64(stop - start)
    while True:
        number = _number(slots, slot)
        if number < 0:
            return slot
        if (
            slots[2 * slot] == key
            and slots[2 * slot + 1] >> uint64(32) == length
            and (length <= 8 or _same(text, offsets[number], offsets[number + 1], queries, start, stop))
        ):
            return slot
        slot = _next_slot(slots, slot)


@njit(void(uint64[::1], _BYTES, _LONGS), nogil=True, cache=True)
def build(slots: Words, text: Bytes, offsets: Longs) -> None:
    """Fill a table with the ids of distinct tokens.

    Args:
        slots: uint64 [slots_size(tokens)], all 0.
        text: uint8, the tokens' bytes one after the other.
        offsets: int64 [tokens + 1], where each token begins in ``text``.
    """
    for token in range(offsets.size - 1):
        length = offsets[token + 1] - offsets[token]
        key = key_of(text, offsets[token], offsets[token + 1])
        slot = first_slot(slots, key, length)
        while _number(slots, slot) >= 0:
            slot = _next_slot(slots, slot)
        _take(slots, slot, key, length, token)


@njit(void(_WORDS, _BYTES, _LONGS, _BYTES, _LONGS, int32[::1]), nogil=True, cache=True)
def lookup(slots: Words, text: Bytes, offsets: Longs, queries: Bytes, query_offsets: Longs, ids: Ints) -> None:
    """Write the id of each queried token into ``ids`` (int32); -1 for one that is not in the table."""
    count = query_offsets.size - 1
    keys, first = np.empty(_GROUP, np.uint64), np.empty(_GROUP, np.int64)
    for begin in range(0, count, _GROUP):
        end = min(begin + _GROUP, count)
        _prefetch_group(slots, queries, query_offsets, begin, end, keys, first)
        for index in range(begin, end):
            place, start, stop = index - begin, query_offsets[index], query_offsets[index + 1]
            slot = _slot_of(slots, text, offsets, queries, start, stop, keys[place], first[place])
            ids[index] = _number(slots, slot)


@njit(
    _TWO(uint64[::1], uint8[::1], int64[::1], int64[::1], int64, _BYTES, _LONGS, _LONGS, int32[::1], int64),
    nogil=True,
    cache=True,
)
def count_texts(
    slots: Words,
    text: Bytes,
    offsets: Longs,
    counts: Longs,
    size: int,
    batch: Bytes,
    batch_offsets: Longs,
    occurrences: Longs,
    codes: Ints,
    first: int,
) -> tuple[int, int]:
    """Count the texts of a batch from index ``first`` on, until all are counted or another token would not fit.

    Tokens are numbered in the order of their first occurrence.

    Args:
        slots: the table; at most three quarters of the slots are taken.
        text: room for the tokens' bytes, uint8.
        offsets: int64, the first ``size`` + 1 of them in use.
        counts: int64, occurrences of each token; a table has room for as many tokens as this at most.
        size: number of distinct tokens so far.
        batch: uint8, the texts one after the other.
        batch_offsets: int64 [texts + 1].
        occurrences: int64 [texts], how often each text counts; [0]: once.
        codes: receives the number of each text's token, int32 [texts].
        first: index of the text to go on with.

    Returns:
        The number of distinct tokens, and the index of the text to go on with.
    """
    count, most = batch_offsets.size - 1, min(capacity(slots), counts.size)
    keys, places = np.empty(_GROUP, np.uint64), np.empty(_GROUP, np.int64)
    for begin in range(first, count, _GROUP):
        end = min(begin + _GROUP, count)
        _prefetch_group(slots, batch, batch_offsets, begin, end, keys, places)
        for index in range(begin, end):
            place, start, stop = index - begin, batch_offsets[index], batch_offsets[index + 1]
            slot = _slot_of(slots, text, offsets, batch, start, stop, keys[place], places[place])
            token = _number(slots, slot)
            if token < 0:
                offset = offsets[size]
                if size >= most or offset + stop - start > text.size:
                    return size, index
                for step in range(stop - start):
                    text[offset + step] = batch[start + step]
                token = size
                _take(slots, slot, keys[place], stop - start, token)
                counts[token], offsets[token + 1] = 0, offset + stop - start
                size += 1
            counts[token] += occurrences[index] if occurrences.size else 1
            codes[index] = token
    return size, count


@njit(void(_BYTES, _LONGS, int32[::1]), nogil=True, cache=True)
def buckets(text: Bytes, offsets: Longs, out: Ints) -> None:
    """Write which of BUCKETS each token belongs to; its place in a table does not depend on that."""
    for token in range(out.size):
        start, stop = offsets[token], offsets[token + 1]
        out[token] = int32(_mixed(key_of(text, start, stop), stop - start) >> uint64(56))


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
