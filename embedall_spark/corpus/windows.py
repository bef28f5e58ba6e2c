"""Windows of skip-gram: from sequences to streams of (center, n, contexts), one per pair of shards.

Subsampling of frequent tokens and windows of random size as in word2vec (Mikolov et al. 2013, "Distributed
Representations", section 2.3; "Efficient Estimation", section 3.2). The windows of a sequence depend on the seed and
the sequence's id alone, so that they are the same in any task, batch or buffer.
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
    """Return each token's threshold, uint32 [V]: an occurrence is kept if its 32-bit random number is not above it.

    A token that makes up a share f of the corpus is kept with probability (sqrt(f / sample) + 1) * sample / f, as in
    word2vec's code and gensim; ``sample`` 0 keeps all.
    """
    if sample <= 0:
        return np.full(len(counts), 2**32 - 1, np.uint32)
    ratio = sample * float(np.sum(counts)) / np.maximum(np.asarray(counts, np.float64), 1.0)
    return (np.minimum(np.sqrt(ratio) + ratio, 1.0) * 2**32 - 1).clip(min=0).astype(np.uint32)


def capacity(length: int, window: int) -> int:
    """Return the ints that a stream needs so that any sequence of ``length`` tokens fits."""
    return length * (2 + 2 * window)


def max_length(capacity: int, window: int) -> int:
    """Return the length up to which every sequence fits into ``capacity`` ints."""
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
        *(int64, int64, boolean, int64, boolean, uint64, int32[:, ::1], int64[::1]),
    ),
    nogil=True,
    cache=True,
)
def draw_windows(  # noqa: C901 (one loop, for speed)
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
    parts: int,
    by_center: bool,
    seed: np.uint64,
    streams: NDArray[np.int32],
    fill: NDArray[np.int64],
) -> int:
    """Append the windows of sequences ``start``, ``start + 1``, ... to the streams until one might not fit.

    Args:
        tokens: vocabulary ids of all sequences, one after the other, int32.
        offsets: where each sequence begins in ``tokens``, int64 [n + 1].
        ids: ids of the sequences, int64 [n].
        start: index of the first sequence.
        keep: see ``keep_thresholds``, uint32 [V].
        shard: the worker that has a token's rows, int32 [V].
        local: the index of a token's rows at that worker, int32 [V].
        workers: number of shards, W.
        window: greatest distance between a center and a context, after subsampling.
        shrink: draw each center's distance uniformly from 1 to ``window``; otherwise it is always ``window``.
        parts: the rows of a shard of centers are divided into so many parts: row r is row r // parts of part
            r % parts.
        by_center: one stream per shard of centers; contexts are then vocabulary ids, and ``parts`` is not used.
        seed: seed of this epoch.
        streams: int32 [W * W * parts, capacity]; row (i * W + j) * parts + p receives groups (row of a center in part
            p of shard j, n, rows of its n contexts in shard i). With ``by_center`` int32 [W, capacity].
        fill: ints in use of each stream, int64; updated.

    Returns:
        Index of the sequence to go on with; n when there is none.

    Raises:
        ValueError: the streams are empty, and still the sequence ``start`` might not fit (see ``capacity``).
    """
    capacity = streams.shape[1]
    highest = fill.max()
    sampled, radius = np.empty(1024, np.int32), np.empty(1024, np.int32)
    group = np.empty(workers, np.int64)  # where the center's group with contexts of a shard begins in its stream
    group_center = np.full(workers, -1, np.int64)  # the center that the group above belongs to
    center = int64(0)
    for sequence in range(start, ids.size):
        begin, stop = offsets[sequence], offsets[sequence + 1]
        if stop - begin > sampled.size:
            sampled, radius = np.empty(stop - begin, np.int32), np.empty(stop - begin, np.int32)
        state = _mix(_mix(seed + _GOLDEN) + uint64(ids[sequence]))
        count = 0
        for index in range(begin, stop):
            state += _GOLDEN
            random = _mix(state)
            # One half of the number decides whether the token is kept, the other how far its window reaches.
            if random & uint64(0xFFFFFFFF) <= uint64(keep[tokens[index]]):
                sampled[count] = tokens[index]
                radius[count] = 1 + ((random >> uint64(32)) * uint64(window) >> uint64(32)) if shrink else window
                count += 1
        need = 0
        for index in range(count):
            need += 2 + min(count - 1, index + radius[index]) - max(0, index - radius[index])
        if highest + need > capacity:
            highest = fill.max()
            if highest + need > capacity:
                if highest == 0:
                    raise ValueError("a sequence does not fit into empty streams; see windows.capacity")
                return sequence
        highest += need
        for index in range(count):
            column, center_row = int64(shard[sampled[index]]), local[sampled[index]]
            if not by_center:
                column, center_row = column * parts + center_row % parts, int32(center_row // parts)
            center += 1
            for other in range(max(0, index - radius[index]), min(count, index + radius[index] + 1)):
                if other == index:
                    continue
                row = int64(0) if by_center else int64(shard[sampled[other]])
                stream = row * workers * parts + column
                if group_center[row] != center:
                    group_center[row] = center
                    group[row] = fill[stream]
                    streams[stream, fill[stream]] = center_row
                    streams[stream, fill[stream] + 1] = 0
                    fill[stream] += 2
                streams[stream, fill[stream]] = sampled[other] if by_center else local[sampled[other]]
                streams[stream, group[row] + 1] += 1
                fill[stream] += 1
    return ids.size
