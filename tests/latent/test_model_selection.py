"""The fit with its choice of options, against bare numpy: what is tried, what is chosen, and on what it is fitted."""

import itertools

import numpy as np
import pytest
import vector_tables
from fake_run import FakeRun
from pyspark.sql import functions as F

from embedall_spark.errors import BadData
from embedall_spark.latent.fit import model_selection
from embedall_spark.latent.fit.model_selection import FitConfig
from embedall_spark.latent.latent_model import UNIT

COUNT, LEFT, RIGHT = 240, 7, 5
REGULARISATIONS, POWERS, SIZES = ((0.1, 0.1), (10.0, 0.01)), (0.0, 2.0), (2, 4)


@pytest.fixture(scope="module")
def given(spark):
    """Return both sides' matrices, the part of each pair, and the tables of all three."""
    random = np.random.default_rng(6)
    hidden = random.standard_normal((COUNT, 4))
    left = hidden @ random.standard_normal((4, LEFT)) + 0.7 * random.standard_normal((COUNT, LEFT)) + 1
    right = hidden @ random.standard_normal((4, RIGHT)) + 0.7 * random.standard_normal((COUNT, RIGHT)) - 1
    left, right = left.astype(np.float32), right.astype(np.float32)
    part = np.array(["train", "train", "validation", "test"])[np.arange(COUNT) % 4]
    ids = [f"{at:03d}" for at in range(COUNT)]
    rows = [(name, name, None, str(one)) for name, one in zip(ids, part, strict=True)]
    pairs = spark.createDataFrame(rows, "left string, right string, weight double, part string")
    return (left, right, part), (vector_tables.table(spark, ids, left), vector_tables.table(spark, ids, right), pairs)


def by_numpy(left, right, regularisation, power, k):
    """Return P, Q and the means by Cholesky factors; float64 throughout."""
    x, y = (side.astype(float) / np.linalg.norm(side.astype(float), axis=1, keepdims=True) for side in (left, right))
    means = x.mean(axis=0), y.mean(axis=0)
    x, y = x - means[0], y - means[1]
    roots = []
    for side, share in zip((x, y), regularisation, strict=True):
        covariance = side.T @ side / len(side)
        size = len(covariance)
        roots.append(np.linalg.inv(np.linalg.cholesky(covariance + share * np.trace(covariance) / size * np.eye(size))))
    u, strengths, v = np.linalg.svd(roots[0] @ (x.T @ y / len(x)) @ roots[1].T)
    p, q = (roots[0].T @ u)[:, :k] * strengths[:k] ** power, (roots[1].T @ v.T)[:, :k] * strengths[:k] ** power
    signs = np.sign(p[np.abs(p).argmax(axis=0), np.arange(k)])
    return p * signs, q * signs, *means


def mrr(left, right, p, q, mean_left, mean_right):
    """Return the mean reciprocal rank of both ways among pairs of equal rows."""
    x, y = (side.astype(float) / np.linalg.norm(side.astype(float), axis=1, keepdims=True) for side in (left, right))
    x, y = (x - mean_left) @ p, (y - mean_right) @ q
    cosines = (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=1)[:, None]).T
    ranks = [(matrix > matrix.diagonal()[:, None]).sum(axis=1) + 1 for matrix in (cosines, cosines.T)]
    return np.mean([(1 / rank).mean() for rank in ranks])


def test_every_try_is_recorded_and_the_best_is_fitted_once_more(spark, given, tmp_path):
    (left, right, part), tables = given
    run = FakeRun(spark, tmp_path)
    # Of five numbers on the right there are no six directions.
    config = FitConfig(k=(*SIZES, 6), regularisation=REGULARISATIONS, power=POWERS)
    found = model_selection.fit(run, *tables, config, UNIT)
    train, held = part == "train", part == "validation"
    wished = {}
    for regularisation, power, k in itertools.product(REGULARISATIONS, POWERS, SIZES):
        maps = by_numpy(left[train], right[train], regularisation, power, k)
        wished[(*regularisation, power, k)] = mrr(left[held], right[held], *maps)
    names = ("regularisation_left", "regularisation_right", "power", "k")
    tried = {tuple(one.options[name] for name in names): one.figures["mrr"] for one in run.tried}
    assert tried == pytest.approx(wished, abs=1e-9)
    assert [one.name for one in run.tried] == [f"try-{at}" for at in range(8)]
    assert len(set(tried.values())) > 1
    chosen = {name: value for name, value, _ in run.metrics if name.startswith("chosen/")}
    options = tuple(chosen[f"chosen/{name}"] for name in names)
    assert wished[options] == pytest.approx(max(wished.values()))
    p, q, mean_left, mean_right = by_numpy(left[train | held], right[train | held], options[:2], options[2], options[3])
    np.testing.assert_allclose(found[2].p, p, atol=1e-6)
    np.testing.assert_allclose(found[2].q, q, atol=1e-6)
    np.testing.assert_allclose(found[0].mean, mean_left, atol=1e-9)
    np.testing.assert_allclose(found[1].mean, mean_right, atol=1e-9)
    assert found[3].rows == (train | held).sum()


def test_without_refit_and_with_one_try_training_pairs_alone_count(spark, given, tmp_path):
    (left, right, part), (first, second, pairs) = given
    run, train = FakeRun(spark, tmp_path), part == "train"
    config = FitConfig(k=3, regularisation=((0.1, 0.1),), power=(1.0,), refit=False)
    found = model_selection.fit(run, first, second, pairs, config, UNIT)
    np.testing.assert_allclose(found[2].p, by_numpy(left[train], right[train], (0.1, 0.1), 1.0, 3)[0], atol=1e-6)
    assert not run.tried
    # With nothing to choose, validation pairs may be missing.
    few = pairs.where(F.col("part") != "validation")
    same = model_selection.fit(run, first, second, few, config.model_copy(update={"refit": True}), UNIT)
    np.testing.assert_array_equal(same[2].p, found[2].p)
    with pytest.raises(BadData, match=r"no validation pair to choose options by.* of fit\.k"):
        model_selection.fit(run, first, second, few, config.model_copy(update={"k": (2, 3)}), UNIT)


def test_sizes_are_one_number_or_several():
    assert (FitConfig(k=8).k, FitConfig(k=[8, 16]).k) == ((8,), (8, 16))
    for wrong in (0, [], [8, 0], 10**6, "many"):
        with pytest.raises(ValueError, match="k"):
            FitConfig(k=wrong)
