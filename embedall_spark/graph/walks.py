"""Random walks over a graph in memory, of first and second order (node2vec: Grover & Leskovec 2016, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embedall_spark import randomness
from embedall_spark.graph import walk_kernel, walker_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_BIAS, MAX_BIAS = 2.0**-30, 2.0**30
"""Range of p and q."""


class Graph(NamedTuple):
    """Compressed sparse rows; the arrays may be read-only and mapped from files."""

    indptr: NDArray[np.int64]
    """[n + 1]: where each vertex's neighbors begin."""
    indices: NDArray[np.int32]
    """[E]: the vertices that a vertex has edges to, ascending and distinct; a self-loop is one of them."""
    cumulative: NDArray[np.float64]
    """[E]: running sums of the edges' weights, from 0 for each vertex; [0]: all weights are equal."""
    directed: bool
    """False: every edge is there in both directions, with the same weight."""


def walk(
    graph: Graph,
    starts: NDArray[np.int32],
    numbers: NDArray[np.int64] | NDArray[np.int32],
    length: int,
    p: float,
    q: float,
    seed: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the vertices of walks, one walk after the other, int32 [sum of lengths], and their lengths, int32 [m].

    A step from v to x, having come from t, has the weight of its edge, times 1/p if x is t, else 1 if there is an edge
    from t to x, else 1/q. The first step has the weight alone. A walk ends early at a vertex that has no neighbors.

    Steps are exact, nothing is precomputed for each edge, and no list of neighbors is truncated. With p = q = 1 a step
    takes one trial. Otherwise it takes, for any p, on average at most max(q, 1/q) trials and one more, or twice
    max(q, 1/q) and one more where all weights are equal.

    A walk depends on (seed, start, number) alone, not on the other walks of the call. The GIL is released.

    Args:
        graph: n vertices.
        starts: vertices, [m].
        numbers: distinguish walks from the same vertex, [m].
        length: vertices in a walk, its start included.
        p: return parameter.
        q: in-out parameter.
        seed: any integer.

    Raises:
        ValueError: a start is not a vertex, length is below 1, or p or q is not from ``MIN_BIAS`` to ``MAX_BIAS``.
    """
    if length < 1 or not (MIN_BIAS <= p <= MAX_BIAS and MIN_BIAS <= q <= MAX_BIAS):
        raise ValueError(f"need length >= 1, p and q from {MIN_BIAS} to {MAX_BIAS}, got length={length}, p={p}, q={q}")
    last = len(graph.indptr) - 2
    if len(starts) and not 0 <= int(starts.min()) <= int(starts.max()) <= last:
        raise ValueError(f"starts must be vertices, from 0 to {last}, got {starts.min()} to {starts.max()}")
    starts = np.ascontiguousarray(starts, np.int32)
    seeds = np.full(len(starts), seed & (2**64 - 1), np.uint64).view(np.int64)
    keys = randomness.mix_arrays(seeds, starts.astype(np.int64), np.asarray(numbers, np.int64)).view(np.uint64)
    # All read-only, as mapped files are: numba would compile again for writable arrays.
    indptr, indices, cumulative, starts, keys = map(_readonly, (*graph[:3], starts, keys))
    graph = Graph(indptr, indices, cumulative, bool(graph.directed))
    rule = walker_state.step_rule(p, q, cumulative.size > 0, graph.directed)
    tokens, lengths = np.empty((len(starts), length), np.int32), np.empty(len(starts), np.int32)
    walk_kernel.walk(graph, starts, keys, rule, walker_state.new_pool(), tokens, lengths)
    whole = bool((lengths == length).all())
    return tokens.ravel() if whole else tokens[np.arange(length) < lengths[:, None]], lengths


def _readonly(array: Any) -> NDArray[Any]:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
