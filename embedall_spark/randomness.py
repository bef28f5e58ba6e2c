"""Every random choice is a counter-based hash of (seed, keys), so that reruns and repartitioning change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(*keys: int) -> int:
    """Return a 64-bit hash of integers (splitmix64 over each key in turn; Steele et al. 2014, "Fast splittable...")."""
    state = 0
    for key in keys:
        state = _finalise((state + _GOLDEN + (key & _MASK)) & _MASK)
    return state


def mix_arrays(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return mix() of each row of equally long int64 arrays, as int64 (the same 64 bits, read as signed)."""
    state = np.zeros(len(keys[0]), np.uint64)
    for key in keys:
        value = state + np.uint64(_GOLDEN) + key.view(np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = value ^ (value >> np.uint64(31))
    return state.view(np.int64)


def generator(*keys: int) -> np.random.Generator:
    """Return a numpy generator that depends on the keys alone."""
    return np.random.Generator(np.random.PCG64(mix(*keys)))


def permutation(count: int, *keys: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(count)``, int64, that depends on ``count`` and the keys alone."""
    return generator(*keys).permutation(count)


def permuted_items(places: NDArray[np.int64], count: int, *keys: int) -> NDArray[np.int64]:
    """Return which of ``range(count)`` stands at each place of a permutation that depends on the keys alone, int64.

    A Feistel network of four rounds over the next power of four, walked until it falls in the range (Black and Rogaway
    2002, "Ciphers with Arbitrary Finite Domains", section 3): no table, whatever ``count`` is.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    rounds = [np.int64(np.uint64(mix(*keys, number)).view(np.int64)) for number in range(4)]
    found = places.astype(np.uint64)
    todo = np.arange(len(found))
    while len(todo):
        left, right = found[todo] >> half, found[todo] & low
        for key in rounds:
            turned = mix_arrays(right.view(np.int64), np.broadcast_to(key, len(todo))).view(np.uint64) & low
            left, right = right, left ^ turned
        found[todo] = left << half | right
        todo = todo[found[todo] >= np.uint64(count)]
    return found.view(np.int64)


def _finalise(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
