"""Walks as Spark jobs: whatever task draws them they are the same ones, from every vertex as many."""

import itertools
import os
import signal
from collections import Counter

import numpy as np
import pytest
from fake_run import FakeRun

from embedall_spark.corpus import blocks as blocking
from embedall_spark.graph import adjacency, walk_jobs
from embedall_spark.graph.adjacency import GraphConfig
from embedall_spark.graph.walk_jobs import Walks, WalksConfig
from embedall_spark.schemas import ENCODED


@pytest.fixture(scope="module")
def result(spark, tmp_path_factory):
    """Return a directed weighted graph with dead ends, as (Walks, folder of names, names)."""
    run = FakeRun(spark, tmp_path_factory.mktemp("walks"))
    random = np.random.default_rng(5)
    ends = random.integers(0, 50, (300, 2))
    ends = ends[ends[:, 0] % 7 != 3]  # these have no way out
    rows = [(f"v{a}", f"v{b}", float(w)) for (a, b), w in zip(ends, random.integers(1, 4, len(ends)), strict=True)]
    edges, config = spark.createDataFrame(rows, "src string, dst string, weight double"), GraphConfig(directed=True)
    vertices, _, size = adjacency.build_stages(run, edges, config)
    names = [row["token"] for row in vertices.orderBy("id").collect()]
    config = WalksConfig(num_walks=4, walk_length=9, p=0.5, q=2.0)
    return Walks(run.stage_path("adjacency"), size, True, config, 11), run.stage_path("vertices"), names


def all_walks(spark, walks):
    return {row["id"]: tuple(row["tokens"]) for row in walk_jobs.as_encoded(spark, walks).collect()}


def blocks_of(feed, wanted=None):
    rows = feed.select(wanted or (lambda numbers: np.ones(len(numbers), bool))).toArrow().combine_chunks().to_batches()
    return [block for batch in rows for block in blocking.unpack(batch)]


def test_every_vertex_with_a_way_out_starts_as_many_walks(spark, result):
    walks, _, names = result
    starts = Counter(tokens[0] for tokens in all_walks(spark, walks).values())
    assert set(starts.values()) == {4}
    assert {names[at] for at in starts} == {name for name in names if int(name[1:]) % 7 != 3}


def test_blocks_hold_the_same_walks_whatever_their_number(spark, result, monkeypatch):
    walks, _, _ = result
    want = all_walks(spark, walks)
    for number in (1, 5):
        monkeypatch.setattr(blocking, "block_count", lambda _, n=number: n)
        feed = walk_jobs.block_source(spark, walks, 1000, threads=2)
        actual = {}
        for block in blocks_of(feed):
            for at, name in enumerate(block.ids):
                actual[int(name)] = tuple(block.tokens[block.offsets[at] : block.offsets[at + 1]].tolist())
        assert actual == want


def test_only_the_wanted_blocks_are_drawn(spark, result, monkeypatch):
    walks, _, _ = result
    monkeypatch.setattr(blocking, "block_count", lambda _: 6)
    feed = walk_jobs.block_source(spark, walks, 1000, threads=1)
    assert sorted(block.number for block in blocks_of(feed, lambda numbers: numbers % 2 == 1)) == [1, 3, 5]


def test_visits_count_the_walks(spark, result):
    walks, _, _ = result
    want = Counter(token for tokens in all_walks(spark, walks).values() for token in tokens)
    assert {row["id"]: row["count"] for row in walk_jobs.visit_counts(spark, walks).collect()} == want


def test_walks_are_the_same_after_a_killed_task(spark, result, tmp_path):
    walks, _, _ = result
    killed = tmp_path / "killed"

    def die_once(batches):
        for batch in batches:
            if not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    drawn = walk_jobs.as_encoded(spark, walks).mapInArrow(die_once, ENCODED)
    with pytest.raises(Exception, match="Python worker exited unexpectedly"):
        drawn.collect()
    assert killed.exists()
    assert {row["id"]: tuple(row["tokens"]) for row in drawn.collect()} == all_walks(spark, walks)


def test_walks_can_be_read_by_name(spark, result):
    walks, folder, names = result
    want = {key: [names[at] for at in tokens] for key, tokens in all_walks(spark, walks).items()}
    assert {row["id"]: row["tokens"] for row in walk_jobs.as_sequences(spark, walks, folder).collect()} == want


def test_walks_follow_edges_and_end_at_dead_ends(spark, result):
    walks, _, _ = result
    from embedall_spark.graph import csr

    graph = csr.open_graph(walks.graph, walks.size, directed=True)
    for tokens in all_walks(spark, walks).values():
        for a, b in itertools.pairwise(tokens):
            assert b in graph.indices[graph.indptr[a] : graph.indptr[a + 1]]
        last = tokens[-1]
        assert len(tokens) == 9 or graph.indptr[last] == graph.indptr[last + 1]
