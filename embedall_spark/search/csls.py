"""Cross-domain similarity local scaling (CSLS): cosines corrected so that hubs, near to everything, do not rank first.

Conneau, Lample, Ranzato, Denoyer and Jegou 2018, "Word Translation Without Parallel Data", section 2.3. The score of a
row y for a query x is 2 cos(x, y) - r(y), where r(y) is the mean cosine of y to the nearest of the queries' side. Its
third term, of the query alone, changes no rank and is left out. numpy only, no Spark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float32]

MAX_PRODUCT = 3.2  # of the lengths of a row of rows(), sqrt(5) at most, and one of queries(), sqrt(2)


def rows(units: Float, similarity: Float) -> Float:
    """Return rows whose dot product with those of queries() is the score, float32 [n, d + 1].

    Args:
        units: unit rows, float32 [n, d].
        similarity: r of each, float32 [n].
    """
    return np.hstack([2 * units, -similarity[:, None]]).astype(np.float32)


def queries(units: Float) -> Float:
    """Return unit rows, float32 [q, d], with a 1 after each, float32 [q, d + 1]."""
    return np.hstack([units, np.ones((len(units), 1), np.float32)])
