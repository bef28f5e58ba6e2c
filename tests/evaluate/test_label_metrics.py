from __future__ import annotations

import logging

import numpy as np
import pytest
from vector_tables import here, table

from embedall_spark.evaluate import label_metrics, node_classification

IDS = [f"é{i:03}" for i in range(120)]


@pytest.fixture(scope="module")
def data():
    """Return vectors of three groups, and the labels of all but every tenth id: its group, and odd ones "odd" too."""
    rng = np.random.default_rng(3)
    group = np.arange(120) % 3
    matrix = (rng.normal(size=(3, 8))[group] * 1.5 + rng.normal(size=(120, 8))).astype(np.float32)
    has = {
        name: {f"g{group[i]}"} | ({"odd"} if i % 2 else set()) for i, name in enumerate(IDS) if i % 10 and i % 3 != 2
    } | {name: {"g2"} for i, name in enumerate(IDS) if i % 10 and i % 3 == 2}
    return matrix, has


@pytest.fixture(scope="module")
def tables(spark, data):
    matrix, has = data
    pairs = [(name, label, None) for name, names in has.items() for label in names] + [("not in the table", "g1", None)]
    metadata = spark.createDataFrame([*pairs, (IDS[0], None, "a title")], "id string, label string, title string")
    return table(spark, IDS, matrix, partitions=3).cache(), metadata.cache()


def test_purity_same_as_brute_force(tables, data):
    matrix, has = data
    at = [i for i, name in enumerate(IDS) if name in has]
    units = matrix[at] / np.linalg.norm(matrix[at], axis=1, keepdims=True)
    cosines = units @ units.T - 2 * np.eye(len(at))
    sets = [has[IDS[i]] for i in at]
    neighbors = [[bool(sets[row] & sets[j]) for j in np.argsort(-cosines[row])[:7]] for row in range(len(at))]
    pairs = [bool(a & b) for i, a in enumerate(sets) for j, b in enumerate(sets) if i != j]
    actual = label_metrics.purity(*tables, 7)
    assert actual == pytest.approx({"purity/neighbours": np.mean(neighbors), "purity/chance": np.mean(pairs)})
    sample = label_metrics.purity(*tables, 7, limit=40, seed=2)
    assert sample == label_metrics.purity(tables[0].repartition(7), tables[1].repartition(1), 7, limit=40, seed=2)
    assert sample != actual
    without_spark = here(tables[0]), tables[1].toArrow()
    assert label_metrics.purity(*without_spark, 7, limit=40, seed=2) == sample
    assert label_metrics.purity(*without_spark, 7) == actual
    assert sample["purity/neighbours"] == pytest.approx(actual["purity/neighbours"], abs=0.1)


def test_classification_is_that_of_the_labeled_ids_whatever_the_partitioning(tables, data):
    matrix, has = data
    at = [i for i, name in enumerate(IDS) if name in has]
    names = ["g2", "g0", "g1", "odd"]
    counts = {name: sum(name in has[IDS[i]] for i in at) for name in names}
    names = sorted(names, key=lambda name: (-counts[name], name))
    member = np.array([[name in has[IDS[i]] for name in names] for i in at])
    expected = node_classification.learn(matrix[at], member, (0.5, 0.05), 2, 9)
    actual = label_metrics.classification(tables[0].repartition(5), tables[1].repartition(3), (0.5, 0.05), 2, seed=9)
    assert actual == label_metrics.classification(here(tables[0]), tables[1].toArrow(), (0.5, 0.05), 2, seed=9)
    assert list(actual) == label_metrics.figures((0.5, 0.05))
    assert list(actual.values()) == [value for result in expected for f1 in result for value in f1]
    assert actual["classification/micro_f1_50"] > actual["classification/majority_micro_f1_50"] + 0.2
    assert actual["classification/macro_f1_5"] > 0


def test_limits_and_tables_without_labels(tables, caplog, monkeypatch):
    vectors, metadata = tables
    nothing = metadata.where("label = 'none such'")
    assert label_metrics.purity(vectors, nothing) == {}
    assert label_metrics.classification(vectors, nothing) == {}
    assert "0 ids of the table have one" in caplog.text
    sample = metadata.where(metadata["id"].isin(IDS[1:10]))
    assert label_metrics.classification(vectors, sample) == {}
    assert "9 ids of the table have one; classification needs 10, and is left out" in caplog.text
    same = metadata.where("label = 'g1'")
    assert label_metrics.classification(vectors, same) == {}
    assert "36 ids have the same one; classification needs two" in caplog.text
    monkeypatch.setattr(label_metrics, "MAX_LABELS", 2)
    with caplog.at_level(logging.INFO):
        label_metrics.classification(vectors, metadata, (0.5,), 1, limit=50)
    assert "4 different ones; only the most frequent 2 are used" in caplog.text
