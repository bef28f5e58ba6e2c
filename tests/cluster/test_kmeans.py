"""Clusters against planted ones and bare numpy; whatever the partitioning."""

import numpy as np
import pyarrow as pa
import pytest
import vector_tables

from embedall_spark.cluster import kmeans
from embedall_spark.errors import BadData, ConfigError


@pytest.fixture(scope="module")
def planted():
    """Five clusters of different size, of any length, in an order that tells nothing."""
    random = np.random.default_rng(3)
    centers = np.eye(8)[:5] + 0.1
    group = np.repeat(np.arange(5), [90, 60, 45, 30, 15])
    vectors = (centers[group] + random.normal(0, 0.08, (240, 8))) * random.uniform(0.5, 20, (240, 1))
    order = random.permutation(240)
    return [f"v{i:03d}" for i in order], vectors[order].astype(np.float32), group[order]


@pytest.fixture(scope="module")
def found(spark, planted):
    ids, vectors, _ = planted
    return kmeans.fit(vector_tables.table(spark, ids, vectors), 5, seed=1).cache()


def rows(found):
    table = found.toArrow().sort_by("id")
    return table["id"].to_pylist(), np.array(table["cluster"]), np.array(table["distance"])


def test_planted_clusters_are_found_largest_first(found, planted):
    ids, _, group = planted
    names, cluster, _ = rows(found)
    assert names == sorted(ids)
    of = dict(zip(ids, group, strict=True))
    assert [of[name] for name in names] == cluster.tolist()
    assert dict(found.dtypes) == {"id": "string", "cluster": "int", "distance": "double"}


def test_distances_are_those_to_the_mean_of_the_unit_vectors(found, planted):
    ids, vectors, _ = planted
    names, cluster, distance = rows(found)
    place = {name: at for at, name in enumerate(ids)}
    units = vectors[[place[name] for name in names]].astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    means = np.stack([units[cluster == number].mean(axis=0) for number in range(5)])
    np.testing.assert_allclose(distance, np.linalg.norm(units - means[cluster], axis=1), atol=1e-5)


def test_partitioning_changes_nothing(spark, found, planted):
    ids, vectors, _ = planted
    order = np.random.default_rng(0).permutation(len(ids))
    other = kmeans.fit(vector_tables.table(spark, [ids[i] for i in order], vectors[order], partitions=7), 5, seed=1)
    mine, theirs = rows(found), rows(other)
    assert mine[0] == theirs[0] and mine[1].tolist() == theirs[1].tolist()
    np.testing.assert_allclose(mine[2], theirs[2], atol=1e-9)


def test_nearest_members_by_brute_force(found):
    names, cluster, distance = rows(found)
    got = kmeans.nearest(found, 3).toArrow().sort_by([("cluster", "ascending"), ("rank", "ascending")]).to_pylist()
    assert len(got) == 15
    for number in range(5):
        members = sorted((d, name) for name, c, d in zip(names, cluster, distance, strict=True) if c == number)[:3]
        here = [row for row in got if row["cluster"] == number]
        assert [(row["distance"], row["id"]) for row in here] == members and [row["rank"] for row in here] == [1, 2, 3]


def test_equal_vectors_share_a_cluster_and_zeros_have_one(spark):
    vectors = np.array([[1, 0]] * 6 + [[0, 2]] * 3 + [[0, 0]], dtype=np.float32)
    actual = kmeans.fit(vector_tables.table(spark, [f"{i}" for i in range(10)], vectors), 6)
    _, cluster, distance = rows(actual)
    assert cluster.tolist() == [0] * 6 + [1] * 3 + [2]
    np.testing.assert_allclose(distance, 0, atol=1e-7)


def test_what_cannot_be_clustered_is_told(spark, monkeypatch):
    table = vector_tables.table(spark, ["a", "b"], np.eye(2))
    with pytest.raises(ConfigError, match="2 clusters or more"):
        kmeans.fit(table, 1)
    with pytest.raises(BadData, match="k = 3 clusters of 2 vectors"):
        kmeans.fit(table, 3)
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="at most k = 1 is possible"):
        patch.setattr(kmeans, "MAX_CENTER_BYTES", 31)
        kmeans.fit(table, 2)

    def uneven(*vectors):
        column = pa.array(vectors, pa.list_(pa.float32()))
        return spark.createDataFrame(pa.table({"id": pa.array(["a", "b"]), "vector": column}))

    with pytest.raises(BadData, match="of 1 and of 2 dimensions"):
        kmeans.fit(uneven([1.0], [1.0, 2.0]), 2)
    with pytest.raises(BadData, match="1 of 2 vectors have"):
        kmeans.fit(uneven([1.0, 2.0], [1.0, float("nan")]), 2)
