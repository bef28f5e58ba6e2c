"""P and Q against scikit-learn, bare numpy and planted directions; degenerate inputs, refused inputs."""

import numpy as np
import pytest
from scipy import linalg
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.fit import cca, covariance


def both(x, y):
    return covariance.of_arrays(np.hstack([x, y]), x.shape[1])


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(1)
    hidden = random.standard_normal((400, 4)) * [2, 1.5, 1, 0.7]
    x = hidden @ random.standard_normal((4, 9)) + random.standard_normal((400, 9)) + 50
    y = hidden @ random.standard_normal((4, 6)) + random.standard_normal((400, 6)) - 7
    return x, y


def test_correlations_and_directions_are_scikit_learns(data):
    x, y = data
    maps = cca.cca(both(x, y), 3, (0, 0))
    theirs = CCA(3, scale=False, tol=1e-14, max_iter=100_000).fit(x, y)
    ours, other = (x - maps.mean_left) @ maps.p, theirs.transform(x, y)[0]
    for direction in range(3):
        correlation = np.corrcoef(ours[:, direction], other[:, direction])[0, 1]
        assert abs(correlation) == pytest.approx(1, abs=1e-6)
        observed = np.corrcoef(ours[:, direction], (y - maps.mean_right) @ maps.q[:, direction])[0, 1]
        assert observed == pytest.approx(maps.strengths[direction], abs=1e-6)
    np.testing.assert_allclose(ours.T @ ours / len(x), np.eye(3), atol=1e-8)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_regularized_cca_solves_the_generalized_eigenproblem(data, power):
    x, y = data
    maps = cca.cca(both(x, y), 5, (0.1, 0.3), power)
    cov = np.cov(np.hstack([x, y]).T, bias=True)
    xx = cov[:9, :9] + 0.1 * np.trace(cov[:9, :9]) / 9 * np.eye(9)
    yy = cov[9:, 9:] + 0.3 * np.trace(cov[9:, 9:]) / 6 * np.eye(6)
    values, vectors = linalg.eigh(cov[:9, 9:] @ np.linalg.solve(yy, cov[9:, :9]), xx)
    values, vectors = np.sqrt(values[::-1][:5]), vectors[:, ::-1][:, :5]
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), range(5)])
    np.testing.assert_allclose(maps.strengths, values, atol=1e-6)
    np.testing.assert_allclose(maps.p, vectors * values**power, atol=1e-6)
    right = np.linalg.solve(yy, cov[9:, :9] @ vectors) / values
    np.testing.assert_allclose(maps.q, right * values**power, atol=1e-6)


@pytest.mark.parametrize("towards", ["left", "right"])
def test_ridge_is_scikit_learns(data, towards):
    x, y = data
    maps = cca.ridge(both(x, y), regularization=0.05, towards=towards)
    source, target = (x, y) if towards == "right" else (y, x)
    alpha = 0.05 * np.var(source, axis=0).mean() * len(x)
    theirs = Ridge(alpha, solver="cholesky").fit(source, target).coef_.T
    mapped, other = (maps.p, maps.q) if towards == "right" else (maps.q, maps.p)
    np.testing.assert_allclose(mapped, theirs, atol=1e-6)
    np.testing.assert_array_equal(other, np.eye(target.shape[1]))


def test_ridge_with_k_keeps_the_directions_that_vary_most(data):
    x, y = data
    full, reduced = (cca.ridge(both(x, y), k) for k in (None, 2))
    fitted = (x - x.mean(axis=0)) @ full.p
    u, s, v = np.linalg.svd(fitted, full_matrices=False)
    best = (u[:, :2] * s[:2]) @ v[:2]
    np.testing.assert_allclose((x - reduced.mean_left) @ reduced.p @ reduced.q.T, best, atol=1e-6)
    np.testing.assert_allclose(reduced.strengths, s[:2] ** 2 / len(x), rtol=1e-6)


def test_planted_maps_are_recovered_to_the_noise_level():
    random = np.random.default_rng(5)
    p, q = (np.linalg.qr(random.standard_normal((d, 3)))[0] for d in (20, 12))
    hidden = random.standard_normal((20_000, 3)) * [3, 2, 1]
    for noise in (0.0, 0.01, 0.1):
        x = hidden @ p.T + noise * random.standard_normal((20_000, 20))
        y = hidden @ q.T + noise * random.standard_normal((20_000, 12))
        maps = cca.cca(both(x, y), 3, (1e-2, 1e-2))
        for actual, planted in ((maps.p, p), (maps.q, q)):
            assert linalg.subspace_angles(actual, planted).max() < 1e-5 + noise
        # What the two sides share is the same whatever the penalty; their scale is not.
        maps = cca.cca(both(x, y), 3, (1e-6, 1e-6))
        mapped = [(s - m) @ a for s, m, a in ((x, maps.mean_left, maps.p), (y, maps.mean_right, maps.q))]
        assert np.abs(mapped[0] - mapped[1]).std() < 1e-5 + 2 * noise


def test_degenerate_sides_are_reduced_to_their_rank(data):
    x, y = data
    x1 = np.hstack([x, x[:, :4], np.full((400, 2), 3.0), x @ np.ones((9, 1))])
    plain, redundant = cca.cca(both(x, y), 4, (0, 0)), cca.cca(both(x1, y), 4, (0, 0))
    np.testing.assert_allclose(redundant.strengths, plain.strengths, atol=1e-8)
    ours, expected = (x1 - redundant.mean_left) @ redundant.p, (x - plain.mean_left) @ plain.p
    np.testing.assert_allclose(np.abs(ours), np.abs(expected), atol=1e-5)
    for fitted in (redundant, cca.ridge(both(x1, y), 3, 0.0), cca.cca(both(x1[:8], y[:8]), 5, (0.1, 0.1))):
        assert all(np.isfinite(part).all() for part in fitted)


def test_one_fit_serves_a_sweep(data):
    x, y = data
    maps = cca.cca(both(x, y))
    for actual, expected in zip(maps.truncated(3, 2.0), cca.cca(both(x, y), 3, power=2.0), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-12)
    with pytest.raises(ConfigError, match="k = 7: need 1 to 6"):
        maps.truncated(7)


def test_the_decoder_is_least_squares(data):
    x, y = data
    maps = cca.cca(both(x, y), 3, power=2.0)
    z = (x - maps.mean_left) @ maps.p
    expected = np.linalg.lstsq(z, y - y.mean(axis=0))[0]
    np.testing.assert_allclose(cca.decoder(both(x, y), maps), expected, atol=1e-8)


def test_signs_do_not_depend_on_the_order_of_rows(data):
    x, y = data
    order = np.random.default_rng(2).permutation(400)
    for fit in (cca.cca, cca.ridge):
        a, b = fit(both(x, y), 4), fit(both(x[order], y[order]), 4)
        for actual, reordered in zip(a, b, strict=True):
            np.testing.assert_allclose(actual, reordered, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, y: cca.cca(both(x[:12], y[:12]), 2, (0, 0)), BadData, "12 pairs for 9 \\+ 6"),
        (lambda x, y: cca.cca(both(x, y), 7), ConfigError, "k = 7: need 1 to 6"),
        (lambda x, y: cca.cca(both(x, y), 0), ConfigError, "k = 0"),
        (lambda x, y: cca.cca(both(x, y), 2, (-1, 0)), ConfigError, "left side: need 0 or above"),
        (lambda x, y: cca.cca(both(x, y), 2, (0, float("nan"))), ConfigError, "right side"),
        (lambda x, y: cca.cca(both(x, y), 2, power=-1), ConfigError, "power"),
        (lambda x, y: cca.cca(both(x * 0 + 3, y), 2), BadData, "left side does not vary"),
        (lambda x, y: cca.ridge(both(x, y * 0), 2), BadData, "right side does not vary"),
        (lambda x, y: cca.cca(both(x[:1], y[:1])), BadData, "does not vary"),
    ],
)
def test_errors_say_why_nothing_can_be_fitted(data, call, error, words):
    with pytest.raises(error, match=words):
        call(*data)


def test_sides_that_have_nothing_in_common_are_refused():
    grid = np.array(np.meshgrid([-1.0, 0, 1], [-1.0, 0, 1])).reshape(2, -1).T
    with pytest.raises(BadData, match="do not correlate"):
        cca.cca(both(grid[:, :1], grid[:, 1:]), 1)
    with pytest.raises(BadData, match="do not correlate"):
        cca.ridge(both(grid[:, :1], grid[:, 1:]))
