"""Moments over Spark against bare numpy."""

import numpy as np
import pytest
import vector_tables

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.fit import covariance
from embedall_spark.latent.preprocessing import Preparation, prepare
from embedall_spark.schemas import PAIRS


def table(spark, pairs, partitions=3):
    return spark.createDataFrame(pairs, PAIRS).repartition(partitions)


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(4)
    x, y = random.standard_normal((60, 7)).astype(np.float32) + 900, random.gamma(1, 2, (40, 5)).astype(np.float32)
    pairs = [(f"l{a}", f"r{b}", w) for a, b, w in zip(
        random.integers(0, 63, 300), random.integers(0, 42, 300), random.choice([0.5, 2.0, None], 300), strict=True
    )]  # fmt: skip
    return x, y, [(a, b, None if w is None else float(w)) for a, b, w in pairs]


def joined(x, y, pairs):
    usable = [(int(a[1:]), int(b[1:]), w or 1.0) for a, b, w in pairs if int(a[1:]) < len(x) and int(b[1:]) < len(y)]
    a, b, w = (np.array(column) for column in zip(*usable, strict=True))
    return x[a].astype(float), y[b].astype(float), w


@pytest.mark.parametrize("prepared", [(Preparation(), Preparation()), (Preparation(), Preparation(0.5, True))])
def test_moments_equal_numpys_for_any_partitioning(spark, monkeypatch, data, prepared):
    x, y, pairs = data
    # Several panels, and blocks of a few rows.
    monkeypatch.setattr(covariance, "_PANEL_BYTES", 300)
    monkeypatch.setattr(covariance, "_BLOCK_BYTES", 2000)
    a, b, w = joined(x, y, pairs)
    z = np.hstack([prepare(a, prepared[0]), prepare(b, prepared[1])])
    expected = np.cov(z.T, aweights=w, bias=True)
    for partitions in (1, 5):
        left = vector_tables.table(spark, [f"l{i}" for i in range(60)], x, partitions=partitions)
        right = vector_tables.table(spark, [f"r{i}" for i in range(40)], y, partitions=partitions)
        moments = covariance.of_pairs(left, right, table(spark, pairs, partitions), prepared)
        assert (moments.rows, moments.skipped, moments.left) == (len(w), 0, 7)
        assert moments.weight == pytest.approx(w.sum())
        np.testing.assert_allclose(moments.mean, np.average(z, axis=0, weights=w), rtol=1e-12)
        np.testing.assert_allclose(moments.scatter / moments.weight, expected, rtol=1e-9, atol=1e-9)
        xx, yy, xy = moments.covariances
        np.testing.assert_allclose(np.block([[xx, xy], [xy.T, yy]]), expected, rtol=1e-9, atol=1e-9)


def test_values_that_are_not_finite_and_unusable_weights_are_left_out(spark, data):
    x, y, _ = data
    x, y = x[:4].copy(), y[:4].copy()
    x[1, 2], y[2, 0] = np.nan, np.inf
    left = vector_tables.table(spark, ["l0", "l1", "l2", "l3"], x)
    right = vector_tables.table(spark, ["r0", "r1", "r2", "r3"], y)
    pairs = [("l0", "r0", 1.0), ("l1", "r0", 1.0), ("l0", "r2", 1.0), ("l3", "r3", 2.0), ("l2", "r1", 0.0)]
    pairs += [("l2", "r1", float("nan")), ("l2", "r1", -1.0)]
    moments = covariance.of_pairs(left, right, table(spark, pairs))
    assert (moments.rows, moments.skipped, moments.weight) == (2, 5, 3.0)
    z = np.hstack([x, y])[[0, 3]].astype(float)
    np.testing.assert_allclose(moments.mean, (z[0] + 2 * z[1]) / 3)
    with pytest.raises(BadData, match=r"no pair can be used: .* 1 were left out"):
        covariance.of_pairs(left, right, table(spark, [("l1", "r0", None), ("none", "r0", None)]))
    with pytest.raises(BadData, match="no pair can be used"):
        covariance.of_pairs(left, right, table(spark, [("none", "r0", None)]))


def test_one_side_alone(spark, data):
    x = data[0]
    moments = covariance.of_vectors(vector_tables.table(spark, [str(i) for i in range(60)], x))
    np.testing.assert_allclose(moments.scatter / 60, np.cov(x.T.astype(float), bias=True), rtol=1e-9)


def test_too_many_dimensions_and_empty_tables_are_refused(spark):
    long = vector_tables.table(spark, ["a"], np.ones((1, covariance.MAX_SIZE + 1)))
    with pytest.raises(
        ConfigError, match="the left side have 4,097 dimensions, and the closed form takes at most 4,096"
    ):
        covariance.of_vectors(long)
    with pytest.raises(BadData, match="the left side has no vectors"):
        covariance.of_vectors(long.where("id = 'b'"))


def test_merged_moments_are_those_of_all_rows():
    random = np.random.default_rng(1)
    z, w = random.standard_normal((50, 6)) + 1e6, random.uniform(0.1, 3, 50)
    whole = covariance.of_arrays(z, 2, w)
    parts = [covariance.of_arrays(z[s], 2, w[s]) for s in (slice(0, 0), slice(0, 1), slice(1, 20), slice(20, 50))]
    merged = parts[0]
    for part in parts[1:]:
        merged = covariance.merge(merged, part)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-8)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    assert (merged.rows, merged.left) == (50, 2)
    # Far from 0 a sum of squares would have lost these digits.
    exact = np.cov((z - 1e6).T, aweights=w, bias=True)
    np.testing.assert_allclose(whole.scatter / whole.weight, exact, rtol=1e-8, atol=1e-10)


def test_prepared_rows():
    rows = prepare(np.array([[4.0, -9.0], [0.0, 0.0]], np.float32), Preparation(0.5, True))
    np.testing.assert_allclose(rows, [[2 / 13**0.5, -3 / 13**0.5], [0, 0]])
