"""Random numbers, prefetching and words of bytes for compiled code.

These functions must not change: numba's cache on disk watches only the file of a kernel, not the files that it imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

_GOLDEN, _FIRST, _SECOND = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

_compiled: Callable[[Callable[..., Any]], Any] = njit(nogil=True, cache=True)
_instruction: Callable[[Callable[..., Any]], Any] = intrinsic


@_compiled
def random(state: Any) -> Any:
    """Return 64 random bits and advance ``state.key``, uint64 (splitmix64, as in ``randomness``)."""
    state.key += _GOLDEN
    bits = (state.key ^ (state.key >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


@_instruction
def prefetch(_: Any, array: Any, index: Any) -> Any:
    """Prefetch an element into the processor's cache; the index may be out of range."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(function, [builder.bitcast(builder.gep(data, [values[1]]), byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), build


@_instruction
def load_word(_: Any, data: Any, start: Any, stop: Any) -> Any:
    """Return the first eight bytes of a uint8 array between two places as a uint64; where there are fewer, zeros."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        size, (first, last) = array.nitems, values[1:]
        word = ir.IntType(64)
        length = builder.sub(last, first)
        result = cgutils.alloca_once_value(builder, word(0))  # type: ignore[no-untyped-call]
        source = builder.gep(array.data, [first])
        whole = builder.icmp_signed("<=", builder.add(first, word(8)), size)
        with builder.if_else(whole) as (inside, at_the_end):
            with inside:
                loaded = builder.load(builder.bitcast(source, word.as_pointer()), align=1)
                shift = builder.sub(word(64), builder.shl(length, word(3)))
                # A shift by 64 bits is not defined: of no byte, the mask would be all.
                mask = builder.lshr(word(-1), builder.and_(shift, word(63)))
                mask = builder.select(builder.icmp_signed("<", length, word(1)), word(0), mask)
                mask = builder.select(builder.icmp_signed("<", length, word(8)), mask, word(-1))
                builder.store(builder.and_(loaded, mask), result)
            with at_the_end:
                # Nothing is read that is not the array's.
                length = builder.select(builder.icmp_signed("<", length, word(8)), length, word(8))
                cgutils.raw_memcpy(builder, result, source, length, 1)  # type: ignore[no-untyped-call]
        return builder.load(result)

    return types.uint64(data, types.int64, types.int64), build
