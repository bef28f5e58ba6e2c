"""Entries of adjacency lists sorted across tasks: sorted runs travel as pieces of bytes, and are merged as a stream.

A task sorts what fits into its memory, cuts it where the parts begin and where a piece would be too long, and sends the
pieces. Spark sorts those of a part by their first entries, spilling where it must. Who reads them holds only what may
still be followed by a lesser entry: no more than a piece of each run, also where one vertex has most of the entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numba import float64, int64, njit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Entries = tuple[NDArray[np.int64], NDArray[np.float64]]
    """Entries of the adjacency lists, int64 (vertex << 32 | neighbour), and the weight of each, float64."""

PIECES = "part int, edge bigint, weight double, edges binary, weights binary"
"""``edges`` int64, ascending, equal ones by weight; ``weights`` float64, empty where all are ``weight``.

``edge`` and ``weight`` are the first entry's.
"""
_NAMES = ["part", "edge", "weight", "edges", "weights"]
# 32 MB, and as much again while it is sorted.
RUN = 1 << 21
# Entries that a task holds of all runs together.
_OPEN = 1 << 20
_FEWEST = 256


def longest(entries: int) -> int:
    """Return how many entries a piece may have, so that a piece of each run fits into the memory of a task."""
    return max(_FEWEST, _OPEN // (1 + entries // RUN))


def runs(encoded: Iterable[Entries]) -> Iterator[Entries]:
    """Yield what comes as sorted runs of RUN entries or a few more."""
    held: list[Entries] = []
    count = 0
    for edges, weights in encoded:
        held.append((edges, weights))
        count += len(edges)
        if count >= RUN:
            yield _sorted(held)
            held, count = [], 0
    if count:
        yield _sorted(held)


def cut(run: Entries, bounds: NDArray[np.int64], most: int) -> pa.RecordBatch:
    """Return a sorted run as PIECES of at most so many entries; ``bounds`` are the first vertices of parts 1, 2, ..."""
    edges, weights = run
    starts = np.concatenate([np.searchsorted(edges, bounds << 32), np.arange(0, len(edges), most)])
    starts = np.unique(starts[starts < len(edges)])
    part = np.searchsorted(bounds, edges[starts] >> 32, side="right").astype(np.int32)
    offsets = (8 * np.append(starts, len(edges))).astype(np.int32)
    alike = bool((weights == weights[0]).all())
    values = [
        pa.array(part),
        pa.array(edges[starts]),
        pa.array(weights[starts]),
        _binaries(offsets, edges),
        _binaries(np.zeros_like(offsets), weights[:0]) if alike else _binaries(offsets, weights),
    ]
    return pa.RecordBatch.from_arrays(values, _NAMES)


def merged(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
    """Yield a part and its entries in their order, equal edges by weight; its PIECES come ordered by edge and weight.

    RUN entries are held, or twice those of the pieces that reach beyond the last one's first entry.
    """
    held: list[Entries] = []
    count = kept = part = 0
    for batch in batches:
        for at in range(batch.num_rows):
            part, edge, weight = (batch.column(name)[at].as_py() for name in _NAMES[:3])
            # What was kept must double before all is sorted again, so that an entry is sorted about twice.
            if count >= max(RUN, 2 * kept):
                edges, weights = _sorted(held)
                done = _before(edges, weights, edge, weight)
                yield part, edges[:done], weights[:done]
                held, kept = [(edges[done:], weights[done:])], len(edges) - done
                count = kept
            # Copies: the batch goes.
            edges = np.frombuffer(batch.column("edges")[at].as_buffer(), np.int64).copy()
            weights = np.frombuffer(batch.column("weights")[at].as_buffer(), np.float64).copy()
            held.append((edges, weights if len(weights) else np.full(len(edges), weight)))
            count += len(edges)
    if count:
        yield part, *_sorted(held)


@njit(int64(int64[::1], float64[::1]), nogil=True, cache=True)
def add_up(edges: NDArray[np.int64], weights: NDArray[np.float64]) -> int:
    """Sum the weights of equal edges, side by side, from the first on, in place; return how many are left."""
    left = 0
    for at in range(1, edges.size):
        if edges[at] == edges[left]:
            weights[left] += weights[at]
        else:
            left += 1
            edges[left], weights[left] = edges[at], weights[at]
    return min(left + 1, edges.size)


def _sorted(held: list[Entries]) -> Entries:
    """Return entries by edge, equal ones by weight."""
    edges, weights = (np.concatenate(arrays) for arrays in zip(*held, strict=True))
    if (weights == weights[0]).all():
        edges.sort()
        return edges, weights
    order = np.argsort(edges)
    edges, weights = edges[order], weights[order]
    again = edges[1:] == edges[:-1]
    tied = np.flatnonzero(np.append(again, False) | np.append(False, again))
    weights[tied] = weights[tied][np.lexsort((weights[tied], edges[tied]))]
    return edges, weights


def _before(edges: NDArray[np.int64], weights: NDArray[np.float64], edge: int, weight: float) -> int:
    """Return how many sorted entries are not above an entry."""
    first, stop = np.searchsorted(edges, edge), np.searchsorted(edges, edge, side="right")
    return int(first + np.searchsorted(weights[first:stop], weight, side="right"))


def _binaries(offsets: NDArray[np.int32], values: NDArray[np.int64] | NDArray[np.float64]) -> pa.BinaryArray:
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
