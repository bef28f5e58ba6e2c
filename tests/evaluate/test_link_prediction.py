from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from vector_tables import table

from embedall_spark.evaluate import link_prediction
from embedall_spark.schemas import EDGES

NODES, GROUPS = 90, 3
NAMES = [f"é{i:02}" for i in range(NODES)]


@pytest.fixture(scope="module")
def graph(spark):
    """Return the edges of a graph of three communities, most of them in both directions."""
    rng = np.random.default_rng(4)
    group = np.arange(NODES) % GROUPS
    chance = np.where(group[:, None] == group, 0.4, 0.02)
    src, dst = np.nonzero(np.triu(rng.random((NODES, NODES)) < chance, 1))
    rows = [(NAMES[i], NAMES[j]) for i, j in zip(src, dst, strict=True)]
    rows += [(j, i) for i, j in rows[::2]]
    extra = [(None, "a"), ("a", None), (NAMES[0], NAMES[0])]
    rows = [(src, dst, 1.0, None, None) for src, dst in rows + extra]
    return spark.createDataFrame(rows, EDGES).repartition(3).cache()


@pytest.fixture(scope="module")
def vectors(spark):
    """Return vectors that tell the communities, somewhat; the last five nodes have none."""
    rng = np.random.default_rng(5)
    matrix = np.eye(GROUPS)[np.arange(NODES) % GROUPS] + rng.normal(size=(NODES, GROUPS)) * 0.4
    return table(spark, NAMES[:-5], matrix[:-5], partitions=3).cache()


def pairs(df):
    return {frozenset((row.src, row.dst)) for row in df.collect()}


def test_edges_are_held_out_as_pairs(graph):
    training, held_out = link_prediction.split(graph, 0.3, 7)
    assert training.columns == held_out.columns == graph.columns
    assert training.count() + held_out.count() == graph.count()
    assert pairs(held_out).isdisjoint(pairs(training))
    assert 0.22 < len(pairs(held_out)) / len(pairs(graph)) < 0.38
    assert pairs(link_prediction.split(graph.repartition(1), 0.3, 7)[1]) == pairs(held_out)
    assert pairs(link_prediction.split(graph, 0.3, 8)[1]) != pairs(held_out)
    for share, rows in ((0, 0), (1, graph.where("src is not null and dst is not null").count())):
        assert link_prediction.split(graph, share, 7)[1].count() == rows


def test_non_edges_are_pairs_that_are_no_edges(graph, vectors):
    actual = [(row.low, row.high) for row in link_prediction._non_edges(vectors, graph, 100, 3).collect()]
    every = {frozenset(pair) for pair in itertools.combinations(NAMES[:-5], 2)} - pairs(graph)
    assert {frozenset(pair) for pair in actual} <= every
    assert len(set(actual)) == len(actual) >= 100
    # Ten thousand draws meet nearly all of them.
    assert link_prediction._non_edges(vectors, graph, 5_000, 3).count() > 0.9 * len(every)


def test_auc_same_as_on_the_pairs_themselves(graph, vectors):
    held_out = link_prediction.split(graph, 0.5, 7)[1]
    actual = link_prediction.auc(vectors, held_out, graph, seed=3)
    matrix = {row.id: np.array(row.vector) for row in vectors.collect()}
    true = [tuple(pair) for pair in pairs(held_out) if len(pair) == 2 and pair <= matrix.keys()]
    every = [tuple(pair) for pair in {frozenset(p) for p in itertools.combinations(matrix, 2)} - pairs(graph)]
    features = np.array([matrix[a] * matrix[b] for a, b in true + every])
    is_edge = np.repeat([True, False], [len(true), len(every)])
    # In the mean, over all other pairs: no halves, no sample.
    model = LogisticRegression(class_weight="balanced").fit(features, is_edge)
    expected = roc_auc_score(is_edge, model.decision_function(features))
    assert actual["links/auc"] == pytest.approx(expected, abs=0.06)
    assert actual["links/auc"] > 0.7
    assert actual["links/pairs"] == 2 * (len(true) - len(true) // 2)
    assert link_prediction.auc(vectors.repartition(1), held_out.repartition(5), graph, seed=3) == actual
    assert link_prediction.auc(vectors, held_out, graph, limit=60)["links/pairs"] == 30


def test_vectors_that_know_nothing(spark, graph, vectors):
    blind = table(spark, NAMES, np.random.default_rng(6).normal(size=(NODES, 4)))
    held_out = link_prediction.split(graph, 0.5, 7)[1]
    assert link_prediction.auc(blind, held_out, graph)["links/auc"] == pytest.approx(0.5, abs=0.12)
    assert link_prediction.auc(vectors, held_out.limit(3), graph) == {}
    assert link_prediction.auc(vectors.where("id = 'none'"), held_out, graph) == {}
