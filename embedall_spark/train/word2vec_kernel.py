"""The kernel of word2vec's other methods: CBOW, hierarchical softmax, and n-grams as in fastText, in any combination.

CBOW predicts a center from the mean (or sum) of its contexts' vectors (Mikolov et al. 2013, "Efficient Estimation",
section 3.1); skip-gram predicts the contexts from the center. Hierarchical softmax predicts the turns on a token's path
in a Huffman tree (Mikolov et al. 2013, "Distributed Representations", section 2.1). With n-grams a token is represented
by the mean of its own row and those of its n-grams (Bojanowski et al. 2017, section 3.2).

One hidden vector predicts many rows of outputs. All dot products use the rows as they were before the step, and the
changes are then added. Threads share the rows without locks. Skip-gram with negative sampling alone has the faster
kernel in sgns.py.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
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

_LOSS_EVERY = 64  # one of so many groups is used to estimate the loss
_MAX_PREDICTED = 32  # contexts that are predicted at once; larger groups are cut
_MAX_PATH = 96  # a Huffman tree of depth 91 needs counts whose sum exceeds 2^63

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
    of inputs are those of the tokens, then those of the n-grams. ``share`` is not used.

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
    """Replace dot products by the steps along the rows: alpha * weight * (label - sigmoid)."""
    for i in range(count):
        bin_ = dots[i] * SCALE + SHIFT
        # Written so that NaN, too, gives an index inside the table.
        bin_ = bin_ if bin_ > np.float32(0) else np.float32(0)
        dots[i] = alpha * weights[i] * (labels[i] - SIGMOID[np.uint64(bin_ if bin_ < LAST else LAST)])


@njit(fastmath=MATH)
def _loss(dots: Any, labels: Any, weights: Any, count: Any) -> float:
    """Return the summed loss: -log sigmoid of a dot product, negated where the label is 0."""
    loss = 0.0
    for i in range(count):
        signed = np.float64(-dots[i] if labels[i] > 0 else dots[i])
        loss += weights[i] * (max(signed, 0.0) + np.log1p(np.exp(-abs(signed))))
    return loss


@njit
def _input_rows(sources: Any, offsets: Any, rows: Any, first: Any, dim: Any, places: Any) -> Any:
    """Return the places of the tokens' rows and their n-grams' in an array that has room for them, and their number."""
    count = sources.size
    if rows.size:
        for token in sources:
            count += offsets[token + 1] - offsets[token]
    if count > places.size:
        places = np.empty(2 * count, np.uint64)
    count = 0
    for token in sources:
        places[count] = np.uint64(token) * np.uint64(dim)
        count += 1
        if rows.size:
            for i in range(offsets[token], offsets[token + 1]):
                places[count] = np.uint64(first + rows[i]) * np.uint64(dim)
                count += 1
    return places, count


def _compile(dim: int, negative: int, cbow: bool, mean: bool, hs: bool, ngrams: bool, batch_size: int) -> Any:  # noqa: C901 (one loop, for speed)
    """Return the compiled kernel; all arguments are constants in it."""
    width, nodes_from = dim * ((negative > 0) + hs), dim * (negative > 0)
    room = (1 if cbow else _MAX_PREDICTED) * ((negative > 0) * (negative + 1) + hs * _MAX_PATH)

    # _SIGNATURE has the types; mypy cannot follow them into compiled code.
    @njit(_SIGNATURE, nogil=True, cache=True, fastmath=MATH, error_model="numpy")
    def train(stream, start, stop, inputs, outputs, negatives, cursor, alpha, share, paths, index_of_ngrams):  # type: ignore[no-untyped-def] # noqa
        (offsets, nodes, codes), (ngram_offsets, ngram_rows) = paths, index_of_ngrams
        flat_in, flat_out = inputs.reshape(inputs.size), outputs.reshape(outputs.size)
        tokens = outputs.shape[0]
        hidden, error = np.zeros(dim, np.float32), np.zeros(dim, np.float32)
        places, sources = np.empty(room, np.uint64), np.empty(256, np.uint64)
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
            sources, rows = _input_rows(contexts if cbow else center, ngram_offsets, ngram_rows, tokens, dim, sources)
            scale = np.float32(1) / np.float32(rows)
            for begin in range(0, 1 if cbow else contexts.size, _MAX_PREDICTED):
                predicted = center if cbow else contexts[begin : begin + _MAX_PREDICTED]
                targets = 0
                for number in range(predicted.size):
                    token = predicted[number]
                    if hs:
                        for step in range(offsets[token], offsets[token + 1]):
                            places[targets] = np.uint64(nodes[step] * np.int64(width) + nodes_from)
                            labels[targets], weights[targets] = 1 - codes[step], 1
                            prefetch_row(flat_out, places[targets], dim)
                            targets += 1
                    if negative > 0:
                        places[targets] = np.uint64(token) * np.uint64(width)
                        labels[targets], weights[targets] = 1, 1
                        targets += 1
                        for _ in range(negative if number % batch_size == 0 else 0):
                            token = negatives[drawn]
                            drawn = drawn + 1 if drawn + 1 < size else 0
                            places[targets] = np.uint64(token) * np.uint64(width)
                            # A negative that is to be predicted contributes nothing, as in word2vec.
                            labels[targets] = weights[targets] = 0
                            for other in predicted[number : number + batch_size]:
                                weights[targets] += other != token
                            prefetch_row(flat_out, places[targets], dim)
                            targets += weights[targets] > 0
                hidden[:] = 0
                _sum(hidden, flat_in, sources, rows, dim)
                if mean:
                    hidden *= scale
                _dots(hidden, flat_out, places, dots, targets, dim)
                predictions += predicted.size
                if groups % _LOSS_EVERY == 0:
                    loss += _loss(dots, labels, weights, targets)
                    sampled += predicted.size
                _steps(dots, labels, weights, targets, alpha)
                error[:] = 0
                _learn(hidden, error, flat_out, places, dots, targets, dim)
                if not mean:
                    error *= scale
                _add(error, flat_in, sources, rows, dim)
            groups += 1
        return np.int64(drawn), predictions, loss, sampled

    return train


# From here on: vector instructions. A Python loop is unrolled; a loop of cgutils is a loop in the machine code too.


def _for_rows(builder: Any, flat: Any, places: Any, count: Any, build: Callable[[Any, list[Any]], None]) -> None:
    """Build the instructions for rows, TILE at a time and then one by one; ``build`` gets an index and the rows."""
    whole = builder.sub(count, builder.urem(count, LONG(TILE)))
    for begin, end, size in ((LONG(0), whole, TILE), (whole, count, 1)):
        with cgutils.for_range_slice(builder, begin, end, LONG(size)) as (first, _):
            indices = [builder.add(first, LONG(row)) for row in range(size)]
            build(first, [builder.gep(flat, [element(builder, places, index)]) for index in indices])


def _for_lines(builder: Any, dim: Any) -> Any:
    """Return the loop over the indices of a row's vectors."""
    return cgutils.for_range_slice(builder, LONG(0), LONG(dim.literal_value), LONG(_LINE))


@instructions
def _sum(_: Any, hidden: Any, flat: Any, places: Any, count: Any, dim: Any) -> Any:
    """Add rows to the hidden vector."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        total, matrix, offsets, size, _ = pointers(context, builder, signature, values)

        def add(_: Any, sources: list[Any]) -> None:
            with _for_lines(builder, dim) as (k, _):
                vector = load(builder, total, k)
                for source in sources:
                    vector = builder.fadd(vector, load(builder, source, k))
                store(builder, vector, total, k)

        _for_rows(builder, matrix, offsets, size, add)
        return context.get_dummy_value()

    return types.void(hidden, flat, places, types.int64, dim), build


@instructions
def _dots(_: Any, hidden: Any, flat: Any, places: Any, dots: Any, count: Any, dim: Any) -> Any:
    """Write the dot products of the hidden vector with rows."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector, matrix, offsets, results, size, _ = pointers(context, builder, signature, values)

        def multiply(first: Any, targets: list[Any]) -> None:
            totals = zeros(builder, len(targets))
            with _for_lines(builder, dim) as (k, _):
                part = load(builder, vector, k)
                for total, target in zip(totals, targets, strict=True):
                    builder.store(multiply_add(builder, part, load(builder, target, k), builder.load(total)), total)
            store(builder, lane_sums(builder, [builder.load(total) for total in totals]), results, first)

        _for_rows(builder, matrix, offsets, size, multiply)
        return context.get_dummy_value()

    return types.void(hidden, flat, places, dots, types.int64, dim), build


@instructions
def _learn(_: Any, hidden: Any, error: Any, flat: Any, places: Any, steps: Any, count: Any, dim: Any) -> Any:
    """Add the steps times the rows to ``error``, and the steps times the hidden vector to the rows, one by one."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector, total, matrix, offsets, factors, size, _ = pointers(context, builder, signature, values)

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

        _for_rows(builder, matrix, offsets, size, learn)
        return context.get_dummy_value()

    return types.void(hidden, error, flat, places, steps, types.int64, dim), build


@instructions
def _add(_: Any, error: Any, flat: Any, places: Any, count: Any, dim: Any) -> Any:
    """Add ``error`` to rows, one by one; a row that is named twice gets it twice."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        change, matrix, offsets, size, _ = pointers(context, builder, signature, values)

        def add(_: Any, targets: list[Any]) -> None:
            with _for_lines(builder, dim) as (k, _):
                part = load(builder, change, k)
                for target in targets:
                    store(builder, builder.fadd(load(builder, target, k), part), target, k)

        _for_rows(builder, matrix, offsets, size, add)
        return context.get_dummy_value()

    return types.void(error, flat, places, types.int64, dim), build
