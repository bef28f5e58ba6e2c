"""Offsets of lists whose values lie one after the other in one array, as Arrow has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def from_lengths(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Return where each list begins and where the last one ends, int64 [n + 1]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def from_runs(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return where each run of equal values begins and where the last one ends, int64 [runs + 1]."""
    inner = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate([np.zeros(min(1, len(values)), np.int64), inner, [len(values)]])
