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
from numba import float32, float64, int8, int32, int64, njit, types

from embedall_spark.train.row_instructions import add_rows, exchange_row, learn_rows, multiply_rows, sum_rows
from embedall_spark.train.vector_instructions import LAST, MATH, SCALE, SHIFT, SIGMOID, prefetch_row

if TYPE_CHECKING:
    from collections.abc import Callable

_LOSS_EVERY = 64  # one of so many groups is used to estimate the loss
_MAX_PREDICTED = 32  # contexts that are predicted at once; larger groups are cut
_MAX_PATH = 96  # a Huffman tree of depth 91 needs counts whose sum exceeds 2^63
# Of the rows of inner nodes near the root, and of a thread's copies of them twice: they fit into a core's cache.
_NEAR_BYTES = 1 << 18
# Learning rates of the steps along a row near the root, summed, that all threads together may take before each knows
# of the others'. Times a quarter of a hidden vector's squared length (2 to 7), it is the part of the row's error that
# these steps take off: threads that each took off most of it would overshoot together.
_UNKNOWN_RATES = 1.2

_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)
_BYTES = types.Array(int8, 1, "C", readonly=True)
_ROWS = float32[:, ::1]
_RESULT = types.Tuple((int64, int64, float64, int64))  # type: ignore[no-untyped-call]
_TUPLES = types.Tuple((_LONGS, _INTS, _BYTES)), types.Tuple((_LONGS, _INTS))  # type: ignore[no-untyped-call]
_inlined: Callable[[Callable[..., Any]], Any] = njit(inline="always")
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


@_inlined
def _add_path(
    token: Any, targets: Any, paths: Any, flat: Any, nodes_from: Any, width: Any, dim: Any, addresses: Any,
    labels: Any, weights: Any, node_of: Any, target_of: Any, followed: Any, copies: Any, limit: Any,
) -> Any:  # fmt: skip
    """Add the inner nodes of a token's path to the targets, those near the root once, and return their number."""
    offsets, nodes, codes = paths
    for step in range(offsets[token], offsets[token + 1]):
        node = nodes[step]
        place = node * width + nodes_from
        address = flat.ctypes.data + 4 * place
        if node < target_of.size:
            target = target_of[node]
            followed[node] += 1
            if followed[node] == limit:
                prefetch_row(flat, np.uint64(place), dim)
            if target < targets and node_of[target] == node:
                labels[target] += 1 - codes[step]
                weights[target] += 1
                continue
            target_of[node] = targets
            if copies.size:
                shared, address = address, copies.ctypes.data + 4 * node * dim
                if followed[node] > limit:
                    # The merged rows lie behind all copies.
                    exchange_row(shared, address, address + 2 * copies.size, dim)
                    followed[node] = 1
        else:
            prefetch_row(flat, np.uint64(place), dim)
        addresses[targets], node_of[targets] = address, node
        labels[targets], weights[targets] = 1 - codes[step], 1
        targets += 1
    return targets


@_inlined
def _merge_all(copies: Any, flat: Any, nodes_from: Any, width: Any, dim: Any) -> None:
    """Add what all copies have changed to the shared rows."""
    for node in range(copies.shape[1]):
        shared = flat.ctypes.data + 4 * (node * width + nodes_from)
        address = copies.ctypes.data + 4 * node * dim
        exchange_row(shared, address, address + 2 * copies.size, dim)


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
        ngram_offsets, ngram_rows = index_of_ngrams
        flat_in, flat_out = inputs.reshape(inputs.size), outputs.reshape(outputs.size)
        tokens, near = outputs.shape[0], min(most_near, outputs.shape[0])
        # Of each node near the root: its place among the targets, and the paths followed since its copy was merged.
        target_of, followed = np.zeros(near, np.int64), np.zeros(near, np.int64)
        # The rows that a thread changes, and then what they were when they were merged.
        copies = np.empty((2, near if threads > 1 else 0, dim), np.float32)
        copies[:] = outputs[: copies.shape[1], width - dim :]
        limit = max(1, np.int64(_UNKNOWN_RATES / (alpha * threads)))
        hidden, error = np.zeros(dim, np.float32), np.zeros(dim, np.float32)
        addresses, sources, node_of = np.empty(room, np.int64), np.empty(256, np.int64), np.empty(room, np.int32)
        dots, labels, weights = np.empty(room, np.float32), np.empty(room, np.float32), np.empty(room, np.float32)
        size, drawn = negatives.size, cursor % max(1, negatives.size)
        predictions, sampled, loss, groups, index = 0, 0, 0.0, 0, start
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
            for begin in range(0, 1 if cbow else contexts.size, _MAX_PREDICTED):
                predicted = center if cbow else contexts[begin : begin + _MAX_PREDICTED]
                targets = 0
                for number, token in enumerate(predicted):
                    if hs:
                        targets = _add_path(
                            token, targets, paths, flat_out, nodes_from, width, dim, addresses, labels, weights,
                            node_of, target_of, followed, copies, limit,
                        )  # fmt: skip
                    if negative > 0:
                        addresses[targets] = flat_out.ctypes.data + 4 * token * width
                        labels[targets], weights[targets], node_of[targets] = 1, 1, -1
                        targets += 1
                        for _ in range(negative if number % batch_size == 0 else 0):
                            noise = negatives[drawn]
                            drawn = drawn + 1 if drawn + 1 < size else 0
                            addresses[targets] = flat_out.ctypes.data + 4 * noise * width
                            # A negative that is to be predicted contributes nothing, as in word2vec.
                            labels[targets], weights[targets], node_of[targets] = 0, 0, -1
                            for other in predicted[number : number + batch_size]:
                                weights[targets] += other != noise
                            prefetch_row(flat_out, np.uint64(noise) * np.uint64(width), dim)
                            targets += weights[targets] > 0
                hidden[:] = 0
                sum_rows(hidden, sources, rows, dim)
                if mean:
                    hidden /= np.float32(rows)
                multiply_rows(hidden, addresses, dots, targets, dim)
                predictions += predicted.size
                if groups % _LOSS_EVERY == 0:
                    loss += _loss(dots, labels, weights, targets)
                    sampled += predicted.size
                _steps(dots, labels, weights, targets, alpha)
                error[:] = 0
                learn_rows(hidden, error, addresses, dots, targets, dim)
                if not mean:
                    error /= np.float32(rows)
                add_rows(error, sources, rows, dim)
            groups += 1
        _merge_all(copies, flat_out, nodes_from, width, dim)
        return np.int64(drawn), predictions, loss, sampled

    return train
