"""Kernels that copy sequences of encoded tokens: those of a vocabulary, and sequences in another order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numba import int32, int64, njit, types, void

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int32]
    Longs = NDArray[np.int64]

_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)


@njit(int64(_INTS, _INTS, _INTS, int32[::1], int32[::1]), nogil=True, cache=True)
def translate(ids: Ints, codes: Ints, lengths: Ints, tokens: Ints, included: Ints) -> int:
    """Write the ids of sequences' tokens without those that have none, and return how many there are.

    Args:
        ids: id of each code, -1 for none, int32.
        codes: tokens of all sequences in order, int32 [n].
        lengths: tokens in each sequence, int32.
        tokens: receives the ids, int32 [n].
        included: receives how many ids each sequence has, int32, as long as ``lengths``.
    """
    at = end = 0
    for sequence in range(lengths.size):
        first = end
        for place in range(at, at + lengths[sequence]):
            tokens[end] = ids[codes[place]]
            end += tokens[end] >= 0
        at += lengths[sequence]
        included[sequence] = end - first
    return end


@njit(void(_INTS, _LONGS, _LONGS, _LONGS, int32[::1]), nogil=True, cache=True)
def take(tokens: Ints, offsets: Longs, rows: Longs, out_offsets: Longs, out: Ints) -> None:
    """Copy the sequences in ``rows`` to their places in ``out``.

    Args:
        tokens: of all sequences, int32.
        offsets: where each sequence begins in ``tokens``, and where the last one ends, int64.
        rows: which sequences, int64 [n].
        out_offsets: the same of ``out``, int64 [n + 1].
        out: receives the tokens, int32.
    """
    for row in range(rows.size):
        start, target = offsets[rows[row]], out_offsets[row]
        for step in range(out_offsets[row + 1] - target):
            out[target + step] = tokens[start + step]
