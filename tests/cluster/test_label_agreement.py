"""Purity and NMI against scikit-learn and a plain count."""

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from embedall_spark.cluster import label_agreement


def tables(spark, clusters, labels):
    assigned = spark.createDataFrame([(f"{i}", int(c)) for i, c in enumerate(clusters)], "id string, cluster int")
    metadata = [(f"{i}", label) for i, label in enumerate(labels)]
    return assigned, spark.createDataFrame(metadata, "id string, label string")


def test_figures_are_those_of_scikit_learn(spark):
    random = np.random.default_rng(5)
    truth = random.integers(0, 6, 400)
    clusters = np.where(random.random(400) < 0.3, random.integers(0, 4, 400), truth)
    actual = label_agreement.purity_nmi(*tables(spark, clusters, [f"label {t}" for t in truth]))
    assert actual["clusters/nmi"] == pytest.approx(normalized_mutual_info_score(truth, clusters), abs=1e-9)
    pure = sum(max(Counter(truth[clusters == number]).values()) for number in set(clusters))
    assert actual["clusters/purity"] == pytest.approx(pure / 400, abs=1e-12)


@pytest.mark.parametrize(("clusters", "labels"), [([0, 0], "aa"), ([0, 1], "aa"), ([0, 0], "ab")])
def test_single_clusters_and_labels(spark, clusters, labels):
    actual = label_agreement.purity_nmi(*tables(spark, clusters, labels))
    assert actual["clusters/nmi"] == pytest.approx(normalized_mutual_info_score(list(labels), clusters), abs=1e-12)


def test_only_labeled_ids_count_each_once(spark):
    assigned, metadata = tables(spark, [0, 0, 0, 1, 1], ["a", "a", None, "b", None])
    more = spark.createDataFrame([("0", "z"), ("nobody", "a")], "id string, label string")
    actual = label_agreement.purity_nmi(assigned, metadata.union(more).union(metadata))
    assert actual == {"clusters/purity": 1.0, "clusters/nmi": pytest.approx(1.0)}
    assert label_agreement.purity_nmi(assigned, metadata.where("label is null")) == {}
