"""The kernel of word2vec's other methods: CBOW, and hierarchical softmax for CBOW and skip-gram.

CBOW predicts a center from the mean (or sum) of its contexts' vectors (Mikolov et al. 2013, "Efficient Estimation",
section 3.1); hierarchical softmax predicts the turns on the center's path in a Huffman tree (Mikolov et al. 2013,
"Distributed Representations", section 2.1). Steps are those of word2vec and gensim. Threads share the rows without
locks. Skip-gram with negative sampling alone has the faster kernel in sgns.py.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import float32, float64, int8, int32, int64, njit, types

from embedall_spark.numba_intrinsics import prefetch
from embedall_spark.train.aligned_rows import LINE as _LINE

if TYPE_CHECKING:
    from collections.abc import Callable

_LOSS_EVERY = 64  # one of so many predictions is used to estimate the loss
_AHEAD = 2  # groups between prefetching rows and using them

# The sigmoid at the center of each of 1024 bins from -6 to 6, and 0 and 1 beyond them, as in word2vec.
_BINS, _LIMIT = 1024, 6.0
_CENTERS = (np.arange(_BINS) + 0.5) * (2 * _LIMIT / _BINS) - _LIMIT
_SIGMOID = np.concatenate([[0.0], 1 / (1 + np.exp(-_CENTERS)), [1.0]]).astype(np.float32)
_SCALE, _SHIFT, _LAST = (np.float32(value) for value in (_BINS / (2 * _LIMIT), _BINS / 2 + 1, _BINS + 1))

_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)
_BYTES = types.Array(int8, 1, "C", readonly=True)
_ROWS = float32[:, ::1]
_RESULT = types.Tuple((int64, int64, float64, int64))  # type: ignore[no-untyped-call]
_SIGNATURE = _RESULT(*(_INTS, int64, int64, _ROWS, _ROWS, _INTS, int64, float32, int32), *(_LONGS, _INTS, _BYTES))
# Not "fast": code that may assume that there is no NaN reads out of bounds once there is one.
_MATH = {"reassoc", "contract", "nsz", "arcp"}


@cache
def kernel(dim: int, negative: int, *, cbow: bool, mean: bool, hs: bool) -> Callable[..., tuple[int, int, float, int]]:
    """Return the kernel for rows of ``dim`` floats, compiled or from numba's cache on disk.

    It is called as sgns.kernel()'s, with three more arguments, the fields of ``huffman.Paths``; without ``hs`` these
    may be empty. A row of outputs has the token's vector for negative sampling, if there is any, then the vector of
    the inner node with the token's number, if ``hs``. ``share`` is not used: each prediction has its own negatives.

    Args:
        dim: floats of an input row, a multiple of 16.
        negative: negatives for each prediction; 0: no negative sampling.
        cbow: predict a center once from all contexts; otherwise once from each.
        mean: with ``cbow``, from the contexts' mean; otherwise from their sum, with the gradient divided by their
            number, as in gensim.
        hs: predict by hierarchical softmax, before negative sampling where there is both.

    It returns (next cursor, predictions, loss summed over a sample of the predictions, predictions in the sample).
    """
    return _compile(dim, negative, cbow, mean, hs)  # type: ignore[no-any-return]


@njit(inline="always")
def _sigmoid(dot: Any) -> Any:
    bin_ = dot * _SCALE + _SHIFT
    # Written so that NaN, too, gives an index inside the table.
    bin_ = bin_ if bin_ > np.float32(0) else np.float32(0)
    return _SIGMOID[np.uint64(bin_ if bin_ < _LAST else _LAST)]


@njit(inline="always")
def _log_loss(dot: Any, label: Any) -> Any:
    signed = np.float64(-dot if label else dot)
    return max(signed, 0.0) + np.log1p(np.exp(-abs(signed)))


@njit(nogil=True, fastmath=_MATH, error_model="numpy")
def _learn(hidden: Any, error: Any, row: Any, label: Any, alpha: Any) -> Any:
    """Make a step on one output row and add the gradient of the hidden vector to ``error``; return the dot product."""
    dot = np.float32(0)
    for k in range(hidden.size):
        dot += hidden[k] * row[k]
    step = alpha * (np.float32(label) - _sigmoid(dot))
    for k in range(hidden.size):
        value = row[k]
        error[k] += step * value
        row[k] = value + step * hidden[k]
    return dot


@njit(nogil=True, fastmath=_MATH, error_model="numpy")
def _sum_rows(rows: Any, indices: Any, total: Any, scale: Any) -> None:
    """Set ``total`` to the sum of rows, times ``scale``."""
    total[:] = 0
    for index in indices:
        row = rows[np.int64(index) * total.size : (np.int64(index) + 1) * total.size]
        for k in range(total.size):
            total[k] += row[k]
    for k in range(total.size):
        total[k] *= scale


@njit(nogil=True, fastmath=_MATH, error_model="numpy")
def _add_to_rows(rows: Any, indices: Any, change: Any, scale: Any) -> None:
    """Add ``change``, times ``scale``, to each row; a row that is named twice gets it twice."""
    for index in indices:
        row = rows[np.int64(index) * change.size : (np.int64(index) + 1) * change.size]
        for k in range(change.size):
            row[k] += scale * change[k]


def _compile(dim: int, negative: int, cbow: bool, mean: bool, hs: bool) -> Any:  # noqa: C901 (one loop, for speed)
    """Return the compiled kernel; all arguments are constants in it."""
    width, nodes_from = dim * ((negative > 0) + hs), dim * (negative > 0)

    # _SIGNATURE has the types; mypy cannot follow them into compiled code.
    @njit(_SIGNATURE, nogil=True, cache=True, fastmath=_MATH, error_model="numpy")
    def train(stream, start, stop, inputs, outputs, negatives, cursor, alpha, share, offsets, nodes, codes):  # type: ignore[no-untyped-def] # noqa
        flat_in, flat_out = inputs.reshape(inputs.size), outputs.reshape(outputs.size)
        hidden, error = np.zeros(dim, np.float32), np.zeros(dim, np.float32)
        size, drawn = negatives.size, cursor % max(1, negatives.size)
        predictions, sampled, loss = 0, 0, 0.0
        index = start
        while index < stop:
            center, count = stream[index], stream[index + 1]
            index += 2
            following = index + count
            if following < stop:
                for k in range(0, width, _LINE):
                    prefetch(flat_out, stream[following] * np.int64(width) + k)
                last = (following + 1 + stream[following + 1]) if following + 1 < stop else following
                for k in range(0, dim, _LINE):
                    prefetch(flat_in, stream[last] * np.int64(dim) + k)
            for number in range(1 if cbow else count):
                contexts = stream[index:following] if cbow else stream[index + number : index + number + 1]
                scale = np.float32(1) / np.float32(contexts.size)
                _sum_rows(flat_in, contexts, hidden, scale if mean else np.float32(1))
                error[:] = 0
                counted = predictions % _LOSS_EVERY == 0
                predictions += 1
                sampled += counted
                if hs:
                    for step in range(offsets[center], offsets[center + 1]):
                        target = nodes[step] * np.int64(width) + nodes_from
                        label = 1 - codes[step]
                        dot = _learn(hidden, error, flat_out[target : target + dim], label, alpha)
                        if counted:
                            loss += _log_loss(dot, label)
                for number_negative in range(negative + 1 if negative > 0 else 0):
                    token = center
                    if number_negative > 0:
                        token = negatives[drawn]
                        drawn = drawn + 1 if drawn + 1 < size else 0
                        if token == center:
                            continue
                    target = token * np.int64(width)
                    dot = _learn(hidden, error, flat_out[target : target + dim], number_negative == 0, alpha)
                    if counted:
                        loss += _log_loss(dot, number_negative == 0)
                _add_to_rows(flat_in, contexts, error, np.float32(1) if mean else scale)
            index = following
        return np.int64(drawn), predictions, loss, sampled

    return train
