"""The kernel of word2vec's other methods: CBOW, hierarchical softmax, and n-grams as in fastText, in any combination.

CBOW predicts a center from the mean (or sum) of its contexts' vectors (Mikolov et al. 2013, "Efficient Estimation",
section 3.1); skip-gram predicts the contexts from the center. Hierarchical softmax predicts the turns on a token's path
in a Huffman tree (Mikolov et al. 2013, "Distributed Representations", section 2.1). With n-grams a token is represented
by the mean of its own row and those of its n-grams (Bojanowski et al. 2017, section 3.2).

One hidden vector predicts many rows of outputs. All dot products use the rows as they were before the step, and the
changes are then added. Threads share the rows without locks. Skip-gram with negative sampling alone has the faster
kernel in sgns.py.

The inner nodes near the root are on nearly every path. A window's contexts have each of them once in its targets,
with the number of paths as its weight. Several threads would take their rows from each other's caches all the time, so
that each thread has a copy of its own, and adds the copy's changes to the shared row after some steps.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import float32, float64, int8, int32, int64, njit, types
from numba.core import cgutils

from embedall_spark.train.aligned_rows import LINE as _LINE
from embedall_spark.train.vector_instructions import (
    LAST,
    LONG,
    MATH,
    SCALE,
    SHIFT,
    SIGMOID,
    TILE,
    broadcast_lane,
    element,
    instructions,
    lane_sums,
    load,
    multiply_add,
    pointers,
    prefetch_row,
    store,
    zeros,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_FLOATS = ir.FloatType().as_pointer()
_LOSS_EVERY = 64  # one of so many groups is used to estimate the loss
_MAX_PREDICTED = 32  # contexts that are predicted at once; larger groups are cut
_MAX_PATH = 96  # a Huffman tree of depth 91 needs counts whose sum exceeds 2^63
# Of the rows of inner nodes near the root, and of a thread's copies of them twice: they fit into a core's cache.
_NEAR_BYTES = 1 << 18
# Learning rates of the steps along a row near the root, summed, that all threads together may take before each knows
# of the others'. A hidden vector's squared length, some units, times a quarter of it is the part of the row's error that
# these steps take off: threads that each took off most of it would overshoot together.
_UNKNOWN_RATES = 1.2

_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)
_BYTES = types.Array(int8, 1, "C", readonly=True)
_ROWS = float32[:, ::1]
_RESULT = types.Tuple((int64, int64, float64, int64))  # type: ignore[no-untyped-call]
_TUPLES = types.Tuple((_LONGS, _INTS, _BYTES)), types.Tuple((_LONGS, _INTS))  # type: ignore[no-untyped-call]
_SIGNATURE = _RESULT(_INTS, int64, int64, _ROWS, _ROWS, _INTS, int64, float32, int32, *_TUPLES)


@cache
def kernel(
    dim: int, negative: int, *, cbow: bool, mean: bool, hs: bool, ngrams: bool, batch_size: int = 1
) -> Callable[..., tuple[int, int, float, int]]:
    """Return the kernel for rows of ``dim`` floats, compiled or from numba's cache on disk.

    It is called as sgns.kernel()'s, with two more arguments: the fields of ``huffman.Paths`` as a tuple, offsets and
    rows of an ``NgramIndex``. Without ``hs`` or ``ngrams`` they may be empty. A row of outputs has the token's vector
    for negative sampling, if there is any, then the vector of the inner node with the token's number, if ``hs``. Rows
    of inputs are those of the tokens, then those of the n-grams. In place of ``share`` it takes the number of threads
    that train on the rows.

    Args:
        dim: floats of an input row, a multiple of 16.
        negative: negatives for each prediction; 0: no negative sampling.
        cbow: predict a center once from all contexts; otherwise each context from the center.
        mean: with ``cbow``, from the mean of all rows; otherwise from their sum, with the gradient divided by their
            number, as in gensim.
        hs: predict by hierarchical softmax, beside negative sampling where there is both.
        ngrams: tokens have rows for their n-grams, too.
        batch_size: contexts that share their negatives in skip-gram.

    It returns (next cursor, predictions, loss summed over a sample of the predictions, predictions in the sample).
    """
    return _compile(dim, negative, cbow, mean or not cbow, hs, ngrams, batch_size)  # type: ignore[no-any-return]


@njit(fastmath=MATH)
def _steps(dots: Any, labels: Any, weights: Any, count: Any, alpha: Any) -> None:
    """Replace dot products by the steps along the rows, alpha * (label - weight * sigmoid); labels are sums, too."""
    for i in range(count):
        bin_ = dots[i] * SCALE + SHIFT
        # Written so that NaN, too, gives an index inside the table.
        bin_ = bin_ if bin_ > np.float32(0) else np.float32(0)
        dots[i] = alpha * (labels[i] - weights[i] * SIGMOID[np.uint64(bin_ if bin_ < LAST else LAST)])


@njit(fastmath=MATH)
def _loss(dots: Any, labels: Any, weights: Any, count: Any) -> float:
    """Return the summed loss: -log sigmoid of a dot product, negated where the label is 0."""
    loss = 0.0
    for i in range(count):
        dot = np.float64(dots[i])
        loss += weights[i] * (max(dot, 0.0) + np.log1p(np.exp(-abs(dot)))) - labels[i] * dot
    return loss


@njit
def _input_rows(matrix: Any, sources: Any, offsets: Any, rows: Any, first: Any, addresses: Any) -> Any:
    """Return the addresses of the tokens' rows and their n-grams' in an array with room for them, and their number."""
    begin, length = matrix.ctypes.data, 4 * matrix.shape[1]
    count = sources.size
    if rows.size:
        for token in sources:
            count += offsets[token + 1] - offsets[token]
    if count > addresses.size:
        addresses = np.empty(2 * count, np.int64)
    count = 0
    for token in sources:
        addresses[count] = begin + token * length
        count += 1
        if rows.size:
            for i in range(offsets[token], offsets[token + 1]):
                addresses[count] = begin + (first + rows[i]) * length
                count += 1
    return addresses, count


def _compile(dim: int, negative: int, cbow: bool, mean: bool, hs: bool, ngrams: bool, batch_size: int) -> Any:  # noqa: C901 (one loop, for speed)
    """Return the compiled kernel; all arguments are constants in it."""
    width, nodes_from = dim * ((negative > 0) + hs), dim * (negative > 0)
    most_near = _NEAR_BYTES // (4 * dim) if hs else 0
    room = (1 if cbow else _MAX_PREDICTED) * ((negative > 0) * (negative + 1) + hs * _MAX_PATH)

    # _SIGNATURE has the types; mypy cannot follow them into compiled code.
    @njit(_SIGNATURE, nogil=True, cache=True, fastmath=MATH, error_model="numpy")
    def train(stream, start, stop, inputs, outputs, negatives, cursor, alpha, threads, paths, index_of_ngrams):  # type: ignore[no-untyped-def] # noqa
        (offsets, nodes, codes), (ngram_offsets, ngram_rows) = paths, index_of_ngrams
        flat_in, flat_out = inputs.reshape(inputs.size), outputs.reshape(outputs.size)
        tokens = outputs.shape[0]
        near = min(most_near, tokens)
        # Of each node near the root: its place among the targets, and the paths followed since its copy was merged.
        target_of, followed = np.zeros(near, np.int64), np.zeros(near, np.int64)
        copied = near if threads > 1 else 0
        # The rows that a thread changes, and then what they were when they were merged.
        copies = np.empty((2, copied, dim), np.float32)
        copies[:] = outputs[:copied, width - dim :]
        limit = max(1, np.int64(_UNKNOWN_RATES / (alpha * threads)))
        hidden, error = np.zeros(dim, np.float32), np.zeros(dim, np.float32)
        addresses, sources, node_of = np.empty(room, np.int64), np.empty(256, np.int64), np.empty(room, np.int32)
        dots, labels, weights = np.empty(room, np.float32), np.empty(room, np.float32), np.empty(room, np.float32)
        size, drawn = negatives.size, cursor % max(1, negatives.size)
        predictions, sampled, loss, groups = 0, 0, 0.0, 0
        index = start
        while index < stop:
            center, contexts = stream[index : index + 1], stream[index + 2 : index + 2 + stream[index + 1]]
            index += 2 + contexts.size
            if index < stop:
                following = stream[index] if not cbow else stream[index + 1 + stream[index + 1]]
                prefetch_row(flat_in, np.uint64(following) * np.uint64(dim), dim)
                if ngrams:
                    for i in range(ngram_offsets[following], ngram_offsets[following + 1]):
                        prefetch_row(flat_in, np.uint64(tokens + ngram_rows[i]) * np.uint64(dim), dim)
            given = contexts if cbow else center
            sources, rows = _input_rows(inputs, given, ngram_offsets, ngram_rows, tokens, sources)
            scale = np.float32(1) / np.float32(rows)
            for begin in range(0, 1 if cbow else contexts.size, _MAX_PREDICTED):
                predicted = center if cbow else contexts[begin : begin + _MAX_PREDICTED]
                targets = 0
                for number in range(predicted.size):
                    token = predicted[number]
                    if hs:
                        for step in range(offsets[token], offsets[token + 1]):
                            node = nodes[step]
                            place = node * width + nodes_from
                            address = flat_out.ctypes.data + 4 * place
                            if node < near:
                                target = target_of[node]
                                followed[node] += 1
                                if followed[node] == limit:
                                    prefetch_row(flat_out, np.uint64(place), dim)
                                if target < targets and node_of[target] == node:
                                    labels[target] += 1 - codes[step]
                                    weights[target] += 1
                                    continue
                                target_of[node] = targets
                                if threads > 1:
                                    shared, address = address, copies.ctypes.data + 4 * node * dim
                                    if followed[node] > limit:
                                        _exchange(shared, address, address + 4 * copied * dim, dim)
                                        followed[node] = 1
                            if node >= near:
                                prefetch_row(flat_out, np.uint64(place), dim)
                            addresses[targets], node_of[targets] = address, node
                            labels[targets], weights[targets] = 1 - codes[step], 1
                            targets += 1
                    if negative > 0:
                        addresses[targets] = flat_out.ctypes.data + 4 * token * width
                        labels[targets], weights[targets], node_of[targets] = 1, 1, -1
                        targets += 1
                        for _ in range(negative if number % batch_size == 0 else 0):
                            token = negatives[drawn]
                            drawn = drawn + 1 if drawn + 1 < size else 0
                            addresses[targets] = flat_out.ctypes.data + 4 * token * width
                            # A negative that is to be predicted contributes nothing, as in word2vec.
                            labels[targets], weights[targets], node_of[targets] = 0, 0, -1
                            for other in predicted[number : number + batch_size]:
                                weights[targets] += other != token
                            prefetch_row(flat_out, np.uint64(token) * np.uint64(width), dim)
                            targets += weights[targets] > 0
                hidden[:] = 0
                _sum(hidden, sources, rows, dim)
                if mean:
                    hidden *= scale
                _dots(hidden, addresses, dots, targets, dim)
                predictions += predicted.size
                if groups % _LOSS_EVERY == 0:
                    loss += _loss(dots, labels, weights, targets)
                    sampled += predicted.size
                _steps(dots, labels, weights, targets, alpha)
                error[:] = 0
                _learn(hidden, error, addresses, dots, targets, dim)
                if not mean:
                    error *= scale
                _add(error, sources, rows, dim)
            groups += 1
        for node in range(copied):
            address = copies.ctypes.data + 4 * node * dim
            shared = flat_out.ctypes.data + 4 * (node * width + nodes_from)
            _exchange(shared, address, address + 4 * copied * dim, dim)
        return np.int64(drawn), predictions, loss, sampled

    return train


# From here on: vector instructions. A Python loop is unrolled; a loop of cgutils is a loop in the machine code too.


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
def _sum(_: Any, hidden: Any, addresses: Any, count: Any, dim: Any) -> Any:
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
def _dots(_: Any, hidden: Any, addresses: Any, dots: Any, count: Any, dim: Any) -> Any:
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
def _learn(_: Any, hidden: Any, error: Any, addresses: Any, steps: Any, count: Any, dim: Any) -> Any:
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
def _exchange(_: Any, shared: Any, copy: Any, merged: Any, dim: Any) -> Any:
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
def _add(_: Any, error: Any, addresses: Any, count: Any, dim: Any) -> Any:
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
