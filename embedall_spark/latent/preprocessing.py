"""Preprocessing of a side's vectors, row by row, before anything is fitted or mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Preparation(NamedTuple):
    """How each vector is transformed, in the fit and in every later projection."""

    power: float = 1.0
    """Each value x becomes sign(x) |x|^power; below 1 it dampens features that are rare but large."""
    unit: bool = False
    """Whether the vector is then scaled to length 1."""


PLAIN = Preparation()


def prepare(matrix: NDArray[np.float32], preparation: Preparation = PLAIN) -> NDArray[np.float64]:
    """Return the prepared rows, float64 [n, d], of a matrix [n, d]; a row of zeros stays one."""
    rows = matrix.astype(np.float64)
    if preparation.power != 1.0:
        rows = np.sign(rows) * np.abs(rows) ** preparation.power
    if preparation.unit:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, lengths, out=rows, where=lengths > 0)
    return rows
