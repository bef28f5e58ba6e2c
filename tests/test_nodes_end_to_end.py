"""Nodes from edges to vectors: communities are found, what has no vector is told, reruns end the same."""

from collections import Counter

import numpy as np
import pytest
import yaml
from cli_runner import embedall
from conftest import setting, shared
from fake_run import FakeRun
from vector_tables import bits

from embedall_spark import config as configs
from embedall_spark import tables
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.kinds import nodes
from embedall_spark.sources import edges
from embedall_spark.train.config import TrainConfig

SMALL = {"vector_size": 16, "window": 4, "epochs": 2, "alpha": 0.05, "sample": 0, "threads": 1}


def rings(rings=4, size=40, seed=2):
    """Return the edges of rings with chords inside and few edges between, names that are text."""
    random = np.random.default_rng(seed)
    links = []
    for ring in range(rings):
        for at in range(size):
            links.append((ring, at, ring, (at + 1) % size))
            links += [(ring, at, ring, int(random.integers(size))) for _ in range(3)]
        links.append((ring, 0, (ring + 1) % rings, 1))
    return [(f"r{a}-{b}", f"r{c}-{d}") for a, b, c, d in links]


def config(**sections):
    values = {"input": {"path": "given"}, "output": {"table": "none"}, "train": SMALL}
    return configs.parse(nodes.Config, values | sections)


def as_edges(spark, rows):
    return edges.check(
        spark.createDataFrame(rows, "src string, dst string").selectExpr(
            "src", "dst", "'test' AS origin", "CAST(null AS string) AS problem"
        )
    )


def share_of_neighbors(rows):
    """Return how often the three nearest of a vertex are of its ring."""
    matrix = np.array([row.vector for row in rows])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    scores = matrix @ matrix.T
    np.fill_diagonal(scores, -1)
    ring = np.array([row.id.partition("-")[0] for row in rows])
    return np.mean(ring[np.argsort(-scores, axis=1)[:, :3]] == ring[:, None])


@pytest.mark.parametrize("workers", [1, 2])
def test_rings_are_told_apart(spark, tmp_path, workers):
    """One worker learns without a fifth of the edges, and tells them from pairs that are none."""
    run = FakeRun(spark, tmp_path)
    evaluate = {"holdout": 0.2 if workers == 1 else 0.0, "map_nodes": 0}
    settings = config(train=SMALL | {"workers": workers}, evaluate=evaluate)
    vectors = nodes.embed(run, as_edges(spark, rings()), settings)
    rows = vectors.collect()
    assert {row.id for row in rows} == {end for edge in rings() for end in edge}
    assert {row.kind for row in rows} == {"nodes"}
    # Ten walks start from each; there is no dead end.
    assert sum(row["count"] for row in rows) == 10 * 80 * len(rows)
    assert share_of_neighbors(rows) > 0.9
    assert run.metrics[0][0] == "graph/vertices"
    figures = nodes.evaluate(run, vectors, settings)
    assert figures["links/auc"] > 0.8 if workers == 1 else figures == {}


def test_a_graph_frame_with_sinks_loops_and_isolated_vertices(spark, tmp_path):
    sinks = {f"sink{number}" for number in range(40)}

    class Graph:
        vertices = spark.createDataFrame([("a",), ("b",), ("alone",), (None,), *zip(sinks)], "id string")
        edges = spark.createDataFrame(
            [("a", "b"), ("b", "a"), ("loop", "loop"), *(("b", sink) for sink in sinks)], "src string, dst string"
        )

    run = FakeRun(spark, tmp_path)
    settings = config(graph={"directed": True}, walks={"num_walks": 3, "walk_length": 6})
    actual = {row.id: row["count"] for row in nodes.embed(run, Graph(), settings).collect()}
    assert {"a", "b", "loop"} < actual.keys() < {"a", "b", "loop", *sinks}
    assert actual["loop"] == 3 * 6
    metrics = dict((name, value) for name, value, _ in run.metrics)
    assert metrics["graph/isolated"] == 1
    # Six walks end in as many sinks at most.
    assert metrics["graph/unmet"] == 43 - len(actual)


def test_bad_edges_reach_the_rejects_and_too_many_stop_the_run(spark, tmp_path):
    rows = [("a", "b"), ("b", "c"), ("c", "a"), ("loop", "loop"), (None, "a")]
    run, no_loops = FakeRun(spark, tmp_path, max_reject_share=0.5), config(graph={"self_loops": False})
    # What has no edge but to itself has none.
    assert {row.id for row in nodes.embed(run, as_edges(spark, rows), no_loops).collect()} == {"a", "b", "c"}
    assert [row.reason for row in run.rejects[0].collect()] == ["src is null or empty"]
    with pytest.raises(BadData, match="1 of 5"):
        nodes.embed(FakeRun(spark, tmp_path / "2"), as_edges(spark, rows), config())
    with pytest.raises(BadData, match=r"no edge but self-loops.*graph\.self_loops"):
        nodes.embed(FakeRun(spark, tmp_path / "3"), as_edges(spark, [("a", "a")]), no_loops)


@pytest.fixture(scope="module")
def done(spark, own_store, tmp_path_factory):
    """A folder with a configuration, and what the command has told of its run."""
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "edges.txt").write_text("".join(f"{a} {b}\n" for a, b in rings(2, 20)))
    values = {
        "input": {"path": f"{folder}/edges.txt"},
        "output": {"table": f"{folder}/output/nodes"},
        "walks": {"num_walks": 2, "walk_length": 10, "table": f"{folder}/output/walks", "names": True},
        "train": SMALL,
        "evaluate": {"map_nodes": 0, "metadata": {"prefix": "-"}, "shares": [0.5], "splits": 2},
    }
    (folder / "nodes.yaml").write_text(yaml.safe_dump(values))
    return folder, embedall("nodes", "--config", folder / "nodes.yaml", "--run-id", "night")


def test_the_command_writes_the_walks_and_repeats_nothing(spark, done):
    folder, first = done
    assert first.code == 0, first.log
    assert first.summary["rows"] == 40
    assert first.summary["metrics"]["purity/neighbours"] > 0.8
    assert first.summary["metrics"]["classification/macro_f1_50"] > 0.8
    assert "graph: 40 vertices" in first.log
    walks = spark.read.format("delta").load(f"{folder}/output/walks").collect()
    assert len(walks) == 80
    assert {token for walk in walks for token in walk["tokens"]} == {end for edge in rings(2, 20) for end in edge}
    again = embedall("nodes", "--config", folder / "nodes.yaml", "--run-id", "night")
    assert again.summary["repeated"]
    neighbors = embedall("similar", f"{folder}/output/nodes", "r0-3")
    assert neighbors.code == 0
    assert "r0-" in neighbors.output


def evolving(**options):
    walks = {"num_walks": 2, "walk_length": 10, "nodes": "changed", "table": "walks", "names": True}
    return config(walks=walks, train=SMALL | {"context": True, **options})


@pytest.fixture(scope="module")
def first_night(spark, tmp_path_factory):
    """The table of a night in which all nodes are new."""
    folder = tmp_path_factory.mktemp("first_night")
    shuffled = as_edges(spark, rings(2, 20)[::-1]).repartition(5)
    with setting(spark, "spark.sql.shuffle.partitions", "5"):
        rows = nodes.embed(FakeRun(spark, folder), shuffled, evolving(), report=False)
        rows.write.format("delta").save(f"{folder}/table")
    return f"{folder}/table"


def test_the_table_is_the_same_whatever_the_partitions(spark, done, first_night):
    assert bits(tables.read(spark, first_night)) == bits(tables.read(spark, f"{done[0]}/output/nodes"))


def test_walks_start_at_what_has_changed(spark, first_night, tmp_path):
    """One node is new, one has lost an edge, and the order of all ids is another one."""
    before = {row.id: row for row in tables.read(spark, first_night).collect()}
    graph = [(a, b) for a, b in rings(2, 20) if {a, b} != {"r0-5", "r0-6"}]
    ends = {"new", "r1-7", "r0-5", "r0-6"}
    run, options = FakeRun(spark, tmp_path), evolving(start=first_night, epochs=1)
    table = nodes.embed(run, as_edges(spark, [("new", "r1-7"), *graph]), options, report=False)
    rows = {row.id: row for row in table.collect()}
    assert rows.keys() == {"new", *before}
    assert {key for key in rows if key not in before or rows[key].digest != before[key].digest} == ends
    assert ("graph/changed", 4.0, None) in run.metrics
    walks = [row.tokens for row in run.tables["walks"].collect()]
    assert Counter(walk[0] for walk in walks) == dict.fromkeys(ends, 2)
    visits = Counter(token for walk in walks for token in walk)
    counts = {key: before[key]["count"] if key in before else 0 for key in rows}
    assert {key: row["count"] for key, row in rows.items()} == {key: max(visits[key], counts[key]) for key in rows}
    still = [key for key in before if key not in visits]
    assert still
    assert all(rows[key].vector == before[key].vector for key in still)
    assert any(rows[key].vector != before[key].vector for key in before)


def test_where_nothing_has_changed_the_vectors_stay(spark, first_night, tmp_path):
    run = FakeRun(spark, tmp_path)
    same = nodes.embed(run, as_edges(spark, rings(2, 20)), evolving(start=first_night), report=False)
    assert sorted(map(tuple, same.collect())) == sorted(map(tuple, tables.read(spark, first_night).collect()))
    assert ("graph/changed", 0.0, None) in run.metrics


def test_pairs_share_no_negatives_where_the_graph_is_small():
    def size(vertices, given=None):
        return nodes.training(TrainConfig(batch_size=given), vertices).batch_size

    assert [size(34), size(1 << 15), size((1 << 15) + 1)] == [1, 1, None]
    assert size(34, 8) == size(10**6, 8) == 8


def test_what_is_wrong_with_the_configuration_is_told():
    with pytest.raises(ConfigError, match=r"evaluate\.gates\.nothing"):
        nodes.check(config(evaluate={"gates": {"nothing": 1.0}}))
    with pytest.raises(ConfigError, match="until"):
        nodes.check(config(train=SMALL | {"until": {"metric": "analogy"}}))
    with pytest.raises(ConfigError, match=r"walks\.nodes=changed: .* train\.start, which is unset"):
        nodes.check(evolving())
    with pytest.raises(ConfigError, match=r"walks\.nodes=changed is for skip-gram"):
        nodes.check(config(walks={"nodes": "changed"}, train={"method": "glove", "start": "table"}))
    with pytest.raises(ConfigError, match=r"walks\.walk_lenght: unknown key"):
        config(walks={"walk_lenght": 3})


def clusters(spark, folder, count, **sections):
    """Return the run and the k-means cluster of each vertex of a shared graph."""
    from sklearn.cluster import KMeans

    graph = edges.read(spark, edges.EdgesConfig(path=str(shared("graphs", folder.name) / "edges.tsv")))
    settings = config(walks={"num_walks": 80, "walk_length": 40}, **sections)
    run = FakeRun(spark, folder)
    table = nodes.embed(run, graph, settings)
    nodes.evaluate(run, table, settings)
    rows = {row.id: row.vector for row in table.collect()}
    names = sorted(rows)
    groups = KMeans(count, n_init=10, random_state=0).fit_predict(np.array([rows[name] for name in names]))
    return run, dict(zip(names, groups.tolist(), strict=True))


def test_the_clubs_of_karate(spark, tmp_path):
    """Zachary's members split into the clubs that their vectors tell; the map shows them."""
    from sklearn.metrics import normalized_mutual_info_score

    labels = shared("graphs", "karate") / "labels.tsv"
    run, actual = clusters(spark, tmp_path / "karate", 2, evaluate={"metadata": {"path": str(labels)}, "splits": 1})
    clubs = dict(line.split("\t") for line in labels.read_text().splitlines())
    names = sorted(clubs)
    assert normalized_mutual_info_score([clubs[name] for name in names], [actual[name] for name in names]) > 0.6
    assert run.artifacts["map.png"].startswith(b"\x89PNG")


def test_the_communities_of_les_miserables(spark, tmp_path):
    """The clusters of its characters cut few ties (modularity: Newman and Girvan 2004; the best known is 0.56)."""
    run, actual = clusters(spark, tmp_path / "lesmis", 6)
    pairs = [line.split("\t")[:2] for line in (shared("graphs", "lesmis") / "edges.tsv").read_text().splitlines()]
    degree = {name: sum(name in pair for pair in pairs) for name in actual}
    inside = np.mean([actual[a] == actual[b] for a, b in pairs])
    ends = [sum(degree[name] for name in actual if actual[name] == group) for group in range(6)]
    assert inside - sum((total / (2 * len(pairs))) ** 2 for total in ends) > 0.4
    assert run.artifacts["map.png"].startswith(b"\x89PNG")
