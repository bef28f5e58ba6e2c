"""Rows of the model in memory, and the table from which rows are drawn as negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedall_spark import randomness

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINE = 16
"""Floats in a line of the processor's cache, and in a vector of the kernel's."""


def pad(dim: int) -> int:
    """Return the length of a row for vectors of ``dim`` numbers: the next multiple of 16."""
    return -(-dim // LINE) * LINE


def aligned(rows: int, dim: int) -> NDArray[np.float32]:
    """Return zeros, float32 [rows, dim], that begin at a line of the processor's cache."""
    room = np.zeros(rows * dim + LINE, np.float32)
    skip = (-room.ctypes.data % (4 * LINE)) // 4
    return room[skip : skip + rows * dim].reshape(rows, dim)


def negative_table(counts: NDArray[np.int64], ns_exponent: float, size: int, *seed_keys: int) -> NDArray[np.int32]:
    """Return ``size`` negatives, int32, drawn in proportion to count to the power ``ns_exponent``, in random order.

    The draw is stratified: a row turns up as often as expected, rounded up or down so that over many keys the mean is
    exact. Rows too rare for one place in the table get their share through tables drawn anew.
    """
    random = randomness.generator(*seed_keys)
    edges = np.cumsum(np.maximum(np.asarray(counts, np.float64), 1.0) ** ns_exponent)
    # The places lie evenly at u, u + 1, ... on a line of ``size``: a row has those between its own edges.
    places = np.floor(edges * (size / edges[-1]) + random.random()).astype(np.int64)
    places[-1] = size
    table = np.repeat(np.arange(len(places), dtype=np.int32), np.diff(places, prepend=0))
    random.shuffle(table)
    return table
