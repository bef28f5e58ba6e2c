"""The kernel of GloVe: AdaGrad over cells of the co-occurrence matrix (Pennington et al. 2014, "GloVe", section 3).

The cost of a cell (i, j) with count x is f(x) (w_i · c_j + b_i + b_j - log x)^2 with f(x) = min(1, (x / x_max)^alpha).
A row of the model holds a vector, its bias, and the sums of squared gradients of both; see ``initial_rows``.
Threads share the rows without locks (Hogwild: Recht et al. 2011), as in the authors' program.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import float32, float64, int32, int64, njit, types

from embedall_spark.numba_intrinsics import prefetch
from embedall_spark.train import aligned_rows
from embedall_spark.train.aligned_rows import LINE as _LINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_AHEAD = 4  # cells between prefetching their rows and using them
# Not "fast": code that may assume that there is no NaN would drop the check for it.
_MATH = {"reassoc", "contract", "nsz", "arcp", "afn"}
_INTS = types.Array(int32, 1, "C", readonly=True)
_FLOATS = types.Array(float32, 1, "C", readonly=True)
_ROWS = float32[:, ::1]
_SIGNATURE = float64(_INTS, _INTS, _FLOATS, int64, int64, _ROWS, _ROWS, float32, float32, float32, float32)


def half_length(vector_size: int) -> int:
    """Return the floats of a vector with its bias and a constant 1, padded to whole cache lines."""
    return aligned_rows.padded_length(vector_size + 2)


def initial_rows(
    inputs: NDArray[np.float32], outputs: NDArray[np.float32], vector_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return untrained rows of both sides, float32 [n, 2 * half], from random values in ±0.5 / dimension.

    A row is (vector, bias, 1, zeros) in its first half; of the output side (vector, 1, bias, zeros), so that the dot
    product of both is w · c + b_i + b_j. The second half has the sums of squared gradients, which begin with 1.

    Args:
        inputs: random values of the input side, float32 [n, at least vector_size + 1].
        outputs: of the output side.
        vector_size: dimensions of a vector.
    """
    half = half_length(vector_size)
    sides = []
    for values, bias, one in ((inputs, vector_size, vector_size + 1), (outputs, vector_size + 1, vector_size)):
        rows = aligned_rows.zeros(len(values), 2 * half)
        rows[:, :vector_size] = values[:, :vector_size]
        rows[:, bias] = values[:, vector_size]
        rows[:, one] = 1
        rows[:, half:] = 1
        sides.append(rows)
    return sides[0], sides[1]


@cache
def kernel(vector_size: int) -> Callable[..., float]:
    """Return the kernel for vectors of ``vector_size`` dimensions, compiled or from numba's cache on disk.

    It is called as ``kernel(rows, columns, counts, start, stop, inputs, outputs, x_max, alpha, eta, grad_clip)``:

    - rows, columns, counts: int32, int32 and float32 [n], the cells; those from ``start`` to ``stop`` are trained on.
    - inputs, outputs: float32 [m, 2 * half], see ``initial_rows``; changed.
    - x_max, alpha, eta, grad_clip: float32, see ``GloveConfig``.

    It returns the sum of f(x) (...)^2 / 2 over the cells, as the authors' program reports it, each from before its
    step. A cell whose cost is not finite changes nothing. With one thread every run gives the same bits.
    """
    return _compile(vector_size, half_length(vector_size))  # type: ignore[no-any-return]


def _compile(dim: int, half: int) -> Any:
    """Return the compiled kernel; ``dim`` and ``half`` are constants in it."""
    width = 2 * half

    # _SIGNATURE has the types; mypy cannot follow them into compiled code.
    @njit(_SIGNATURE, nogil=True, cache=True, fastmath=_MATH, error_model="numpy")
    def train(rows, columns, counts, start, stop, inputs, outputs, x_max, alpha, eta, clip):  # type: ignore[no-untyped-def] # noqa
        flat_in, flat_out = inputs.reshape(inputs.size), outputs.reshape(outputs.size)
        loss = 0.0
        for index in range(start, stop):
            if index + _AHEAD < stop:
                for k in range(0, width, _LINE):
                    prefetch(flat_in, rows[index + _AHEAD] * np.int64(width) + k)
                    prefetch(flat_out, columns[index + _AHEAD] * np.int64(width) + k)
            first, second = rows[index] * np.int64(width), columns[index] * np.int64(width)
            w, c = flat_in[first : first + half], flat_out[second : second + half]
            w_squares, c_squares = flat_in[first + half : first + width], flat_out[second + half : second + width]
            dot = np.float32(0)
            for k in range(half):
                dot += w[k] * c[k]
            difference = dot - np.log(counts[index])
            if not abs(difference) < np.float32(1e30):
                continue
            weight = (counts[index] / x_max) ** alpha if counts[index] < x_max else np.float32(1)
            loss += np.float64(weight * difference) * np.float64(difference) / 2
            gradient = weight * difference
            w_bias, c_bias = w[dim], c[dim + 1]
            w_bias_squares, c_bias_squares = w_squares[dim], c_squares[dim + 1]
            # As in the authors' program, the learning rate is part of the summed gradients of vectors, and a bias is
            # neither slowed by it nor clipped.
            for k in range(half):
                left, right = w[k], c[k]
                of_left = eta * min(max(gradient * right, -clip), clip)
                of_right = eta * min(max(gradient * left, -clip), clip)
                w[k] = left - of_left / np.sqrt(w_squares[k])
                c[k] = right - of_right / np.sqrt(c_squares[k])
                w_squares[k] += of_left * of_left
                c_squares[k] += of_right * of_right
            w[dim], w_squares[dim] = w_bias - gradient / np.sqrt(w_bias_squares), w_bias_squares + gradient * gradient
            c[dim + 1] = c_bias - gradient / np.sqrt(c_bias_squares)
            c_squares[dim + 1] = c_bias_squares + gradient * gradient
            w[dim + 1] = np.float32(1)
            c[dim] = np.float32(1)
        return loss

    return train
