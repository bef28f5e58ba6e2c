"""External sort of the entries of adjacency lists: sorted runs are shuffled as pieces of bytes and merged as a stream.

A task sorts runs that fit into its memory and cuts them where parts begin and where a piece would be too long. Spark
sorts the pieces of a part by their first entries, and spills if it must. The merging task keeps only entries that a
smaller one may still follow: at most a piece of each run, even where one vertex has most of the entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numba import float64, int64, njit

from embedall_spark.corpus import packed_ints

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Entries = tuple[NDArray[np.int64], NDArray[np.float64]]
    """Entries of the adjacency lists, int64 (vertex << 32 | neighbor), and the weight of each, float64."""

PIECES = "part int, edge bigint, weight double, edges binary, weights binary"
"""``edges`` int64, ascending, equal ones by weight; ``weights`` float64, empty where all equal ``weight``.

``edge`` and ``weight`` are those of the first entry.
"""
_NAMES = ["part", "edge", "weight", "edges", "weights"]
# Entries of a run: 32 MB, and as much again while it is sorted.
RUN = 1 << 21
# Entries of all runs together that a merging task keeps.
_MAX_BUFFERED = 1 << 20
_MIN_PIECE = 256


def max_piece(entries: int) -> int:
    """Return the most entries of a piece with which a piece of each run fits into the memory of a task."""
    return max(_MIN_PIECE, _MAX_BUFFERED // (1 + entries // RUN))


def sorted_runs(batches: Iterable[Entries]) -> Iterator[Entries]:
    """Yield the entries of batches as sorted runs of RUN entries or a few more."""
    buffer: list[Entries] = []
    count = 0
    for edges, weights in batches:
        buffer.append((edges, weights))
        count += len(edges)
        if count >= RUN:
            yield _sorted(buffer)
            buffer, count = [], 0
    if count:
        yield _sorted(buffer)


def cut_run(run: Entries, bounds: NDArray[np.int64], max_piece: int) -> pa.RecordBatch:
    """Return a sorted run as PIECES of at most ``max_piece`` entries; ``bounds`` are where parts 1, 2, ... begin."""
    edges, weights = run
    starts = np.concatenate([np.searchsorted(edges, bounds << 32), np.arange(0, len(edges), max_piece)])
    starts = np.unique(starts[starts < len(edges)])
    part = np.searchsorted(bounds, edges[starts] >> 32, side="right").astype(np.int32)
    offsets = (8 * np.append(starts, len(edges))).astype(np.int32)
    equal = bool((weights == weights[0]).all())
    values = [
        pa.array(part),
        pa.array(edges[starts]),
        pa.array(weights[starts]),
        packed_ints.binary_array(edges, offsets),
        packed_ints.binary_array(weights[:0], np.zeros_like(offsets))
        if equal
        else packed_ints.binary_array(weights, offsets),
    ]
    return pa.RecordBatch.from_arrays(values, _NAMES)


def merge(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
    """Yield a part and its entries in order, equal edges by weight, from PIECES ordered by edge and weight.

    At most RUN entries are buffered, or twice those of the pieces that reach beyond the last one's first entry.
    """
    buffer: list[Entries] = []
    count = left = part = 0
    for batch in batches:
        for row in range(batch.num_rows):
            part, edge, weight = (batch.column(name)[row].as_py() for name in _NAMES[:3])
            # The entries left must double before all are sorted again, so that each is sorted about twice.
            if count >= max(RUN, 2 * left):
                edges, weights = _sorted(buffer)
                final = _count_up_to(edges, weights, edge, weight)
                yield part, edges[:final], weights[:final]
                buffer, left = [(edges[final:], weights[final:])], len(edges) - final
                count = left
            # Copies, because the batch is freed.
            edges = np.frombuffer(batch.column("edges")[row].as_buffer(), np.int64).copy()
            weights = np.frombuffer(batch.column("weights")[row].as_buffer(), np.float64).copy()
            buffer.append((edges, weights if len(weights) else np.full(len(edges), weight)))
            count += len(edges)
    if count:
        yield part, *_sorted(buffer)


@njit(int64(int64[::1], float64[::1]), nogil=True, cache=True)
def sum_equal_edges(edges: NDArray[np.int64], weights: NDArray[np.float64]) -> int:
    """Sum the weights of equal edges, which are adjacent, from the first on, in place; return how many edges remain."""
    last = 0
    for index in range(1, edges.size):
        if edges[index] == edges[last]:
            weights[last] += weights[index]
        else:
            last += 1
            edges[last], weights[last] = edges[index], weights[index]
    return min(last + 1, edges.size)


def _sorted(buffer: list[Entries]) -> Entries:
    """Return entries by edge, equal ones by weight."""
    edges, weights = (np.concatenate(arrays) for arrays in zip(*buffer, strict=True))
    if (weights == weights[0]).all():
        edges.sort()
        return edges, weights
    order = np.argsort(edges)
    edges, weights = edges[order], weights[order]
    equal = edges[1:] == edges[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    weights[tied] = weights[tied][np.lexsort((weights[tied], edges[tied]))]
    return edges, weights


def _count_up_to(edges: NDArray[np.int64], weights: NDArray[np.float64], edge: int, weight: float) -> int:
    """Return the number of sorted entries that are not above an entry."""
    first, stop = np.searchsorted(edges, edge), np.searchsorted(edges, edge, side="right")
    return int(first + np.searchsorted(weights[first:stop], weight, side="right"))
