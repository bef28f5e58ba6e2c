"""Hash tables over the bytes of texts, compiled: tokens to their numbers, and tokens counted.

A table is an array of slots (int32, a power of two, -1 where free) over tokens that lie one after the other in
``text``; ``offsets`` says where each begins. A search waits for memory three times: for the slot, the token's place and
its bytes. So texts are taken in groups, and memory is asked for each step of a whole group before any of it is used.
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
    for at in range(start, stop):
        state = (state ^ uint64(text[at])) * uint64(0x100000001B3)
    state = (state ^ (state >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> uint64(27))) * uint64(0x94D049BB133111EB)
    return state ^ (state >> uint64(31))


@_inlined
def _ahead(
    slots: Any, text: Any, offsets: Any, asked: Any, asked_offsets: Any, begin: Any, end: Any, first: Any
) -> None:
    """Write into ``first`` at which slots the searches for asked texts ``begin`` to ``end`` start; bring them near."""
    mask = uint64(slots.size - 1)
    for at in range(begin, end):
        slot = int64(hash_of(asked, asked_offsets[at], asked_offsets[at + 1]) & mask)
        first[at - begin] = slot
        prefetch(slots, slot)
    for at in range(end - begin):
        prefetch(offsets, int64(max(slots[first[at]], 0)))
    for at in range(end - begin):
        prefetch(text, offsets[max(slots[first[at]], 0)])


@_inlined
def _same(text: Any, begin: Any, end: Any, other: Any, start: Any, stop: Any) -> Any:
    if end - begin != stop - start:
        return False
    for step in range(stop - start):  # noqa: SIM110 (numba knows no generators)
        if text[begin + step] != other[start + step]:
            return False
    return True


@_inlined
def _place(slots: Any, text: Any, offsets: Any, asked: Any, start: Any, stop: Any, slot: Any) -> Any:
    """Return the slot of an asked text, or the free one where it belongs; the search begins at ``slot``."""
    mask = int64(slots.size - 1)
    token = slots[slot]
    while token >= 0 and not _same(text, offsets[token], offsets[token + 1], asked, start, stop):
        slot = (slot + 1) & mask
        token = slots[slot]
    return slot


@njit(void(int32[::1], _BYTES, _LONGS), nogil=True, cache=True)
def build(slots: Ints, text: Bytes, offsets: Longs) -> None:
    """Fill a table with the numbers of distinct tokens.

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
def find(slots: Ints, text: Bytes, offsets: Longs, asked: Bytes, asked_offsets: Longs, found: Ints) -> None:
    """Write into ``found`` (int32) the number of each asked token, -1 for one that is not in the table."""
    count = asked_offsets.size - 1
    first = np.empty(_GROUP, np.int64)
    for begin in range(0, count, _GROUP):
        end = min(begin + _GROUP, count)
        _ahead(slots, text, offsets, asked, asked_offsets, begin, end, first)
        for at in range(begin, end):
            slot = _place(slots, text, offsets, asked, asked_offsets[at], asked_offsets[at + 1], first[at - begin])
            found[at] = slots[slot]


@njit(
    _TWO(int32[::1], uint8[::1], int64[::1], int64[::1], int64, _BYTES, _LONGS, int64),
    nogil=True,
    cache=True,
)
def add(
    slots: Ints, text: Bytes, offsets: Longs, counts: Longs, size: int, given: Bytes, given_offsets: Longs, since: int
) -> tuple[int, int]:
    """Count texts from number ``since`` on, until all are counted or there is no room for one more token.

    Args:
        slots: the table.
        text: room for the tokens' bytes.
        offsets: int64, ``size`` + 1 of them used.
        counts: int64, how often each token came.
        size: how many tokens there are; at most half as many as slots are taken.
        given: uint8, the texts one after the other.
        given_offsets: int64 [texts + 1].
        since: where to go on.

    Returns:
        How many tokens there are now, and how many texts have been counted.
    """
    count, most = given_offsets.size - 1, slots.size // 2
    first = np.empty(_GROUP, np.int64)
    for begin in range(since, count, _GROUP):
        end = min(begin + _GROUP, count)
        _ahead(slots, text, offsets, given, given_offsets, begin, end, first)
        for at in range(begin, end):
            start, stop = given_offsets[at], given_offsets[at + 1]
            slot = _place(slots, text, offsets, given, start, stop, first[at - begin])
            token = slots[slot]
            if token >= 0:
                counts[token] += 1
                continue
            place = offsets[size]
            if size >= most or place + stop - start > text.size:
                return size, at
            for step in range(stop - start):
                text[place + step] = given[start + step]
            slots[slot], counts[size], offsets[size + 1] = size, 1, place + stop - start
            size += 1
    return size, count


@njit(void(_BYTES, _LONGS, _LONGS, _LONGS, uint8[::1]), nogil=True, cache=True)
def gather(text: Bytes, offsets: Longs, ids: Longs, out_offsets: Longs, out: Bytes) -> None:
    """Write the bytes of the tokens of ``ids`` one after the other into ``out``, each at its place."""
    for at in range(ids.size):
        begin = offsets[ids[at]]
        for step in range(out_offsets[at + 1] - out_offsets[at]):
            out[out_offsets[at] + step] = text[begin + step]
