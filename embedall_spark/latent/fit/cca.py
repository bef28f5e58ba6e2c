"""P and Q from moments alone: regularised canonical correlations, and ridge maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from scipy import linalg

from embedall_spark.errors import BadData, ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedall_spark.latent.fit.covariance import Moments

    Float = NDArray[np.float64]

# Of the largest eigenvalue: what is below is rounding.
_NOISE = 1e-11


class Maps(NamedTuple):
    """A vector x of the left side goes to (x - mean_left) P, one of the right side to (y - mean_right) Q."""

    p: Float
    """float64 [left, k]."""
    q: Float
    """float64 [right, k]."""
    mean_left: Float
    mean_right: Float
    strengths: Float
    """Of each of the k directions, falling: its canonical correlation, or the variance that it explains; [k]."""

    def truncated(self, k: int, power: float = 0.0) -> Maps:
        """Return the first k directions, each scaled by its strength to a power.

        Of what cca() gives for power 0 this is what it gives for k and the power: one fit serves a whole sweep.

        Raises:
            ConfigError: k is more than there are directions.
        """
        if not 1 <= k <= len(self.strengths):
            raise ConfigError(_too_many(k, len(self.strengths)))
        scale = self.strengths[:k] ** power
        return self._replace(p=self.p[:, :k] * scale, q=self.q[:, :k] * scale, strengths=self.strengths[:k])


def cca(
    moments: Moments,
    k: int | None = None,
    regularisation: tuple[float, float] = (1e-2, 1e-2),
    power: float = 0.0,
) -> Maps:
    """Return the k pairs of directions along which the two sides correlate most.

    Hotelling 1936, "Relations between Two Sets of Variates"; regularised as in Vinod 1976, "Canonical Ridge and
    Econometrics of Joint Production": the covariance of each side gets a multiple of the identity. With ``power`` 0
    each direction has variance 1 on both sides (less what regularisation takes); above 0 its coordinate is multiplied
    by its correlation to that power, so that directions that mean little weigh little in a cosine.

    Signs are fixed: the number of largest magnitude in each column of P is positive. Directions of equal correlation
    are determined only up to a rotation among themselves.

    Args:
        moments: of the training pairs.
        k: how many directions; None: as many as there are.
        regularisation: of the left and of the right side, as a share of the mean variance of its numbers.
        power: of the correlations.

    Raises:
        ConfigError: an argument is out of range, or k is more than there are directions.
        BadData: a side does not vary; the two do not correlate; or there are too few rows to go without regularisation.
    """
    if power < 0:
        raise ConfigError(f"power {power}: need 0 or above")
    left, right, both = moments.covariances
    white_left = _whitener(left, regularisation[0], "left")
    white_right = _whitener(right, regularisation[1], "right")
    free = white_left.shape[1] + white_right.shape[1]
    if regularisation == (0, 0) and free >= moments.rows:
        raise BadData(
            f"{moments.rows:,} pairs for {white_left.shape[1]:,} + {white_right.shape[1]:,} independent numbers: "
            "without regularisation any two such sides correlate perfectly; need more pairs, or regularisation above 0"
        )
    a, strengths, b = linalg.svd(white_left.T @ both @ white_right, full_matrices=False)
    k = _dimension(k, strengths)
    strengths = strengths[:k]
    scale = strengths**power
    p, q = white_left @ a[:, :k] * scale, white_right @ b[:k].T * scale
    return _signed(p, q, moments, strengths)


def ridge(
    moments: Moments,
    k: int | None = None,
    regularisation: float = 1e-2,
    towards: Literal["right", "left"] = "right",
) -> Maps:
    """Return a linear map of one side onto the other, by least squares with a penalty (Hoerl and Kennard 1970).

    The latent space is that of the side mapped to: the other matrix is the identity. With a smaller ``k`` it is cut
    down to the k directions in which the mapped vectors vary most (reduced-rank regression, Izenman 1975).

    Args:
        moments: of the training pairs.
        k: how many directions; None: all of the side mapped to.
        regularisation: as a share of the mean variance of the mapped side's numbers.
        towards: the side mapped to.

    Raises:
        ConfigError: an argument is out of range, or k is more than there are directions.
        BadData: a side does not vary, or the two do not correlate.
    """
    left, right, both = moments.covariances
    source, target, cross = (left, right, both) if towards == "right" else (right, left, both.T)
    names = ("left", "right") if towards == "right" else ("right", "left")
    white = _whitener(source, regularisation, names[0])
    _whitener(target, 0.0, names[1])
    solved = white @ (white.T @ cross)
    if k is None:
        explained = np.diagonal(solved.T @ source @ solved)
        maps = (solved, np.eye(len(target)))
        if explained.max() <= 0:
            raise _unrelated()
    else:
        values, vectors = linalg.eigh(solved.T @ source @ solved)
        k = _dimension(k, np.sqrt(np.maximum(values[::-1], 0)))
        explained, directions = values[::-1][:k], vectors[:, ::-1][:, :k]
        maps = (solved @ directions, directions)
    p, q = maps if towards == "right" else maps[::-1]
    if k is None:
        return Maps(p, q, *moments.means, explained)
    return _signed(p, q, moments, explained)


def decoder(moments: Moments, maps: Maps) -> Float:
    """Return the matrix D, float64 [k, right], by which the right side's vector is guessed from the left side's.

    The guess is mean_right + (x - mean_left) P D: least squares over the training pairs. Of bags of words it estimates
    how much of each word to expect, so that words can be ranked by it, frequent ones not at a disadvantage as they are
    in a cosine.

    Args:
        moments: of the training pairs.
        maps: fitted to them.
    """
    left, _, both = moments.covariances
    seen = maps.p.T @ left @ maps.p
    found: Float = linalg.lstsq(seen, maps.p.T @ both)[0]
    return found


def principal(second: Float) -> Float:
    """Return the first eigenvector of a symmetric matrix, float64 [d], its largest number positive."""
    last = len(second) - 1
    vector: Float = linalg.eigh(second, subset_by_index=(last, last))[1][:, 0]
    sign = 1.0 if vector[np.abs(vector).argmax()] > 0 else -1.0
    return sign * vector


def _whitener(covariance: Float, regularisation: float, side: str) -> Float:
    """Return W, [d, rank], such that W W' is the inverse of the regularised covariance where that has one."""
    if not regularisation >= 0:
        raise ConfigError(f"regularisation of the {side} side: need 0 or above, found {regularisation}")
    variance = np.diagonal(covariance)
    if not variance.max() > 0:
        raise BadData(f"the {side} side does not vary: its vectors are all the same; there is nothing to fit")
    values, vectors = linalg.eigh(covariance)
    values = np.maximum(values, 0) + regularisation * variance.mean()
    kept = values > _NOISE * values[-1]
    whitener: Float = vectors[:, kept] / np.sqrt(values[kept])
    return whitener


def _dimension(k: int | None, strengths: Float) -> int:
    """Return how many directions are asked for, once that many are known to be there."""
    if not strengths.max(initial=0) > _NOISE:
        raise _unrelated()
    there = int((strengths > _NOISE * strengths.max()).sum())
    if k is None:
        return there
    if not 1 <= k <= there:
        raise ConfigError(_too_many(k, there))
    return k


def _too_many(k: int, there: int) -> str:
    return f"k = {k:,}: need 1 to {there:,}, since the two sides relate along {there:,} direction(s)"


def _signed(p: Float, q: Float, moments: Moments, strengths: Float) -> Maps:
    signs = np.sign(p[np.abs(p).argmax(axis=0), np.arange(p.shape[1])])
    signs[signs == 0] = 1
    return Maps(p * signs, q * signs, *moments.means, strengths)


def _unrelated() -> BadData:
    return BadData("the two sides do not correlate at all; are the pairs those of these two tables?")
