"""The graph as walkers need it: compressed sparse rows in files of each host, mapped by all its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numba import float64, int32, njit, types, void

from embedall_spark import host_cache
from embedall_spark.graph.walks import Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow.fs as pafs
    from numpy.typing import NDArray

    from embedall_spark.graph.adjacency import GraphSize

_ROWS = 16
_INTS = types.Array(int32, 1, "C", readonly=True)
_OPEN: dict[str, tuple[str, Graph]] = {}  # one opened graph a folder, for the tasks that share a Python worker


def open_graph(folder: str, facts: GraphSize, directed: bool) -> Graph:
    """Return the graph in a folder of ADJACENCY (path or URI), copied to this host's disk once.

    It takes 8 bytes a vertex, 4 an entry of the lists, and 8 more where weights differ. Only what walks touch is in
    memory, and only as the system's cache of files: the graph may be larger than the memory.
    """
    copy, key = host_cache.make("graph", folder, _writer(facts))
    known = _OPEN.get(folder)
    if known is None or known[0] != key:
        graph = Graph(
            host_cache.mapped(copy / "indptr", np.int64),
            host_cache.mapped(copy / "indices", np.int32),
            host_cache.mapped(copy / "cumulative", np.float64),
            directed,
        )
        _OPEN[folder] = known = (key, graph)
    return known[1]


def _writer(facts: GraphSize) -> Callable[[pafs.FileSystem, list[str], Path], None]:
    def write(filesystem: pafs.FileSystem, parts: list[str], folder: Path) -> None:
        indptr = np.memmap(folder / "indptr", np.int64, "w+", shape=(facts.vertices + 1,))
        before, carried = -1, 0.0
        with (folder / "indices").open("wb") as indices, (folder / "cumulative").open("wb") as cumulative:
            for row in _read(filesystem, parts):
                vertices, degrees, neighbours, weights = row
                if vertices[0] < before or (np.diff(vertices) <= 0).any():
                    raise RuntimeError(f"{folder}: vertex {vertices[0]} comes after {before}; the stage is damaged")
                indptr[vertices + 1] += degrees
                indices.write(neighbours.data)
                if facts.weighted:
                    sums = weights.copy()
                    accumulate(sums, degrees, carried if vertices[0] == before else 0.0)
                    cumulative.write(sums.data)
                    carried = float(sums[-1])
                before = int(vertices[-1])
        np.cumsum(indptr, out=indptr)
        indptr.flush()

    return write


def _read(filesystem: pafs.FileSystem, parts: list[str]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yield vertices int32, degrees int32, neighbours int32 and weights float64 of each row."""
    for part in parts:
        with filesystem.open_input_file(part) as source:
            for batch in pq.ParquetFile(source).iter_batches(_ROWS):
                for at in range(batch.num_rows):
                    row = {name: batch.column(name)[at] for name in batch.schema.names}
                    vertices, degrees, neighbours = (
                        np.frombuffer(row[name].as_buffer(), np.int32) for name in ("vertices", "degrees", "neighbours")
                    )
                    weights = np.frombuffer(row["weights"].as_buffer(), np.float64)
                    if not len(weights):
                        weights = np.full(len(neighbours), row["lightest"].as_py())
                    yield vertices, degrees, neighbours, weights


@njit(void(float64[::1], _INTS, float64), nogil=True, cache=True)
def accumulate(weights: NDArray[np.float64], degrees: NDArray[np.int32], before: float) -> None:
    """Turn weights into running sums within each vertex's list, in place; the first list goes on from ``before``."""
    at, total = 0, before
    for degree in degrees:
        for _ in range(degree):
            total += weights[at]
            weights[at] = total
            at += 1
        total = 0.0
