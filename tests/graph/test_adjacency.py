"""Adjacency lists and compressed sparse rows beside dictionaries built from the same edges."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import setting
from fake_run import FakeRun

from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.graph import adjacency, changes, csr, external_sort, graph_stats
from embedall_spark.graph.adjacency import GraphConfig


def random_edges(count=600, names=40, seed=3):
    """Return (src, dst, weight) with duplicates, self-loops, a hub, and names that are no numbers."""
    random = np.random.default_rng(seed)
    ends = random.integers(0, names, (count, 2))
    ends[: count // 4, 0] = 7
    weights = random.choice([0.5, 1.0, 2.25], count)
    return [(f"nœud {a}", f"nœud {b}", float(w)) for (a, b), w in zip(ends, weights, strict=True)]


def expected(rows, directed, self_loops):
    """Return {src: {dst: weight}}."""
    actual = {}
    for src, dst, weight in rows:
        if src == dst and not self_loops:
            continue
        for a, b in {(src, dst)} if directed else {(src, dst), (dst, src)}:
            actual.setdefault(a, {})[b] = actual.get(a, {}).get(b, 0.0) + weight
    return actual


def build(spark, folder, rows, config):
    run = FakeRun(spark, folder)
    edges = spark.createDataFrame(rows, "src string, dst string, weight double").repartition(3)
    return run, *adjacency.build_stages(run, edges, config)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("self_loops", [False, True])
def test_the_lists_are_those_of_a_dictionary(spark, tmp_path, monkeypatch, directed, self_loops):
    # Many small parts and rows, so that vertices span both.
    monkeypatch.setattr(adjacency, "_EDGES_PER_PART", 100)
    rows = random_edges()
    config = GraphConfig(directed=directed, self_loops=self_loops)
    run, vertices, _, size = build(spark, tmp_path, rows, config)
    names = [row["token"] for row in vertices.orderBy("id").collect()]
    graph = csr.open_graph(run.stage_path("adjacency"), size, directed)
    actual = {}
    for vertex, name in enumerate(names):
        first, stop = graph.indptr[vertex], graph.indptr[vertex + 1]
        neighbors = graph.indices[first:stop]
        assert (np.diff(neighbors) > 0).all()
        if stop > first:
            weights = np.diff(graph.cumulative[first:stop], prepend=0)
            actual[name] = dict(zip([names[at] for at in neighbors], weights, strict=True))
    want = expected(rows, directed, self_loops)
    assert actual.keys() == want.keys()
    for name, neighbors in want.items():
        assert actual[name].keys() == neighbors.keys()
        assert [actual[name][other] for other in neighbors] == pytest.approx(list(neighbors.values()))
    assert size.vertices == len(names)
    assert size.edges == sum(map(len, want.values()))
    assert size.weighted


def test_rows_are_cut_inside_a_hub_and_sums_span_pieces(monkeypatch):
    monkeypatch.setattr(adjacency, "_EDGES_PER_ROW", 3)
    edges = np.array([5 << 32 | n for n in (1, 1, 2, 3, 4, 4, 4, 9)] + [6 << 32 | 1], np.int64)
    rows = []
    for run_size in (1, 3, 100):
        monkeypatch.setattr(external_sort, "RUN", run_size)
        rows.append(
            list(adjacency._rows([external_sort.cut_run((edges, np.ones(len(edges))), np.empty(0, np.int64), 2)]))
        )
    assert rows[0] == rows[1] == rows[2]
    neighbors = [np.frombuffer(row.column("neighbours")[0].as_py(), np.int32).tolist() for row in rows[0]]
    assert neighbors == [[1, 2, 3], [4, 9, 1]]
    weights = [np.frombuffer(row.column("weights")[0].as_py(), np.float64).tolist() for row in rows[0]]
    assert weights == [[2, 1, 1], [3, 1, 1]]


def test_digests_know_names_and_weights_and_neither_ids_nor_rows(tmp_path, monkeypatch):
    random, names = np.random.default_rng(6), [f"nœud {i}" for i in range(20)]
    weights = {(a, b): float(w) for a, b, w in random.integers(0, 20, (120, 3)).tolist()}

    def digests(order, per_row, weights):
        """Return the digest of each vertex by its name, where ids are places in ``order``."""
        monkeypatch.setattr(adjacency, "_EDGES_PER_ROW", per_row)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        vertices = {"id": np.arange(20, dtype=np.int32), "token": [names[at] for at in order], "count": [1] * 20}
        pq.write_table(pa.table(vertices), folder / "part-0.parquet")
        index, place = VocabularyIndex.open(str(folder)), {vertex: at for at, vertex in enumerate(order)}
        entries = sorted((place[a] << 32 | place[b], weight + 1) for (a, b), weight in weights.items())
        run = tuple(np.array(column) for column in zip(*entries, strict=True))
        digest = {}
        for row in adjacency._rows([external_sort.cut_run(run, np.empty(0, np.int64), 50)]):
            for vertex, part in zip(*changes.partial_digest(row, index).to_pydict().values(), strict=True):
                digest[names[order[vertex]]] = digest.get(names[order[vertex]], 0) ^ part
        return digest

    wanted = digests(range(20), 1000, weights)
    assert digests(random.permutation(20).tolist(), 3, weights) == wanted
    (edge, weight), *_ = weights.items()
    for changed in (weights | {edge: weight + 0.5}, {pair: w for pair, w in weights.items() if pair != edge}):
        actual = digests(range(20), 1000, changed)
        assert {name for name in wanted if actual.get(name) != wanted[name]} == {names[edge[0]]}


def test_equal_weights_take_no_room(spark, tmp_path):
    rows = [("a", "b", 2.0), ("b", "c", 2.0)]
    run, _, _, size = build(spark, tmp_path, rows, GraphConfig())
    graph = csr.open_graph(run.stage_path("adjacency"), size, directed=False)
    assert (size.weighted, len(graph.cumulative)) == (False, 0)
    assert graph.indptr.tolist() == [0, 2, 3, 4]


def test_the_lists_do_not_depend_on_the_partitioning(spark, tmp_path):
    rows, actual = random_edges(300), []
    for number in (1, 7):
        with setting(spark, "spark.sql.shuffle.partitions", str(number)):
            run, _, _, size = build(spark, tmp_path / str(number), rows[::-1] if number == 7 else rows, GraphConfig())
            graph = csr.open_graph(run.stage_path("adjacency"), size, directed=False)
            actual.append([array.tobytes() for array in (graph.indptr, graph.indices, graph.cumulative)])
    assert actual[0] == actual[1]


def test_components_are_those_of_a_search(spark, tmp_path):
    rows = [("a", "b", 1.0), ("b", "c", 1.0), ("d", "e", 1.0), ("f", "f", 1.0)]
    run, vertices, lists, size = build(spark, tmp_path, rows, GraphConfig())
    figures = graph_stats.describe(lists, vertices, run.stage_path("adjacency"), size, directed=False)
    assert figures["graph/components"] == 3
    assert figures["graph/greatest_component_share"] == 0.5
    assert figures["graph/greatest_degree"] == 2
