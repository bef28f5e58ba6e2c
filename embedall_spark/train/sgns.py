"""The kernel of skip-gram with negative sampling (Mikolov et al. 2013, "Distributed Representations", section 2.2).

A group is a center and its contexts. Its contexts share the negatives, all dot products are taken from the rows as they
stood, and the summed changes are then added (HogBatch: Ji et al. 2016, "Parallelizing Word2Vec in Shared and
Distributed Memory", section 3). Threads share the rows without locks (Hogwild: Recht et al. 2011).

The inner loops are written as LLVM vector instructions, because they keep a tile of the output rows' sums in registers,
which numba's own vectorisation does not. They are in this file because numba's cache on disk watches no other.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import float32, float64, int32, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from embedall_spark.train.aligned_rows import LINE as _LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]


_TILE = 6  # output rows whose sums are kept in registers, so that they fit also where a vector takes two
MAX_CONTEXTS = 32  # contexts that are trained on at once, at most; larger groups are cut
_AHEAD = 2  # groups between asking for a row and using it
_EVERY = 64  # of so many groups one is used to estimate the loss

# The sigmoid at the middle of each of 1024 steps from -6 to 6, and 0 and 1 beyond them, as in word2vec.
_STEPS, _REACH = 1024, 6.0
_MIDDLES = (np.arange(_STEPS) + 0.5) * (2 * _REACH / _STEPS) - _REACH
_SIGMOID = np.concatenate([[0.0], 1 / (1 + np.exp(-_MIDDLES)), [1.0]]).astype(np.float32)
_SCALE, _SHIFT, _LAST = (np.float32(value) for value in (_STEPS / (2 * _REACH), _STEPS / 2 + 1, _STEPS + 1))

# A signature that says read-only also takes writable arrays.
_INTS = types.Array(int32, 1, "C", readonly=True)
_ROWS = float32[:, ::1]
_RESULT = types.Tuple((int64, int64, float64, int64))  # type: ignore[no-untyped-call]
_SIGNATURE = _RESULT(_INTS, int64, int64, _ROWS, _ROWS, _INTS, int64, float32, int32)
# Not "fast": a program that may assume that there is no NaN reads anywhere once there is one.
_MATH = {"reassoc", "contract", "nsz", "arcp"}
_compiled: Callable[[Callable[..., Any]], Any] = njit(fastmath=_MATH)
_instructions: Callable[[Callable[..., Any]], Any] = intrinsic(prefer_literal=True)


@cache
def kernel(dim: int, negative: int, batch_size: int = MAX_CONTEXTS) -> Callable[..., tuple[int, int, float, int]]:
    """Return the kernel for rows of ``dim`` floats and ``negative`` negatives, compiled, or read from the disk's cache.

    Larger groups are cut into ones of ``batch_size`` contexts; with 1 every pair has negatives of its own and sees what
    the one before it changed, as in word2vec.

    It is called as ``kernel(stream, start, stop, inputs, outputs, negatives, cursor, alpha, share)``:

    - stream: int32, groups (center, n, n contexts); those from ``start`` to ``stop`` are trained on.
    - inputs, outputs: float32 [rows, dim]; contexts are rows of inputs, centers and negatives rows of outputs. Changed.
    - negatives: int32, see ``negative_table``; taken from place ``cursor`` on, round and round.
    - alpha: learning rate, float32.
    - share: negatives are redrawn for the first group after so many pairs have used them; 1: for every group.
      A negative that is the center contributes nothing, as in word2vec.

    It returns (next cursor, pairs trained on, loss summed over a sample of the pairs, pairs in the sample); the loss of
    a pair is -log sigmoid of its dot product minus the sum of log sigmoid of the negatives' dot products negated.
    With one thread the result is the same to the bit at every run.
    """
    if dim % _LINE:
        raise ValueError(
            f"rows must be padded to a multiple of {_LINE} floats, got {dim}; see aligned_rows.padded_length"
        )
    return _compile(dim, negative, batch_size)  # type: ignore[no-any-return]


def _compile(dim: int, negative: int, batch_size: int) -> Any:  # noqa: C901 (one loop, for speed)
    """Return the compiled kernel; ``dim``, ``rows`` and ``batch_size`` are constants in it."""
    rows = negative + 1

    # _SIGNATURE has the types; mypy cannot follow them into compiled code.
    @njit(_SIGNATURE, nogil=True, cache=True, fastmath=_MATH, error_model="numpy")
    def train(stream, start, stop, inputs, outputs, negatives, cursor, alpha, share):  # type: ignore[no-untyped-def] # noqa
        width = np.uint64(dim)
        flat_in, flat_out = inputs.reshape(inputs.size), outputs.reshape(outputs.size)
        # Where rows begin in the flat matrices: of the center and its negatives, and of the contexts.
        targets, contexts = np.zeros(rows, np.uint64), np.zeros(batch_size, np.uint64)
        dots = np.empty(batch_size * rows, np.float32)
        pairs, sampled, loss, groups, used = 0, 0, 0.0, 0, share
        size, drawn = np.uint64(negatives.size), np.uint64(cursor % negatives.size)
        at = ahead = start
        for _ in range(_AHEAD):
            if ahead < stop:
                ahead += 2 + stream[ahead + 1]
        while at < stop:
            if ahead < stop:
                # Windows overlap: of the contexts only the last one is likely to be new.
                count = stream[ahead + 1]
                _prefetch(flat_out, np.uint64(stream[ahead]) * width, dim)
                _prefetch(flat_in, np.uint64(stream[ahead + 1 + count]) * width, dim)
                ahead += 2 + count
            targets[0] = np.uint64(stream[at]) * width
            left = stream[at + 1]
            at += 2
            while left > 0:
                count = min(left, batch_size)
                if used >= share:
                    used = 0
                    for row in range(1, rows):
                        targets[row] = np.uint64(negatives[drawn]) * width
                        drawn = drawn + np.uint64(1) if drawn + np.uint64(1) < size else np.uint64(0)
                    if drawn + np.uint64(_AHEAD * negative) <= size:
                        for row in range((_AHEAD - 1) * negative, _AHEAD * negative):
                            _prefetch(flat_out, np.uint64(negatives[drawn + np.uint64(row)]) * width, dim)
                for m in range(count):
                    contexts[m] = np.uint64(stream[at + m]) * width
                    _dots(flat_in, contexts[m], flat_out, targets, dots, m * rows, dim, rows)
                if groups % _EVERY == 0:
                    loss += _loss(dots, targets, count)
                    sampled += count
                _steps(dots, targets, count, alpha)
                _add(flat_in, contexts, count, flat_out, targets, dots, dim, rows)
                groups += 1
                pairs += count
                used += count
                left -= count
                at += count
        return np.int64(drawn), pairs, loss, sampled

    return train


@_compiled
def _steps(dots: Floats, targets: NDArray[np.uint64], count: int, alpha: np.float32) -> None:
    """Replace the dot products [count, rows] by the steps along the other side's row: alpha * (label - sigmoid)."""
    rows = targets.size
    for i in range(count * rows):
        place = dots[i] * _SCALE + _SHIFT
        # Written so that NaN, too, ends inside the table.
        place = place if place > np.float32(0) else np.float32(0)
        dots[i] = -alpha * _SIGMOID[np.uint64(place if place < _LAST else _LAST)]
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


# From here on: vector instructions. A Python loop below is unrolled, a loop of cgutils remains one in the machine code.
_WORD, _LONG, _VECTOR = ir.IntType(32), ir.IntType(64), ir.VectorType(ir.FloatType(), _LINE)


def _pointers(context: Any, builder: Any, signature: Any, values: Any) -> list[Any]:
    """Return the arguments, arrays as pointers to their first elements."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, values, strict=True)
    ]


def _element(builder: Any, array: Any, at: Any) -> Any:
    return builder.load(builder.gep(array, [at]))


def _load(builder: Any, array: Any, at: Any) -> Any:
    return builder.load(builder.bitcast(builder.gep(array, [at]), _VECTOR.as_pointer()), align=4)


def _store(builder: Any, vector: Any, array: Any, at: Any) -> None:
    builder.store(vector, builder.bitcast(builder.gep(array, [at]), vector.type.as_pointer()), align=4)


def _fused(builder: Any, one: Any, other: Any, plus: Any) -> Any:
    return builder.fadd(plus, builder.fmul(one, other, flags=("contract",)), flags=("contract",))


def _shuffle(builder: Any, one: Any, other: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_WORD, len(lanes)), list(lanes)))


def _spread(builder: Any, value: Any) -> Any:
    empty = ir.Constant(_VECTOR, ir.Undefined)
    return _shuffle(builder, builder.insert_element(empty, value, _WORD(0)), empty, [0] * _LINE)


def _sums(builder: Any, vectors: list[Any]) -> Any:
    """Return one short vector with the sum of each vector's lanes, at most 16 of them."""
    count, width = len(vectors), _LINE
    while width > 1:
        # Neighbours are added, and two vectors become one that holds the first's sums, then the second's.
        pairs = [(vectors[i], vectors[min(i + 1, len(vectors) - 1)]) for i in range(0, len(vectors), 2)]
        even, odd = range(0, 2 * _LINE, 2), range(1, 2 * _LINE, 2)
        vectors = [builder.fadd(_shuffle(builder, *pair, even), _shuffle(builder, *pair, odd)) for pair in pairs]
        width //= 2
    return _shuffle(builder, vectors[0], vectors[0], range(count))


def _zeros(builder: Any, count: int) -> list[Any]:
    """Return variables, kept in registers, that hold vectors of zeros."""
    variables = [cgutils.alloca_once(builder, _VECTOR) for _ in range(count)]  # type: ignore[no-untyped-call]
    for variable in variables:
        builder.store(ir.Constant(_VECTOR, [0.0] * _LINE), variable)
    return variables


def _tiles(rows: int) -> list[range]:
    count = -(-rows // _TILE)
    return [range(rows * i // count, rows * (i + 1) // count) for i in range(count)]


@_instructions
def _dots(_: Any, inputs: Any, own: Any, outputs: Any, targets: Any, dots: Any, at: Any, dim: Any, rows: Any) -> Any:
    """Write the dot products of a context's row with the target rows into ``dots``, from place ``at`` on."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flat_in, base, flat_out, places, results, first, *_ = _pointers(context, builder, signature, values)
        own = builder.gep(flat_in, [base])
        for tile in _tiles(rows.literal_value):
            others = [builder.gep(flat_out, [_element(builder, places, _LONG(row))]) for row in tile]
            sums = _zeros(builder, len(tile))
            with cgutils.for_range_slice(builder, _LONG(0), _LONG(dim.literal_value), _LONG(_LINE)) as (k, _):
                vector = _load(builder, own, k)
                for total, other in zip(sums, others, strict=True):
                    builder.store(_fused(builder, vector, _load(builder, other, k), builder.load(total)), total)
            done = _sums(builder, [builder.load(total) for total in sums])
            _store(builder, done, results, builder.add(first, _LONG(tile[0])))
        return context.get_dummy_value()

    return types.void(inputs, own, outputs, targets, dots, types.int64, dim, rows), build


@_instructions
def _add(_: Any, inputs: Any, own: Any, n: Any, outputs: Any, targets: Any, steps: Any, dim: Any, rows: Any) -> Any:
    """Add the steps [count, rows] times the rows of either side to the other side's rows, both as they stood."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flat_in, bases, many, flat_out, places, factors, *_ = _pointers(context, builder, signature, values)
        every = range(rows.literal_value)
        others = [builder.gep(flat_out, [_element(builder, places, _LONG(row))]) for row in every]

        def factor(m: Any, row: int) -> Any:
            place = builder.add(builder.mul(m, _LONG(len(every))), _LONG(row))
            return _spread(builder, _element(builder, factors, place))

        with cgutils.for_range_slice(builder, _LONG(0), _LONG(dim.literal_value), _LONG(_LINE)) as (k, _):
            changes = _zeros(builder, len(every))
            for tile in _tiles(len(every)):
                with cgutils.for_range(builder, many) as loop:
                    vector = _load(builder, flat_in, builder.add(_element(builder, bases, loop.index), k))
                    for row in tile:
                        total = builder.load(changes[row])
                        builder.store(_fused(builder, factor(loop.index, row), vector, total), changes[row])
            for tile in _tiles(len(every)):
                held = [_load(builder, others[row], k) for row in tile]
                with cgutils.for_range(builder, many) as loop:
                    place = builder.add(_element(builder, bases, loop.index), k)
                    vector = _load(builder, flat_in, place)
                    for row, other in zip(tile, held, strict=True):
                        vector = _fused(builder, factor(loop.index, row), other, vector)
                    _store(builder, vector, flat_in, place)
            # Read again: a negative may be there twice.
            for row in every:
                changed = builder.fadd(_load(builder, others[row], k), builder.load(changes[row]))
                _store(builder, changed, others[row], k)
        return context.get_dummy_value()

    return types.void(inputs, own, n, outputs, targets, steps, dim, rows), build


@_instructions
def _prefetch(_: Any, matrix: Any, base: Any, dim: Any) -> Any:
    """Ask the processor to bring a row into its cache, to be written to."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flat, first, *_ = _pointers(context, builder, signature, values)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _WORD, _WORD, _WORD])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        for k in range(0, dim.literal_value, _LINE):
            line = builder.bitcast(builder.gep(flat, [builder.add(first, _LONG(k))]), byte)
            builder.call(function, [line, _WORD(1), _WORD(3), _WORD(1)])
        return context.get_dummy_value()

    return types.void(matrix, base, dim), build
