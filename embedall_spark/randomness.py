"""Random choices as counter-based hashes of (seed, keys), so that reruns and repartitioning change nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_SPARK_SEED = 42


def mix(*keys: int) -> int:
    """Return a 64-bit hash of integers (splitmix64 over each key in turn; Steele et al. 2014, "Fast splittable...")."""
    state = 0
    for key in keys:
        state = _finalize((state + _GOLDEN + (key & _MASK)) & _MASK)
    return state


def mix_arrays(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return mix() of each row of int64 arrays of equal length, as int64 (the same 64 bits, read as signed)."""
    state = np.zeros(len(keys[0]), np.uint64)
    for key in keys:
        value = state + np.uint64(_GOLDEN) + key.view(np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = value ^ (value >> np.uint64(31))
    return state.view(np.int64)


def generator(*keys: int) -> np.random.Generator:
    """Return a numpy generator that depends only on the keys."""
    return np.random.Generator(np.random.PCG64(mix(*keys)))


def permutation(count: int, *keys: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(count)``, int64, that depends only on ``count`` and the keys."""
    return generator(*keys).permutation(count)


def permuted_items(positions: NDArray[np.int64], count: int, *keys: int) -> NDArray[np.int64]:
    """Return the items of a permutation of ``range(count)`` at some positions, int64; it depends only on the keys.

    A Feistel network of four rounds over the next power of four, applied until the result is in range (Black and
    Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 3): it needs no table for any ``count``.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    rounds = [np.int64(np.uint64(mix(*keys, number)).view(np.int64)) for number in range(4)]
    items = positions.astype(np.uint64)
    open_ = np.arange(len(items))
    while len(open_):
        left, right = items[open_] >> half, items[open_] & low
        for key in rounds:
            mixed = mix_arrays(right.view(np.int64), np.broadcast_to(key, len(open_))).view(np.uint64) & low
            left, right = right, left ^ mixed
        items[open_] = left << half | right
        open_ = open_[items[open_] >= np.uint64(count)]
    return items.view(np.int64)


def spark_hashes(texts: Sequence[str], seed: int | None = None) -> NDArray[np.int64]:
    """Return what Spark's ``xxhash64(text)`` is, with a seed ``xxhash64(lit(seed), text)``: int64 [n]."""
    start = _SPARK_SEED
    if seed is not None:
        start = int(_xxhash64([seed.to_bytes(4, "little", signed=True)], start).view(np.uint64)[0])
    return _xxhash64((text.encode() for text in texts), start)


def spark_hashes_of(texts: pa.StringArray) -> NDArray[np.int64]:
    """Return what Spark's ``xxhash64(text)`` is for texts without nulls: int64 [n]. Their bytes need not be UTF-8."""
    offsets = np.frombuffer(texts.buffers()[1] or bytes(4), np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = memoryview(texts.buffers()[2] or b"")
    return _xxhash64((data[start:end] for start, end in pairwise(offsets.tolist())), _SPARK_SEED)


def _xxhash64(values: Iterable[bytes | memoryview], seed: int) -> NDArray[np.int64]:
    # Imported here: most tasks that import this module never ask.
    from xxhash import xxh64_intdigest

    return np.fromiter((xxh64_intdigest(value, seed) for value in values), np.uint64).view(np.int64)


def _finalize(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
