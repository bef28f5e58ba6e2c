"""The kernel of skip-gram with negative sampling (Mikolov et al. 2013, "Distributed Representations", section 2.2).

A group is a center and its contexts. Its contexts share the negatives; all dot products are computed from the rows
before the step, and the summed changes are then added (HogBatch: Ji et al. 2016, "Parallelizing Word2Vec in Shared and
Distributed Memory", section 3). Threads share the rows without locks (Hogwild: Recht et al. 2011).

The inner loops are LLVM vector instructions that keep a tile of the output rows' sums in registers, which numba's own
vectorization does not. What this file and word2vec_kernel.py share of them is in vector_instructions.py.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numba import float32, float64, int32, int64, njit, types
from numba.core import cgutils

from embedall_spark.train.aligned_rows import LINE as _LINE
from embedall_spark.train.vector_instructions import (
    LAST,
    LONG,
    MATH,
    SCALE,
    SHIFT,
    SIGMOID,
    broadcast_lane,
    element,
    instructions,
    lane_sums,
    load,
    multiply_add,
    pointers,
    prefetch_row,
    store,
    tiles,
    zeros,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]

MAX_CONTEXTS = 32  # contexts that are trained on together; larger groups are cut
_AHEAD = 2  # groups between prefetching a row and using it
_LOSS_EVERY = 64  # one of so many groups is used to estimate the loss

# A signature with read-only arrays also accepts writable ones.
_INTS = types.Array(int32, 1, "C", readonly=True)
_ROWS = float32[:, ::1]
_RESULT = types.Tuple((int64, int64, float64, int64))  # type: ignore[no-untyped-call]
_SIGNATURE = _RESULT(_INTS, int64, int64, _ROWS, _ROWS, _INTS, int64, float32, int32)
_compiled: Callable[[Callable[..., Any]], Any] = njit(fastmath=MATH)


@cache
def kernel(dim: int, negative: int, batch_size: int = MAX_CONTEXTS) -> Callable[..., tuple[int, int, float, int]]:
    """Return the kernel for rows of ``dim`` floats and ``negative`` negatives, compiled or from numba's cache on disk.

    Larger groups are cut into groups of ``batch_size`` contexts; with 1 every pair has its own negatives and sees the
    changes of the pair before it, as in word2vec.

    It is called as ``kernel(stream, start, stop, inputs, outputs, negatives, cursor, alpha, share)``:

    - stream: int32, groups (center, n, n contexts); those from ``start`` to ``stop`` are trained on.
    - inputs, outputs: float32 [rows, dim], changed; contexts are rows of inputs, centers and negatives of outputs.
    - negatives: int32, see ``aligned_rows.negative_table``; read cyclically from index ``cursor`` on.
    - alpha: learning rate, float32.
    - share: new negatives are taken for the first group after so many pairs have used the last ones; 1: for every
      group. A negative that equals the center contributes nothing, as in word2vec.

    It returns (next cursor, pairs trained on, loss summed over a sample of the pairs, pairs in the sample); the loss of
    a pair is -log sigmoid of its dot product minus the sum of log sigmoid of the negated dot products of the negatives.
    With one thread every run gives the same bits.
    """
    if dim % _LINE:
        raise ValueError(f"rows must have a multiple of {_LINE} floats, got {dim}; see aligned_rows.padded_length")
    return _compile(dim, negative, batch_size)  # type: ignore[no-any-return]


def _compile(dim: int, negative: int, batch_size: int) -> Any:  # noqa: C901 (one loop, for speed)
    """Return the compiled kernel; ``dim``, ``rows`` and ``batch_size`` are constants in it."""
    rows = negative + 1

    # _SIGNATURE has the types; mypy cannot follow them into compiled code.
    @njit(_SIGNATURE, nogil=True, cache=True, fastmath=MATH, error_model="numpy")
    def train(stream, start, stop, inputs, outputs, negatives, cursor, alpha, share):  # type: ignore[no-untyped-def] # noqa
        width = np.uint64(dim)
        flat_in, flat_out = inputs.reshape(inputs.size), outputs.reshape(outputs.size)
        # Offsets of rows in the flat matrices: of the center and its negatives, and of the contexts.
        targets, contexts = np.zeros(rows, np.uint64), np.zeros(batch_size, np.uint64)
        dots = np.empty(batch_size * rows, np.float32)
        pairs, sampled, loss, groups, used = 0, 0, 0.0, 0, share
        size, drawn = np.uint64(negatives.size), np.uint64(cursor % negatives.size)
        index = ahead = start
        for _ in range(_AHEAD):
            if ahead < stop:
                ahead += 2 + stream[ahead + 1]
        while index < stop:
            if ahead < stop:
                # Windows overlap: only the last context is likely to be new.
                count = stream[ahead + 1]
                prefetch_row(flat_out, np.uint64(stream[ahead]) * width, dim)
                prefetch_row(flat_in, np.uint64(stream[ahead + 1 + count]) * width, dim)
                ahead += 2 + count
            targets[0] = np.uint64(stream[index]) * width
            left = stream[index + 1]
            index += 2
            while left > 0:
                count = min(left, batch_size)
                if used >= share:
                    used = 0
                    for row in range(1, rows):
                        targets[row] = np.uint64(negatives[drawn]) * width
                        drawn = drawn + np.uint64(1) if drawn + np.uint64(1) < size else np.uint64(0)
                    if drawn + np.uint64(_AHEAD * negative) <= size:
                        for row in range((_AHEAD - 1) * negative, _AHEAD * negative):
                            prefetch_row(flat_out, np.uint64(negatives[drawn + np.uint64(row)]) * width, dim)
                for m in range(count):
                    contexts[m] = np.uint64(stream[index + m]) * width
                    _dots(flat_in, contexts[m], flat_out, targets, dots, m * rows, dim, rows)
                if groups % _LOSS_EVERY == 0:
                    loss += _loss(dots, targets, count)
                    sampled += count
                _steps(dots, targets, count, alpha)
                _add(flat_in, contexts, count, flat_out, targets, dots, dim, rows)
                groups += 1
                pairs += count
                used += count
                left -= count
                index += count
        return np.int64(drawn), pairs, loss, sampled

    return train


@_compiled
def _steps(dots: Floats, targets: NDArray[np.uint64], count: int, alpha: np.float32) -> None:
    """Replace the dot products [count, rows] by the steps along the other side's row: alpha * (label - sigmoid)."""
    rows = targets.size
    for i in range(count * rows):
        bin_ = dots[i] * SCALE + SHIFT
        # Written so that NaN, too, gives an index inside the table.
        bin_ = bin_ if bin_ > np.float32(0) else np.float32(0)
        dots[i] = -alpha * SIGMOID[np.uint64(bin_ if bin_ < LAST else LAST)]
    for row in range(rows):
        if row == 0 or targets[row] == targets[0]:
            for m in range(count):
                dots[m * rows + row] = dots[m * rows] + alpha if row == 0 else 0


@_compiled
def _loss(dots: Floats, targets: NDArray[np.uint64], count: int) -> float:
    loss, rows = 0.0, targets.size
    for m in range(count):
        for row in range(rows):
            if row == 0 or targets[row] != targets[0]:
                dot = np.float64(-dots[m * rows] if row == 0 else dots[m * rows + row])
                loss += max(dot, 0.0) + np.log1p(np.exp(-abs(dot)))
    return loss


# From here on: vector instructions. A Python loop is unrolled; a loop of cgutils is a loop in the machine code too.


@instructions
def _dots(_: Any, inputs: Any, base: Any, outputs: Any, targets: Any, dots: Any, to: Any, dim: Any, rows: Any) -> Any:
    """Write the dot products of a context's row with the target rows into ``dots``, from index ``to`` on."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flat_in, base, flat_out, offsets, results, first, *_ = pointers(context, builder, signature, values)
        row_in = builder.gep(flat_in, [base])
        for tile in tiles(rows.literal_value):
            others = [builder.gep(flat_out, [element(builder, offsets, LONG(row))]) for row in tile]
            sums = zeros(builder, len(tile))
            with cgutils.for_range_slice(builder, LONG(0), LONG(dim.literal_value), LONG(_LINE)) as (k, _):
                vector = load(builder, row_in, k)
                for total, other in zip(sums, others, strict=True):
                    builder.store(multiply_add(builder, vector, load(builder, other, k), builder.load(total)), total)
            totals = lane_sums(builder, [builder.load(total) for total in sums])
            store(builder, totals, results, builder.add(first, LONG(tile[0])))
        return context.get_dummy_value()

    return types.void(inputs, base, outputs, targets, dots, types.int64, dim, rows), build


@instructions
def _add(_: Any, inputs: Any, bases: Any, n: Any, outputs: Any, targets: Any, steps: Any, dim: Any, rows: Any) -> Any:
    """Add the steps [count, rows] times the rows of each side to the rows of the other, both from before the step."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flat_in, bases, count, flat_out, offsets, factors, *_ = pointers(context, builder, signature, values)
        every = range(rows.literal_value)
        others = [builder.gep(flat_out, [element(builder, offsets, LONG(row))]) for row in every]

        def factor(m: Any, row: int) -> Any:
            index = builder.add(builder.mul(m, LONG(len(every))), LONG(row))
            return broadcast_lane(builder, element(builder, factors, index))

        with cgutils.for_range_slice(builder, LONG(0), LONG(dim.literal_value), LONG(_LINE)) as (k, _):
            changes = zeros(builder, len(every))
            for tile in tiles(len(every)):
                with cgutils.for_range(builder, count) as loop:
                    vector = load(builder, flat_in, builder.add(element(builder, bases, loop.index), k))
                    for row in tile:
                        total = builder.load(changes[row])
                        builder.store(multiply_add(builder, factor(loop.index, row), vector, total), changes[row])
            for tile in tiles(len(every)):
                before = [load(builder, others[row], k) for row in tile]
                with cgutils.for_range(builder, count) as loop:
                    index = builder.add(element(builder, bases, loop.index), k)
                    vector = load(builder, flat_in, index)
                    for row, other in zip(tile, before, strict=True):
                        vector = multiply_add(builder, factor(loop.index, row), other, vector)
                    store(builder, vector, flat_in, index)
            # Load again: the same negative may occur twice.
            for row in every:
                changed = builder.fadd(load(builder, others[row], k), builder.load(changes[row]))
                store(builder, changed, others[row], k)
        return context.get_dummy_value()

    return types.void(inputs, bases, n, outputs, targets, steps, dim, rows), build
