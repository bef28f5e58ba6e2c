"""What the kernels of word2vec share: the sigmoid's table, parts that build LLVM code, and the prefetch of a row.

Nothing here may change: numba's cache on disk watches only the file of a kernel, not the files that it imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from embedall_spark.train.aligned_rows import LINE as _LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TILE = 6
"""Output rows whose sums are kept in registers; they also fit where a vector takes two registers."""
instructions: Callable[[Callable[..., Any]], Any] = intrinsic(prefer_literal=True)
"""Decorator of a function that builds instructions; arguments that are constants arrive as literals."""
# The sigmoid at the center of each of 1024 bins from -6 to 6, and 0 and 1 beyond them, as in word2vec.
_BINS, _LIMIT = 1024, 6.0
_CENTERS = (np.arange(_BINS) + 0.5) * (2 * _LIMIT / _BINS) - _LIMIT
SIGMOID = np.concatenate([[0.0], 1 / (1 + np.exp(-_CENTERS)), [1.0]]).astype(np.float32)
SCALE, SHIFT, LAST = (np.float32(value) for value in (_BINS / (2 * _LIMIT), _BINS / 2 + 1, _BINS + 1))
# Not "fast": code that may assume that there is no NaN reads out of bounds once there is one.
MATH = {"reassoc", "contract", "nsz", "arcp"}
WORD, LONG, VECTOR = ir.IntType(32), ir.IntType(64), ir.VectorType(ir.FloatType(), _LINE)


def pointers(context: Any, builder: Any, signature: Any, values: Any) -> list[Any]:
    """Return the arguments, arrays as pointers to their first elements."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, values, strict=True)
    ]


def element(builder: Any, array: Any, index: Any) -> Any:
    """Return one element of an array."""
    return builder.load(builder.gep(array, [index]))


def load(builder: Any, array: Any, index: Any) -> Any:
    """Return the vector that begins at an index of an array."""
    return builder.load(builder.bitcast(builder.gep(array, [index]), VECTOR.as_pointer()), align=4)


def store(builder: Any, vector: Any, array: Any, index: Any) -> None:
    """Store a vector at an index of an array."""
    builder.store(vector, builder.bitcast(builder.gep(array, [index]), vector.type.as_pointer()), align=4)


def multiply_add(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    """Return left * right + addend."""
    return builder.fadd(addend, builder.fmul(left, right, flags=("contract",)), flags=("contract",))


def _shuffle(builder: Any, left: Any, right: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(WORD, len(lanes)), list(lanes)))


def broadcast_lane(builder: Any, value: Any) -> Any:
    """Return a vector of equal values."""
    empty = ir.Constant(VECTOR, ir.Undefined)
    return _shuffle(builder, builder.insert_element(empty, value, WORD(0)), empty, [0] * _LINE)


def lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """Return a short vector with the sums of the lanes of up to 16 vectors."""
    count, width = len(vectors), _LINE
    while width > 1:
        # Adjacent lanes are added; two vectors become one with the sums of the first, then those of the second.
        pairs = [(vectors[i], vectors[min(i + 1, len(vectors) - 1)]) for i in range(0, len(vectors), 2)]
        even, odd = range(0, 2 * _LINE, 2), range(1, 2 * _LINE, 2)
        vectors = [builder.fadd(_shuffle(builder, *pair, even), _shuffle(builder, *pair, odd)) for pair in pairs]
        width //= 2
    return _shuffle(builder, vectors[0], vectors[0], range(count))


def zeros(builder: Any, count: int) -> list[Any]:
    """Return variables, kept in registers, that are vectors of zeros."""
    variables = [cgutils.alloca_once(builder, VECTOR) for _ in range(count)]  # type: ignore[no-untyped-call]
    for variable in variables:
        builder.store(ir.Constant(VECTOR, [0.0] * _LINE), variable)
    return variables


def tiles(rows: int) -> list[range]:
    """Return rows in parts of at most TILE, as equal as possible."""
    count = -(-rows // TILE)
    return [range(rows * i // count, rows * (i + 1) // count) for i in range(count)]


@instructions
def prefetch_row(_: Any, matrix: Any, base: Any, dim: Any) -> Any:
    """Prefetch a row into the processor's cache, for writing."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flat, first, *_ = pointers(context, builder, signature, values)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        for k in range(0, dim.literal_value, _LINE):
            line = builder.bitcast(builder.gep(flat, [builder.add(first, LONG(k))]), byte)
            builder.call(function, [line, WORD(1), WORD(3), WORD(1)])
        return context.get_dummy_value()

    return types.void(matrix, base, dim), build
