"""The kernel of skip-gram with negative sampling (Mikolov et al. 2013, "Distributed Representations", section 2.2).

A group is a center and its contexts. Its contexts share the negatives, all dot products are taken from the rows as they
stood, and the summed changes are then added (HogBatch: Ji et al. 2016, "Parallelizing Word2Vec in Shared and
Distributed Memory", section 3). Threads share the rows without locks (Hogwild).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import float32, float64, int32, int64, njit, types, uint64
from numba.extending import intrinsic

from embedall_spark import randomness

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_LINE = 16  # floats in a line of the processor's cache
_CONTEXTS = 32  # contexts that are trained on together; larger groups are cut
_EVERY = 64  # of so many groups one is used to estimate the loss

# The sigmoid at the middle of each of 1024 steps from -6 to 6, and 0 and 1 beyond them, as in word2vec.
_STEPS, _REACH = 1024, 6.0
_MIDDLES = (np.arange(_STEPS) + 0.5) * (2 * _REACH / _STEPS) - _REACH
_SIGMOID = np.concatenate([[0.0], 1 / (1 + np.exp(-_MIDDLES)), [1.0]]).astype(np.float32)
_SCALE = np.float32(_STEPS / (2 * _REACH))
_LAST = np.float32(_STEPS + 1)
_SHIFT = np.float32(_STEPS / 2 + 1)

# A signature that says read-only also takes writable arrays.
_INTS = types.Array(int32, 1, "C", readonly=True)
_ROWS = float32[:, ::1]
_RESULT = types.Tuple((int64, int64, float64, int64))
_SIGNATURE = _RESULT(_INTS, int64, int64, _ROWS, _ROWS, _INTS, int64, float32, int32)
# Not "fast": a program that may assume that there is no NaN reads anywhere once there is one.
_MATH = {"reassoc", "contract", "nsz", "arcp"}


def pad(dim: int) -> int:
    """Return the length of a row for vectors of ``dim`` numbers: the next multiple of 16."""
    return -(-dim // _LINE) * _LINE


def aligned(rows: int, dim: int) -> NDArray[np.float32]:
    """Return zeros, float32 [rows, dim], that begin at a line of the processor's cache."""
    room = np.zeros(rows * dim + _LINE, np.float32)
    skip = (-room.ctypes.data % (4 * _LINE)) // 4
    return room[skip : skip + rows * dim].reshape(rows, dim)


def negative_table(counts: NDArray[np.int64], ns_exponent: float, size: int, *seed_keys: int) -> NDArray[np.int32]:
    """Return ``size`` negatives, int32, drawn in proportion to count to the power ``ns_exponent``, in random order.

    The draw is stratified: a row turns up as often as expected, rounded up or down so that over many keys the mean is
    exact. Rows too rare for one place in the table get their share through tables drawn anew.
    """
    random = randomness.generator(*seed_keys)
    weights = np.maximum(np.asarray(counts, np.float64), 1.0) ** ns_exponent
    edges = np.cumsum(weights)
    places = np.floor(edges * (size / edges[-1]) + random.random()).astype(np.int64)
    places[-1] = size
    table = np.repeat(np.arange(len(places), dtype=np.int32), np.diff(places, prepend=0))
    random.shuffle(table)
    return table


@cache
def kernel(dim: int, negative: int) -> Callable[..., tuple[int, int, float, int]]:
    """Return the kernel for rows of ``dim`` floats and ``negative`` negatives, compiled, or read from the disk's cache.

    It is called as ``kernel(stream, start, stop, inputs, outputs, negatives, cursor, alpha, share)``:

    - stream: int32, groups (center, n, n contexts); those from ``start`` to ``stop`` are trained on.
    - inputs, outputs: float32 [rows, dim]; contexts are rows of inputs, centers and negatives rows of outputs. Changed.
    - negatives: int32, see ``negative_table``; taken from place ``cursor`` on, round and round.
    - alpha: learning rate.
    - share: negatives are redrawn for the first group after so many pairs have used them; 1: for every group.
      A negative that is the center contributes nothing, as in word2vec.

    It returns (next cursor, pairs trained on, loss summed over a sample of the pairs, pairs in the sample); the loss of
    a pair is -log sigmoid of its dot product minus the sum of log sigmoid of the negatives' dot products negated.
    With one thread the result is the same to the bit at every run.
    """
    return _kernel(dim, negative)


def warm(dim: int, negative: int) -> None:
    """Compile the kernel, so that workers find it in the disk's cache."""
    kernel(dim, negative)


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(context: Any, rows: Any, place: Any) -> Any:
    """Ask the processor to bring the line at a place of a flat array into its cache."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        address = builder.bitcast(builder.gep(array.data, [values[1]]), byte)
        builder.call(function, [address, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(rows, uint64), build


def _kernel(dim: int, negative: int) -> Any:  # noqa: C901 (one loop, for speed)
    width, rows = dim, negative + 1

    @njit(_SIGNATURE, nogil=True, cache=True, fastmath=_MATH, error_model="numpy")
    def train(stream, start, stop, inputs, outputs, negatives, cursor, alpha, share):  # type: ignore  # noqa
        flat_in, flat_out = inputs.reshape(inputs.size), outputs.reshape(outputs.size)
        target = np.zeros(rows, np.uint64)
        held = np.empty(rows * width, np.float32)
        dots = np.empty(_CONTEXTS * rows, np.float32)
        delta = np.empty(width, np.float32)
        pairs, sampled, loss, groups, used = 0, 0, 0.0, 0, share
        cursor %= negatives.size
        at = start
        while at < stop:
            left, at = stream[at + 1], at + 2
            target[0] = uint64(stream[at - 2]) * uint64(width)
            while left > 0:
                count = min(left, _CONTEXTS)
                if used >= share:
                    used = 0
                    for row in range(1, rows):
                        target[row] = uint64(negatives[cursor]) * uint64(width)
                        cursor += 1
                        if cursor == negatives.size:
                            cursor = 0
                used += count
                for row in range(rows):
                    for k in range(width):
                        held[uint64(row * width) + uint64(k)] = flat_out[target[row] + uint64(k)]
                for m in range(count):
                    base = uint64(stream[at + m]) * uint64(width)
                    for row in range(rows):
                        dot = np.float32(0)
                        for k in range(width):
                            dot += flat_in[base + uint64(k)] * held[uint64(row * width) + uint64(k)]
                        dots[m * rows + row] = dot
                if groups % _EVERY == 0:
                    sampled += count
                    for m in range(count):
                        for row in range(rows):
                            if row == 0 or target[row] != target[0]:
                                dot = -dots[m * rows] if row == 0 else dots[m * rows + row]
                                loss += max(dot, np.float32(0)) + np.log1p(np.exp(-abs(float64(dot))))
                groups += 1
                for i in range(count * rows):
                    place = dots[i] * _SCALE + _SHIFT
                    # Written so that NaN ends inside the table.
                    place = place if place > np.float32(0) else np.float32(0)
                    place = place if place < _LAST else _LAST
                    dots[i] = -_SIGMOID[uint64(place)] * alpha
                for m in range(count):
                    dots[m * rows] += alpha
                for row in range(1, rows):
                    if target[row] == target[0]:
                        for m in range(count):
                            dots[m * rows + row] = 0
                for row in range(rows):
                    for k in range(width):
                        delta[k] = 0
                    for m in range(count):
                        base = uint64(stream[at + m]) * uint64(width)
                        step = dots[m * rows + row]
                        for k in range(width):
                            delta[k] += step * flat_in[base + uint64(k)]
                    for k in range(width):
                        flat_out[target[row] + uint64(k)] += delta[k]
                for m in range(count):
                    base = uint64(stream[at + m]) * uint64(width)
                    for k in range(width):
                        change = np.float32(0)
                        for row in range(rows):
                            change += dots[m * rows + row] * held[uint64(row * width) + uint64(k)]
                        flat_in[base + uint64(k)] += change
                pairs += count
                left -= count
                at += count
        return cursor, pairs, loss, sampled

    return train
