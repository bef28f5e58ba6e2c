"""Huffman codes of a vocabulary, for hierarchical softmax (Mikolov et al. 2013, "Distributed Representations", 2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Paths(NamedTuple):
    """The path from the root to each token: inner nodes, numbered from 0, and the turn taken at each."""

    offsets: NDArray[np.int64]
    """Where each token's path begins in the other two, int64 [V + 1]."""
    nodes: NDArray[np.int32]
    """Inner nodes, int32, numbered by falling count; the root, node 0, comes first."""
    codes: NDArray[np.int8]
    """0 or 1, int8."""


NO_PATHS = Paths(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int8))
"""For kernels without hierarchical softmax."""


def paths(counts: NDArray[np.int64]) -> Paths:
    """Return the paths in the Huffman tree of counts, int64 [V], in falling order; 0 counts as 1.

    The path to the only token of a vocabulary has no turns, so that it learns nothing.
    """
    weights = np.maximum(np.asarray(counts, np.int64), 1)
    if len(weights) < 2:
        return Paths(np.zeros(len(weights) + 1, np.int64), *NO_PATHS[1:])
    order = np.argsort(-weights, kind="stable")
    return Paths(*_paths(*_tree(weights[order]), order))


def select(paths: Paths, shard: NDArray[np.int32], local: NDArray[np.int32], parts: int, part: int) -> Paths:
    """Return the paths with the inner nodes of one part alone, named by their rows there.

    Args:
        paths: the paths of all tokens.
        shard: the shard of each inner node, int32 [V].
        local: the row of each inner node in its shard, int32 [V].
        parts: parts of a shard: row r is row r // parts of part r % parts.
        part: number of the part, counted through all shards.
    """
    return Paths(*_select(*paths, shard, local, parts, part))


@numba.njit(cache=True)
def _select(
    offsets: NDArray[np.int64],
    nodes: NDArray[np.int32],
    codes: NDArray[np.int8],
    shard: NDArray[np.int32],
    local: NDArray[np.int32],
    parts: int,
    part: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int8]]:
    """Return offsets, inner nodes and turns of the paths with the nodes of a part alone, named by its rows."""
    count = 0
    for node in nodes:
        count += shard[node] * parts + local[node] % parts == part
    own_offsets = np.zeros_like(offsets)
    own_nodes, own_codes = np.empty(count, np.int32), np.empty(count, np.int8)
    count = 0
    for token in range(len(offsets) - 1):
        for index in range(offsets[token], offsets[token + 1]):
            node = nodes[index]
            if shard[node] * parts + local[node] % parts == part:
                own_nodes[count], own_codes[count] = local[node] // parts, codes[index]
                count += 1
        own_offsets[token + 1] = count
    return own_offsets, own_nodes, own_codes


@numba.njit(cache=True)
def _tree(weights: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return the parent of each node and its turn there; leaves come first, and the last node is the root."""
    size = len(weights)
    sums = np.full(2 * size - 1, np.iinfo(np.int64).max, np.int64)
    sums[:size] = weights
    parent, code = np.zeros(2 * size - 1, np.int64), np.zeros(2 * size - 1, np.int8)
    # Leaves are taken from the rarest on, inner nodes in the order in which they are made: both only grow.
    leaf, inner = size - 1, size
    for node in range(size, 2 * size - 1):
        total = np.int64(0)
        for turn in range(2):
            if leaf >= 0 and sums[leaf] < sums[inner]:
                child = leaf
                leaf -= 1
            else:
                child = inner
                inner += 1
            parent[child], code[child] = node, turn
            total += sums[child]
        sums[node] = total
    return parent, code


@numba.njit(cache=True)
def _paths(
    parent: NDArray[np.int64], code: NDArray[np.int8], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int8]]:
    """Return offsets, inner nodes and turns of the paths; ``order`` has the token of each leaf."""
    size, root = len(order), len(parent) - 1
    depth = np.zeros(len(parent), np.int64)
    for node in range(root - 1, -1, -1):
        depth[node] = depth[parent[node]] + 1
    offsets = np.zeros(size + 1, np.int64)
    for leaf in range(size):
        offsets[order[leaf] + 1] = depth[leaf]
    offsets = np.cumsum(offsets)
    nodes, codes = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int8)
    for leaf in range(size):
        node, index = leaf, offsets[order[leaf] + 1] - 1
        while node != root:
            codes[index] = code[node]
            node = parent[node]
            nodes[index] = root - node
            index -= 1
    return offsets, nodes, codes
