"""Windows of skip-gram: from sequences to streams of (center, n, contexts), one stream per pair of shards.

Subsampling of frequent tokens and windows of random size as in word2vec (Mikolov et al. 2013, "Distributed
Representations", section 2.3; "Efficient Estimation", section 3.2). What is drawn for a sequence depends on the seed
and the sequence's id alone, so that it is the same in whatever task, batch or buffer the sequence ends up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import boolean, int32, int64, njit, types, uint32, uint64

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GOLDEN = uint64(0x9E3779B97F4A7C15)

# Mapped files and Arrow's buffers are read-only; a signature that says so also takes writable arrays.
_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)
_KEEP = types.Array(uint32, 1, "C", readonly=True)


def keep_thresholds(counts: NDArray[np.int64], sample: float) -> NDArray[np.uint32]:
    """Return for each token, uint32 [V], the greatest 32-bit random number at which an occurrence of it is kept.

    A token that makes up a share f of the corpus is kept with probability (sqrt(f / sample) + 1) * sample / f, as in
    word2vec's code and gensim; ``sample`` 0 keeps all.
    """
    if sample <= 0:
        return np.full(len(counts), 2**32 - 1, np.uint32)
    ratio = sample * float(np.sum(counts)) / np.maximum(np.asarray(counts, np.float64), 1.0)
    return (np.minimum(np.sqrt(ratio) + ratio, 1.0) * 2**32 - 1).clip(min=0).astype(np.uint32)


def capacity(length: int, window: int) -> int:
    """Return how many ints a stream must have room for so that any sequence of ``length`` tokens fits."""
    return length * (2 + 2 * window)


def longest(capacity: int, window: int) -> int:
    """Return the greatest length of a sequence that fits into ``capacity`` ints for certain."""
    return capacity // (2 + 2 * window)


@njit(uint64(uint64), inline="always")
def _mix(state: np.uint64) -> np.uint64:
    """Finish splitmix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators")."""
    state = (state ^ (state >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> uint64(27))) * uint64(0x94D049BB133111EB)
    return state ^ (state >> uint64(31))


@njit(
    int64(
        *(_INTS, _LONGS, _LONGS, int64, _KEEP, _INTS, _INTS),
        *(int64, int64, boolean, uint64, int32[:, ::1], int64[::1]),
    ),
    nogil=True,
    cache=True,
)
def draw(  # noqa: C901 (one loop, for speed)
    tokens: NDArray[np.int32],
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    start: int,
    keep: NDArray[np.uint32],
    shard: NDArray[np.int32],
    local: NDArray[np.int32],
    workers: int,
    window: int,
    shrink: bool,
    seed: np.uint64,
    streams: NDArray[np.int32],
    fill: NDArray[np.int64],
) -> int:
    """Append the windows of sequences ``start``, ``start + 1``, ... to the streams until one might not fit.

    Args:
        tokens: vocabulary ids of all sequences, one after the other, int32.
        offsets: where each sequence begins in ``tokens``, int64 [n + 1].
        ids: ids of the sequences, int64 [n].
        start: the first sequence to do.
        keep: see ``keep_thresholds``, uint32 [V].
        shard: which worker holds a token's rows, int32 [V].
        local: which of that worker's rows are the token's, int32 [V].
        workers: how many shards there are, W.
        window: greatest distance between a center and a context, after subsampling.
        shrink: draw each center's distance uniformly from 1 to ``window``; otherwise it is ``window`` throughout.
        seed: seed of this epoch.
        streams: int32 [W * W, capacity]; row i * W + j takes groups (local id of a center of shard j, n, local ids of
            its n contexts in shard i).
        fill: how many ints of each stream are in use, int64 [W * W]; moved on.

    Returns:
        The next sequence to do, n when all are done.

    Raises:
        ValueError: the streams are empty, and still the sequence ``start`` might not fit (see ``capacity``).
    """
    room = streams.shape[1]
    highest = fill.max()
    kept, radius = np.empty(1024, np.int32), np.empty(1024, np.int32)
    group = np.empty(workers, np.int64)  # where the center's group with contexts of a shard begins in its stream
    made = np.full(workers, -1, np.int64)  # the center that the group above belongs to
    center = int64(0)
    for sequence in range(start, ids.size):
        begin, stop = offsets[sequence], offsets[sequence + 1]
        if stop - begin > kept.size:
            kept, radius = np.empty(stop - begin, np.int32), np.empty(stop - begin, np.int32)
        state = _mix(_mix(seed + _GOLDEN) + uint64(ids[sequence]))
        count = 0
        for at in range(begin, stop):
            state += _GOLDEN
            random = _mix(state)
            # The two halves of one number: is the token kept, and if so, how far does its window reach.
            if random & uint64(0xFFFFFFFF) <= uint64(keep[tokens[at]]):
                kept[count] = tokens[at]
                radius[count] = 1 + ((random >> uint64(32)) * uint64(window) >> uint64(32)) if shrink else window
                count += 1
        need = 0
        for at in range(count):
            need += 2 + min(count - 1, at + radius[at]) - max(0, at - radius[at])
        if highest + need > room:
            highest = fill.max()
            if highest + need > room:
                if highest == 0:
                    raise ValueError("a sequence does not fit into empty streams; see windows.capacity")
                return sequence
        highest += need
        for at in range(count):
            column, name = shard[kept[at]], local[kept[at]]
            center += 1
            for other in range(max(0, at - radius[at]), min(count, at + radius[at] + 1)):
                if other == at:
                    continue
                row = shard[kept[other]]
                stream = row * workers + column
                if made[row] != center:
                    made[row] = center
                    group[row] = fill[stream]
                    streams[stream, fill[stream]] = name
                    streams[stream, fill[stream] + 1] = 0
                    fill[stream] += 2
                streams[stream, fill[stream]] = local[kept[other]]
                streams[stream, group[row] + 1] += 1
                fill[stream] += 1
    return ids.size
