"""The fit with its choice of options, against bare numpy: trials, the best one, and the pairs that it is fitted to."""

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
def data(spark):
    """Return both sides' matrices, the part of each pair, and the tables of all three."""
    random = np.random.default_rng(6)
    hidden = random.standard_normal((COUNT, 4))
    left = hidden @ random.standard_normal((4, LEFT)) + 0.7 * random.standard_normal((COUNT, LEFT)) + 1
    right = hidden @ random.standard_normal((4, RIGHT)) + 0.7 * random.standard_normal((COUNT, RIGHT)) - 1
    left, right = left.astype(np.float32), right.astype(np.float32)
    part = np.array(["train", "train", "validation", "test"])[np.arange(COUNT) % 4]
    ids = [f"{i:03d}" for i in range(COUNT)]
    rows = [(name, name, None, str(row_part)) for name, row_part in zip(ids, part, strict=True)]
    pairs = spark.createDataFrame(rows, "left string, right string, weight double, part string")
    return (left, right, part), (vector_tables.table(spark, ids, left), vector_tables.table(spark, ids, right), pairs)


def fit_by_numpy(left, right, regularisation, power, k):
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


def test_every_trial_is_recorded_and_the_best_is_refitted(spark, data, tmp_path):
    (left, right, part), tables = data
    run = FakeRun(spark, tmp_path)
    # The right side has five dimensions, so that there are no six directions.
    config = FitConfig(k=(*SIZES, 6), regularisation=REGULARISATIONS, power=POWERS)
    fitted = model_selection.fit(run, *tables, config, UNIT)
    train, validation = part == "train", part == "validation"
    expected = {}
    for regularisation, power, k in itertools.product(REGULARISATIONS, POWERS, SIZES):
        maps = fit_by_numpy(left[train], right[train], regularisation, power, k)
        expected[(*regularisation, power, k)] = mrr(left[validation], right[validation], *maps)
    names = ("regularisation_left", "regularisation_right", "power", "k")
    actual = {tuple(trial.options[name] for name in names): trial.figures["mrr"] for trial in run.tried}
    assert actual == pytest.approx(expected, abs=1e-9)
    assert [trial.name for trial in run.tried] == [f"try-{i}" for i in range(8)]
    assert len(set(actual.values())) > 1
    chosen = {name: value for name, value, _ in run.metrics if name.startswith("chosen/")}
    chosen_options = tuple(chosen[f"chosen/{name}"] for name in names)
    assert expected[chosen_options] == pytest.approx(max(expected.values()))
    rows = train | validation
    p, q, mean_left, mean_right = fit_by_numpy(left[rows], right[rows], chosen_options[:2], *chosen_options[2:])
    np.testing.assert_allclose(fitted[2].p, p, atol=1e-6)
    np.testing.assert_allclose(fitted[2].q, q, atol=1e-6)
    np.testing.assert_allclose(fitted[0].mean, mean_left, atol=1e-9)
    np.testing.assert_allclose(fitted[1].mean, mean_right, atol=1e-9)
    assert fitted[3].rows == rows.sum()


def test_without_refit_or_a_choice_only_training_pairs_count(spark, data, tmp_path):
    (left, right, part), (first, second, pairs) = data
    run, train = FakeRun(spark, tmp_path), part == "train"
    config = FitConfig(k=3, regularisation=((0.1, 0.1),), power=(1.0,), refit=False)
    fitted = model_selection.fit(run, first, second, pairs, config, UNIT)
    np.testing.assert_allclose(fitted[2].p, fit_by_numpy(left[train], right[train], (0.1, 0.1), 1.0, 3)[0], atol=1e-6)
    assert not run.tried
    # With nothing to choose, validation pairs may be missing.
    without_validation = pairs.where(F.col("part") != "validation")
    refit = config.model_copy(update={"refit": True})
    refitted = model_selection.fit(run, first, second, without_validation, refit, UNIT)
    np.testing.assert_array_equal(refitted[2].p, fitted[2].p)
    with pytest.raises(BadData, match=r"no validation pair to choose options by.* of fit\.k"):
        model_selection.fit(run, first, second, without_validation, config.model_copy(update={"k": (2, 3)}), UNIT)


def test_k_is_one_value_or_a_list():
    assert (FitConfig(k=8).k, FitConfig(k=[8, 16]).k) == ((8,), (8, 16))
    for wrong in (0, [], [8, 0], 10**6, "many"):
        with pytest.raises(ValueError, match="k"):
            FitConfig(k=wrong)
