"""P and Q from moments alone: regularized canonical correlation analysis, and ridge regression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from scipy import linalg

from embedall_spark.errors import BadData, ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedall_spark.latent.fit.covariance import Moments

    Float = NDArray[np.float64]

# Eigenvalues below this fraction of the largest are noise.
_NOISE = 1e-11


class Maps(NamedTuple):
    """Linear maps: a left vector x goes to (x - mean_left) P, a right vector y to (y - mean_right) Q."""

    p: Float
    """float64 [left, k]."""
    q: Float
    """float64 [right, k]."""
    mean_left: Float
    """float64 [left]."""
    mean_right: Float
    """float64 [right]."""
    strengths: Float
    """Canonical correlation of each direction, or the variance that it explains, in descending order; float64 [k]."""

    def truncated(self, k: int, power: float = 0.0) -> Maps:
        """Return the first k directions, each scaled by its strength to a power.

        From the maps of cca() for power 0 this gives those for k and the power, so that one fit serves a whole sweep.

        Raises:
            ConfigError: there are fewer than k directions.
        """
        if not 1 <= k <= len(self.strengths):
            raise ConfigError(_too_many(k, len(self.strengths)))
        scale = self.strengths[:k] ** power
        return self._replace(p=self.p[:, :k] * scale, q=self.q[:, :k] * scale, strengths=self.strengths[:k])


class PrincipalAxes(NamedTuple):
    """Variances of both sides along their principal axes, and the covariances between these: the same for all fits.

    An eigendecomposition takes longest of a fit, and regularization changes the eigenvalues alone.
    """

    left: _Axes
    right: _Axes
    cross: Float
    """Covariances of the left axes with the right axes, float64 [left, right]."""
    moments: Moments

    @classmethod
    def of(cls, moments: Moments) -> PrincipalAxes:
        """Return the principal axes of moments; raises BadData if a side does not vary."""
        covariances = moments.covariances
        left, right = _axes(covariances[0], "left"), _axes(covariances[1], "right")
        return cls(left, right, left.vectors.T @ covariances[2] @ right.vectors, moments)


def cca(
    moments: Moments | PrincipalAxes,
    k: int | None = None,
    regularization: tuple[float, float] = (1e-2, 1e-2),
    power: float = 0.0,
) -> Maps:
    """Return the k pairs of directions along which the two sides correlate most.

    Hotelling 1936, "Relations between Two Sets of Variates"; regularized as in Vinod 1976, "Canonical Ridge and
    Econometrics of Joint Production": a multiple of the identity is added to the covariance of each side. With
    ``power`` 0 each direction has variance 1 on both sides (less what regularization takes); above 0 its coordinate is
    multiplied by its correlation to that power, so that weakly correlated directions count less in a cosine.

    Signs are fixed: the value of largest magnitude in each column of P is positive. Directions of equal correlation are
    determined only up to a rotation among themselves.

    Args:
        moments: of the training pairs; or their principal axes, which are computed once for several fits.
        k: number of directions; None: as many as there are.
        regularization: of the left and of the right side, as a share of the side's mean variance per dimension.
        power: of the correlations.

    Raises:
        ConfigError: an argument is out of range, or there are fewer than k directions.
        BadData: a side does not vary, the sides do not correlate, or without regularization there are too few pairs.
    """
    if power < 0:
        raise ConfigError(f"power {power}: need 0 or above")
    axes = moments if isinstance(moments, PrincipalAxes) else PrincipalAxes.of(moments)
    left, right = _inverse_deviations(axes.left, regularization[0]), _inverse_deviations(axes.right, regularization[1])
    ranks, rows = (np.count_nonzero(left), np.count_nonzero(right)), axes.moments.rows
    if regularization == (0, 0) and sum(ranks) >= rows:
        raise BadData(
            f"{rows:,} pairs for {ranks[0]:,} + {ranks[1]:,} independent dimensions: without regularization "
            "any two such sides correlate perfectly; need more pairs, or regularization above 0"
        )
    a, strengths, b = linalg.svd(left[:, None] * axes.cross * right, full_matrices=False)
    k = _dimension(k, strengths)
    strengths = strengths[:k]
    scale = strengths**power
    p = axes.left.vectors @ (left[:, None] * a[:, :k]) * scale
    q = axes.right.vectors @ (right[:, None] * b[:k].T) * scale
    return _signed(p, q, axes.moments, strengths)


def ridge(
    moments: Moments,
    k: int | None = None,
    regularization: float = 1e-2,
    towards: Literal["right", "left"] = "right",
) -> Maps:
    """Return the ridge regression of one side on the other (Hoerl and Kennard 1970).

    The latent space is the target side's own: its matrix is the identity. With ``k`` both are reduced to the k
    directions in which the predicted vectors vary most (reduced-rank regression, Izenman 1975).

    Args:
        moments: of the training pairs.
        k: number of directions; None: all of the target side.
        regularization: as a share of the source side's mean variance per dimension.
        towards: the target side.

    Raises:
        ConfigError: an argument is out of range, or there are fewer than k directions.
        BadData: a side does not vary, or the sides do not correlate.
    """
    left, right, left_right = moments.covariances
    source, target, cross = (left, right, left_right) if towards == "right" else (right, left, left_right.T)
    names = ("left", "right") if towards == "right" else ("right", "left")
    axes = _axes(source, names[0])
    white = axes.vectors * _inverse_deviations(axes, regularization)
    _check_varies(target, names[1])
    coefficients = white @ (white.T @ cross)
    if k is None:
        explained = np.diagonal(coefficients.T @ source @ coefficients)
        maps = (coefficients, np.eye(len(target)))
        if explained.max() <= 0:
            raise _unrelated()
    else:
        values, vectors = linalg.eigh(coefficients.T @ source @ coefficients)
        k = _dimension(k, np.sqrt(np.maximum(values[::-1], 0)))
        explained, directions = values[::-1][:k], vectors[:, ::-1][:, :k]
        maps = (coefficients @ directions, directions)
    p, q = maps if towards == "right" else maps[::-1]
    if k is None:
        return Maps(p, q, *moments.means, explained)
    return _signed(p, q, moments, explained)


def decoder(moments: Moments, maps: Maps) -> Float:
    """Return the matrix D, float64 [k, right], that predicts the right side's vector from the left side's.

    The prediction is mean_right + (x - mean_left) P D, by least squares over the training pairs. For bags of words it
    estimates how much of each word to expect, so that words can be ranked by it without the disadvantage that frequent
    words have in a cosine.

    Args:
        moments: of the training pairs.
        maps: fitted to them.
    """
    left, _, cross = moments.covariances
    latent = maps.p.T @ left @ maps.p
    matrix: Float = linalg.lstsq(latent, maps.p.T @ cross)[0]
    return matrix


def principal(second: Float) -> Float:
    """Return the first eigenvector of a symmetric matrix, float64 [d], its value of largest magnitude positive."""
    last = len(second) - 1
    vector: Float = linalg.eigh(second, subset_by_index=(last, last))[1][:, 0]
    sign = 1.0 if vector[np.abs(vector).argmax()] > 0 else -1.0
    return sign * vector


class _Axes(NamedTuple):
    """The principal axes of one side."""

    side: str
    variances: Float
    """Along each axis, ascending; float64 [d]."""
    vectors: Float
    """An axis per column, float64 [d, d]."""


def _axes(covariance: Float, side: str) -> _Axes:
    _check_varies(covariance, side)
    values, vectors = linalg.eigh(covariance)
    return _Axes(side, np.maximum(values, 0), vectors)


def _check_varies(covariance: Float, side: str) -> None:
    if not np.diagonal(covariance).max() > 0:
        raise BadData(f"the {side} side does not vary: all its vectors are equal, so nothing can be fitted")


def _inverse_deviations(axes: _Axes, regularization: float) -> Float:
    """Return w, float64 [d]: with the axes V, V diag(w)^2 V' is the pseudo-inverse of the regularized covariance."""
    if not regularization >= 0:
        raise ConfigError(f"regularization of the {axes.side} side: need 0 or above, got {regularization}")
    # The sum of the variances is that of the covariance's diagonal.
    variances = axes.variances + regularization * axes.variances.mean()
    usable = variances > _NOISE * variances[-1]
    inverse: Float = np.zeros_like(variances)
    inverse[usable] = 1 / np.sqrt(variances[usable])
    return inverse


def _dimension(k: int | None, strengths: Float) -> int:
    """Return k, or the number of directions if k is None; refuse a k above it."""
    if not strengths.max(initial=0) > _NOISE:
        raise _unrelated()
    rank = int((strengths > _NOISE * strengths.max()).sum())
    if k is None:
        return rank
    if not 1 <= k <= rank:
        raise ConfigError(_too_many(k, rank))
    return k


def _too_many(k: int, rank: int) -> str:
    return f"k = {k:,}: need 1 to {rank:,}, because the two sides relate along {rank:,} direction(s)"


def _signed(p: Float, q: Float, moments: Moments, strengths: Float) -> Maps:
    signs = np.sign(p[np.abs(p).argmax(axis=0), np.arange(p.shape[1])])
    signs[signs == 0] = 1
    return Maps(p * signs, q * signs, *moments.means, strengths)


def _unrelated() -> BadData:
    return BadData("the two sides do not correlate at all; are the pairs those of these two tables?")
