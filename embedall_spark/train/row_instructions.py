"""Vector instructions of word2vec_kernel.py over rows at any addresses: those of a matrix, or a thread's own copies.

A Python loop is unrolled; a loop of cgutils is a loop in the machine code too. Nothing here may change: numba's cache
on disk watches only the file of a kernel, not the files that it imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from embedall_spark.train.aligned_rows import LINE as _LINE
from embedall_spark.train.vector_instructions import (
    LONG,
    TILE,
    broadcast_lane,
    element,
    instructions,
    lane_sums,
    load,
    multiply_add,
    pointers,
    store,
    zeros,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_FLOATS = ir.FloatType().as_pointer()


def _for_rows(builder: Any, addresses: Any, count: Any, build: Callable[[Any, list[Any]], None]) -> None:
    """Build the instructions for rows, TILE at a time and then one by one; ``build`` gets an index and the rows."""
    whole = builder.sub(count, builder.urem(count, LONG(TILE)))
    for begin, end, size in ((LONG(0), whole, TILE), (whole, count, 1)):
        with cgutils.for_range_slice(builder, begin, end, LONG(size)) as (first, _):
            places = (element(builder, addresses, builder.add(first, LONG(row))) for row in range(size))
            build(first, [builder.inttoptr(place, _FLOATS) for place in places])


def _for_lines(builder: Any, dim: Any) -> Any:
    """Return the loop over the indices of a row's vectors."""
    return cgutils.for_range_slice(builder, LONG(0), LONG(dim.literal_value), LONG(_LINE))


@instructions
def sum_rows(_: Any, hidden: Any, addresses: Any, count: Any, dim: Any) -> Any:
    """Add rows to the hidden vector."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        total, rows, size, _ = pointers(context, builder, signature, values)

        def add(_: Any, sources: list[Any]) -> None:
            with _for_lines(builder, dim) as (k, _):
                vector = load(builder, total, k)
                for source in sources:
                    vector = builder.fadd(vector, load(builder, source, k))
                store(builder, vector, total, k)

        _for_rows(builder, rows, size, add)
        return context.get_dummy_value()

    return types.void(hidden, addresses, types.int64, dim), build


@instructions
def multiply_rows(_: Any, hidden: Any, addresses: Any, dots: Any, count: Any, dim: Any) -> Any:
    """Write the dot products of the hidden vector with rows."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector, rows, results, size, _ = pointers(context, builder, signature, values)

        def multiply(first: Any, targets: list[Any]) -> None:
            totals = zeros(builder, len(targets))
            with _for_lines(builder, dim) as (k, _):
                part = load(builder, vector, k)
                for total, target in zip(totals, targets, strict=True):
                    builder.store(multiply_add(builder, part, load(builder, target, k), builder.load(total)), total)
            store(builder, lane_sums(builder, [builder.load(total) for total in totals]), results, first)

        _for_rows(builder, rows, size, multiply)
        return context.get_dummy_value()

    return types.void(hidden, addresses, dots, types.int64, dim), build


@instructions
def learn_rows(_: Any, hidden: Any, error: Any, addresses: Any, steps: Any, count: Any, dim: Any) -> Any:
    """Add the steps times the rows to ``error``, and the steps times the hidden vector to the rows, one by one."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector, total, rows, factors, size, _ = pointers(context, builder, signature, values)

        def learn(first: Any, targets: list[Any]) -> None:
            indices = (builder.add(first, LONG(row)) for row in range(len(targets)))
            each = [broadcast_lane(builder, element(builder, factors, index)) for index in indices]
            with _for_lines(builder, dim) as (k, _):
                part, change = load(builder, vector, k), load(builder, total, k)
                for factor, target in zip(each, targets, strict=True):
                    before = load(builder, target, k)
                    change = multiply_add(builder, factor, before, change)
                    store(builder, multiply_add(builder, factor, part, before), target, k)
                store(builder, change, total, k)

        _for_rows(builder, rows, size, learn)
        return context.get_dummy_value()

    return types.void(hidden, error, addresses, steps, types.int64, dim), build


@instructions
def exchange_row(_: Any, shared: Any, copy: Any, merged: Any, dim: Any) -> Any:
    """Add what a copy has changed since it was merged to the shared row, and copy that row again."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        rows = [builder.inttoptr(value, _FLOATS) for value in values[:3]]
        with _for_lines(builder, dim) as (k, _):
            before, changed, unchanged = (load(builder, row, k) for row in rows)
            after = builder.fadd(before, builder.fsub(changed, unchanged))
            for row in rows:
                store(builder, after, row, k)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, dim), build


@instructions
def add_rows(_: Any, error: Any, addresses: Any, count: Any, dim: Any) -> Any:
    """Add ``error`` to rows, one by one; a row that is named twice gets it twice."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        change, rows, size, _ = pointers(context, builder, signature, values)

        def add(_: Any, targets: list[Any]) -> None:
            with _for_lines(builder, dim) as (k, _):
                part = load(builder, change, k)
                for target in targets:
                    store(builder, builder.fadd(load(builder, target, k), part), target, k)

        _for_rows(builder, rows, size, add)
        return context.get_dummy_value()

    return types.void(error, addresses, types.int64, dim), build
