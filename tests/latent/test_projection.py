"""Vectors projected in tasks against bare numpy."""

import subprocess
import sys

import numpy as np
import pytest
import vector_tables

from embedall_spark.errors import ConfigError
from embedall_spark.latent import projection
from embedall_spark.latent.preprocessing import Preparation
from embedall_spark.schemas import VECTORS, conform


@pytest.fixture(scope="module")
def side():
    random = np.random.default_rng(2)
    return projection.Side(
        random.standard_normal((6, 3)).astype(np.float32), random.standard_normal(6), Preparation(0.5)
    )


def test_vectors_are_projected_to_unit_length_and_keep_their_columns(spark, monkeypatch, side):
    monkeypatch.setattr(projection, "_BLOCK_BYTES", 200)
    vectors = np.random.default_rng(1).standard_normal((25, 6)).astype(np.float32)
    table = vector_tables.table(spark, [f"v{at:02}" for at in range(25)], vectors, counts=list(range(25)))
    projected = projection.project(table, side)
    assert projected.columns == [*table.columns, "origin", "problem"]
    conform(projected, VECTORS)
    rows = projected.toArrow().sort_by("id").to_pydict()
    expected = (np.sign(vectors) * np.abs(vectors) ** 0.5 - side.mean) @ side.matrix
    lengths = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(np.array(rows["vector"]), expected / lengths[:, None], atol=1e-6)
    np.testing.assert_allclose(rows["norm"], lengths, rtol=1e-5)
    assert (rows["count"], rows["run_id"][0], rows["problem"][0]) == (list(range(25)), "test", None)


def test_vectors_that_cannot_be_projected_say_why_and_the_others_are(spark):
    side = projection.Side(np.eye(3, 2, dtype=np.float32), np.ones(3))
    vectors = np.array([[1, 1, 5], [2, 1, 1], [np.nan, 1, 1], [np.inf, 1, 1]], np.float32)
    rows = projection.project(vector_tables.table(spark, "abcd", vectors), side).toArrow().sort_by("id").to_pydict()
    assert rows["vector"] == [None, [1.0, 0.0], None, None]
    assert rows["norm"] == [0, 1, 0, 0]
    assert rows["problem"] == [projection.NO_DIRECTION, None, projection.NOT_FINITE, projection.NOT_FINITE]


def test_a_matrix_for_other_vectors_is_refused(spark, side):
    table = vector_tables.table(spark, ["a"], np.ones((1, 4)), partitions=1)
    with pytest.raises(ConfigError, match="the vectors have 4 dimensions and the matrix maps vectors of 6"):
        projection.project(table, side)
    with pytest.raises(ConfigError, match="MiB are sent to a task"):
        projection.project(table, projection.Side(np.zeros((4096, 4097), np.float32), np.zeros(4096)))


def test_a_side_is_stored_without_pickle(tmp_path, side):
    np.savez(tmp_path / "side.npz", **side.to_arrays())
    vectors = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    code = (
        "import sys, numpy as np; from embedall_spark.latent.projection import Side;"
        f"side = Side.from_arrays(np.load({str(tmp_path / 'side.npz')!r}, allow_pickle=False));"
        f"np.save({str(tmp_path / 'there.npy')!r}, side.latent(np.load({str(tmp_path / 'vectors.npy')!r}))[0])"
    )
    np.save(tmp_path / "vectors.npy", vectors)
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "there.npy"), side.latent(vectors)[0])
