"""The arithmetic of exact search in one block of vectors, in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Float = NDArray[np.float32]
    Hits = tuple[NDArray[np.int64], Float]


class Rows(Protocol):
    """Unit rows that are computed when they are needed, in place of a matrix, float32 [n, d]."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimension."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: NDArray[np.int64]) -> Float:
        """Return unit rows, exactly, float32 [rows, d]."""

    def products(self, queries: Float) -> Float:
        """Return the dot products of queries, float32 [q, d], and all rows, float32 [q, n], as float32 rounds them."""


MAX_CELLS = 1 << 22  # scores in memory at once: 16 MiB
_GROUP = 32  # columns whose best score stands for all of them
_RESCORED = 1 << 14  # candidates scored in double precision at once


def rounding(d: int, lengths: float) -> float:
    """Return an upper bound of the rounding in a comparison of two float32 dot products of dimension ``d``."""
    # A row that Rows scales is rounded a few times more.
    return 2 * lengths * (d + 4) * float(np.finfo(np.float32).eps)


def block_top_k(matrix: Float | Rows, queries: Float, k: int, lengths: float = 1.0) -> Hits:
    """Return the ``k`` rows of a block that are nearest to each query by cosine.

    Args:
        matrix: unit rows, float32 [n, d], or those of csls.rows(), or Rows in place of either.
        queries: unit rows, float32 [q, d], or those of csls.queries().
        k: how many; all ``n`` if there are fewer.
        lengths: an upper bound of the product of a row's and a query's length.

    Returns:
        Rows, int64 [q, min(k, n)], and their scores, float32, best first. Equal scores are in the order of the rows,
        and a row's score does not depend on the block that it is in: the matrix product only finds candidates, which
        are then scored in double precision.
    """
    slack = rounding(matrix.shape[1], lengths)

    def part(start: int, stop: int) -> Hits:
        query, rows = _candidates(_products(queries[start:stop], matrix), k, absolute=slack)
        exact = dots_of(queries[start:stop], query, matrix, rows)
        return _first(query, rows, exact, stop - start, min(k, len(matrix)))

    return _in_parts(len(queries), len(matrix), part)


def block_top_k_mul(matrix: Float | Rows, triples: Float, k: int, epsilon: float) -> Hits:
    """Return the ``k`` rows of a block that answer each analogy best by 3CosMul (Levy and Goldberg 2014, eq. 4).

    Args:
        matrix: unit rows, float32 [n, d].
        triples: unit rows, float32 [q, 3, d]: "a is to b as c is to" the row.
        k: how many; all ``n`` if there are fewer.
        epsilon: keeps the quotient finite.

    Returns:
        As block_top_k(); the score is cos(b)cos(c) / (cos(a) + epsilon), each cosine shifted to [0, 1].
    """

    def part(start: int, stop: int) -> Hits:
        a, b, c = (np.ascontiguousarray(triples[start:stop, i]) for i in range(3))
        # Rounding of a small cosine to a is up to a thousand times larger in the quotient.
        cosines_a, cosines_b, cosines_c = (_products(word, matrix) for word in (a, b, c))
        query, rows = _candidates(_mul(cosines_a, cosines_b, cosines_c, epsilon), k, relative=2e-3)
        to_a, to_b, to_c = (dots_of(word, query, matrix, rows) for word in (a, b, c))
        exact = _mul(to_a, to_b, to_c, epsilon)
        return _first(query, rows, exact, stop - start, min(k, len(matrix)))

    return _in_parts(len(triples), 3 * len(matrix), part)


def _in_parts(queries: int, cells: int, part: Callable[[int, int], Hits]) -> Hits:
    """Return the results of all queries, computed so many at a time that their scores stay within MAX_CELLS."""
    step = max(1, MAX_CELLS // max(1, cells))
    parts = [part(start, min(start + step, queries)) for start in range(0, queries, step)]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])


def _products(queries: Float, matrix: Float | Rows) -> Float:
    return queries @ matrix.T if isinstance(matrix, np.ndarray) else matrix.products(queries)


def _mul(to_a: NDArray[Any], to_b: NDArray[Any], to_c: NDArray[Any], epsilon: float) -> NDArray[Any]:
    score: NDArray[Any] = ((1 + to_b) / 2) * ((1 + to_c) / 2) / ((1 + to_a) / 2 + epsilon)
    return score


def _candidates(
    scores: Float, k: int, absolute: float = 0.0, relative: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (query, row) of every score that may be among the query's ``k`` best, ties with the last included.

    The k-th best of the maxima of groups is a threshold that at least ``k`` scores reach; finding it costs a thirtieth
    of a partition of all scores.
    """
    n = scores.shape[1]
    k = min(k, n)
    group = max(1, min(_GROUP, n // k))
    width = -(-n // group)
    best = scores[:, :width].copy()
    for first in range(width, n, width):
        group_scores = scores[:, first : first + width]
        np.maximum(best[:, : group_scores.shape[1]], group_scores, out=best[:, : group_scores.shape[1]])
    kth = np.partition(best, width - k, axis=1)[:, width - k]
    threshold = kth - absolute - relative * np.abs(kth)
    query, column = np.nonzero(best >= threshold[:, None])
    rows = column[:, None] + np.arange(0, n, width)
    values = scores[query[:, None], np.minimum(rows, n - 1)]
    which, member = np.nonzero((rows < n) & (values >= threshold[query][:, None]))
    return query[which], rows[which, member]


def dots_of(
    queries: Float, query: NDArray[np.int64], matrix: Float | Rows, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the dot product of each pair of a query and a row in double precision, float64 [pairs].

    Its last bit does not depend on the other pairs.
    """
    dots = np.empty(len(query))
    for start in range(0, len(query), _RESCORED):
        pairs = slice(start, start + _RESCORED)
        # Converted first: einsum's own casting would sum in an order that depends on the pair's place.
        left, right = queries[query[pairs]].astype(np.float64), matrix[rows[pairs]].astype(np.float64)
        dots[pairs] = np.einsum("ij,ij->i", left, right)
    return dots


def _first(
    query: NDArray[np.int64], rows: NDArray[np.int64], scores: NDArray[np.float64], queries: int, k: int
) -> Hits:
    """Return each query's ``k`` best candidates by (score descending, row)."""
    rounded = scores.astype(np.float32)
    order = np.lexsort((rows, -rounded, query))
    begin = np.searchsorted(query[order], np.arange(queries))
    chosen = order[begin[:, None] + np.arange(k)]
    return rows[chosen], rounded[chosen]
