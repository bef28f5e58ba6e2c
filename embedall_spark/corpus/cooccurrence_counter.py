"""Co-occurrence counts of one task: pairs of frequent tokens in a dense table, all others in a hash table.

As in the ``cooccur`` program of GloVe's authors (Pennington et al. 2014, section 4.2): a pair is dense if the product
of its ranks is at most a bound, so that the pairs which occur again and again need no search. Counts are integers in
units of 2**-24, so that their sums do not depend on the order in which tasks and tables add them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import boolean, int32, int64, njit, types, uint64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedall_spark.corpus.blocks import Block

UNIT = 1 << 24
# 64 MiB of hash table, and up to about as much of dense counts for a large vocabulary.
_SLOTS, _MAX_FILL, _MAX_PRODUCT = 1 << 22, 0.6, 1 << 20
_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)


class CooccurrenceCounter:
    """Counts the pairs of tokens that are at most a window apart; memory does not grow with the number of pairs."""

    def __init__(
        self,
        vocabulary_size: int,
        window: int,
        *,
        symmetric: bool,
        distance_weighting: bool,
        max_product: int = _MAX_PRODUCT,
        slots: int = _SLOTS,
    ) -> None:
        """Create empty tables.

        Args:
            vocabulary_size: number of tokens; ids are ranks by falling count.
            window: greatest distance of a pair.
            symmetric: a pair counts for both orders, and is kept as (smaller id, greater id); otherwise it is kept
                as (left token, right token).
            distance_weighting: a pair at distance d counts 1 / d; otherwise 1.
            max_product: pairs are dense up to this product of their ranks, which begin with 1.
            slots: of the hash table, a power of 2.
        """
        distances = np.maximum(np.arange(window + 1), 1)
        self._weights = np.round(UNIT / distances if distance_weighting else np.full(window + 1, UNIT)).astype(np.int64)
        self._symmetric, self._max_product = symmetric, max_product
        rows = np.arange(min(vocabulary_size, int(max_product**0.5) if symmetric else max_product), dtype=np.int64)
        first = rows if symmetric else np.zeros_like(rows)
        lengths = np.minimum(max_product // (rows + 1), vocabulary_size) - first
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths - first
        self._dense = np.zeros(int(lengths.sum()), np.int64)
        self._table = np.full((slots, 2), -1, np.int64)
        self._used, self._limit = 0, int(slots * _MAX_FILL)
        if window > self._limit:
            raise ValueError(f"a hash table of {slots} slots is too small for a window of {window}")

    def add(self, block: Block) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Count a block's pairs; yield the hash table's content whenever it is full, see ``drain``."""
        position = 0
        while position < len(block.tokens):
            position, self._used = _count(
                block.tokens, block.offsets, position, self._weights, self._symmetric, self._max_product,
                self._starts, self._dense, self._table, self._used, self._limit,
            )  # fmt: skip
            if position < len(block.tokens):
                yield self._drain_table()

    def drain(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield what is counted so far, and forget it: keys (row * 2**32 + column) and counts, both int64 [n]."""
        yield self._drain_table()
        cells = np.flatnonzero(self._dense)
        row = np.searchsorted(self._ends, cells, side="right")
        yield row << 32 | (cells - self._starts[row]), self._dense[cells]
        self._dense[:] = 0

    def _drain_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        entries = self._table[self._table[:, 0] >= 0]
        self._table[:] = -1
        self._used = 0
        return np.ascontiguousarray(entries[:, 0]), np.ascontiguousarray(entries[:, 1])


@njit(
    types.Tuple((int64, int64))(  # type: ignore[no-untyped-call]
        *(_INTS, _LONGS, int64, _LONGS, boolean, int64, _LONGS, int64[::1], int64[:, ::1], int64, int64)
    ),
    nogil=True,
    cache=True,
)
def _count(  # noqa: C901 (one loop, for speed)
    tokens: NDArray[np.int32],
    offsets: NDArray[np.int64],
    position: int,
    weights: NDArray[np.int64],
    symmetric: bool,
    max_product: int,
    starts: NDArray[np.int64],
    dense: NDArray[np.int64],
    table: NDArray[np.int64],
    used: int,
    limit: int,
) -> tuple[int, int]:
    """Count from a position in ``tokens`` on; return where the table may not have room, and the slots in use."""
    window, mask = weights.size - 1, table.shape[0] - 1
    sequence = np.searchsorted(offsets, position, side="right") - 1
    for index in range(position, tokens.size):
        if used + window > limit:
            return index, used
        while index >= offsets[sequence + 1]:
            sequence += 1
        for distance in range(1, min(window, index - offsets[sequence]) + 1):
            row, column = int64(tokens[index - distance]), int64(tokens[index])
            weight = weights[distance]
            if symmetric:
                if row > column:
                    row, column = column, row
                elif row == column:
                    weight *= 2
            if (row + 1) * (column + 1) <= max_product:
                dense[starts[row] + column] += weight
                continue
            key = row << 32 | column
            slot = int64((uint64(key) * uint64(0x9E3779B97F4A7C15)) >> uint64(32)) & mask
            while table[slot, 0] != key:
                if table[slot, 0] < 0:
                    table[slot, 0], table[slot, 1] = key, 0
                    used += 1
                    break
                slot = (slot + 1) & mask
            table[slot, 1] += weight
    return tokens.size, used
