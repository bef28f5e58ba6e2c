"""The graph as walkers need it: compressed sparse rows in files on each host, mapped by all of its workers."""

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
# One open graph per folder, for the tasks that share a Python worker.
_OPEN: dict[str, tuple[str, Graph]] = {}


def open_graph(folder: str, size: GraphSize, directed: bool) -> Graph:
    """Return the graph in a folder of ADJACENCY (path or URI), which is copied to this host's disk once.

    The copy takes 8 bytes per vertex and 4 per entry of the lists, and 8 more where weights differ. Only pages that
    walks touch are in memory, in the system's file cache: the graph may be larger than the memory.
    """
    copy, key = host_cache.make("graph", folder, _writer(size))
    opened = _OPEN.get(folder)
    if opened is None or opened[0] != key:
        graph = Graph(
            host_cache.mapped(copy / "indptr", np.int64),
            host_cache.mapped(copy / "indices", np.int32),
            host_cache.mapped(copy / "cumulative", np.float64),
            directed,
        )
        _OPEN[folder] = opened = (key, graph)
    return opened[1]


def _writer(size: GraphSize) -> Callable[[pafs.FileSystem, list[str], Path], None]:
    def write(filesystem: pafs.FileSystem, parts: list[str], folder: Path) -> None:
        indptr = np.memmap(folder / "indptr", np.int64, "w+", shape=(size.vertices + 1,))
        last, carried = -1, 0.0
        with (folder / "indices").open("wb") as indices, (folder / "cumulative").open("wb") as cumulative:
            for row in _read(filesystem, parts):
                vertices, degrees, neighbors, weights = row
                if vertices[0] < last or (np.diff(vertices) <= 0).any():
                    raise RuntimeError(f"{folder}: vertex {vertices[0]} comes after {last}; the stage is damaged")
                indptr[vertices + 1] += degrees
                indices.write(neighbors.data)
                if size.weighted:
                    sums = weights.copy()
                    running_sums(sums, degrees, carried if vertices[0] == last else 0.0)
                    cumulative.write(sums.data)
                    carried = float(sums[-1])
                last = int(vertices[-1])
        np.cumsum(indptr, out=indptr)
        indptr.flush()

    return write


def _read(filesystem: pafs.FileSystem, parts: list[str]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yield vertices int32, degrees int32, neighbors int32 and weights float64 of each row."""
    for part in parts:
        with filesystem.open_input_file(part) as source:
            for batch in pq.ParquetFile(source).iter_batches(_ROWS):
                for index in range(batch.num_rows):
                    row = {name: batch.column(name)[index] for name in batch.schema.names}
                    vertices, degrees, neighbors = (
                        np.frombuffer(row[name].as_buffer(), np.int32) for name in ("vertices", "degrees", "neighbours")
                    )
                    weights = np.frombuffer(row["weights"].as_buffer(), np.float64)
                    if not len(weights):
                        weights = np.full(len(neighbors), row["lightest"].as_py())
                    yield vertices, degrees, neighbors, weights


@njit(void(float64[::1], _INTS, float64), nogil=True, cache=True)
def running_sums(weights: NDArray[np.float64], degrees: NDArray[np.int32], before: float) -> None:
    """Turn weights into running sums within each vertex's list, in place; the first list continues from ``before``."""
    index, total = 0, before
    for degree in degrees:
        for _ in range(degree):
            total += weights[index]
            weights[index] = total
            index += 1
        total = 0.0
