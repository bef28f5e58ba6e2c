"""Components of random graphs beside scipy's, and what counting them takes."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from scipy.sparse import csgraph

from embedall_spark.graph import csr, graph_stats
from embedall_spark.graph.adjacency import GraphSize
from embedall_spark.graph.walks import Graph


def counted(monkeypatch, graph, directed):
    """Return number and greatest size of the components, as a task finds them."""
    monkeypatch.setattr(csr, "open_graph", lambda *_: graph)
    size = GraphSize(len(graph.indptr) - 1, len(graph.indices), False)
    batch = pa.RecordBatch.from_arrays([pa.array([0])], ["id"])
    (actual,) = graph_stats._component_sizes("", size, directed)([batch])
    return actual["components"][0].as_py(), actual["greatest"][0].as_py()


@pytest.mark.parametrize("directed", [False, True])
def test_components_are_those_of_scipy(monkeypatch, directed):
    random = np.random.default_rng(6)
    for size in (1, 2, 7, 300, 2000):
        ends = random.integers(0, size, (2, int(size * random.choice([0.2, 0.5, 1.0]))))
        table = sparse.coo_array((np.ones(ends.shape[1]), tuple(ends)), (size, size)).tocsr()
        lists = table if directed else (table + table.T).tocsr()
        count, labels = csgraph.connected_components(table, directed=directed, connection="weak")
        graph = Graph(lists.indptr.astype(np.int64), lists.indices.astype(np.int32), np.empty(0), directed)
        assert counted(monkeypatch, graph, directed) == (count, np.bincount(labels).max())


def test_a_vertex_takes_few_bytes(monkeypatch):
    size = 1_000_000
    ring = Graph(np.arange(size + 1), np.roll(np.arange(size, dtype=np.int32), -1), np.empty(0), True)
    tracemalloc.start()
    assert counted(monkeypatch, ring, True) == (1, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * size
