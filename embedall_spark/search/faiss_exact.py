"""The nearest rows of many queries by faiss, exact to the order of ties; no Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedall_spark.search.exact_kernel import block_top_k, dots_of, rounding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float32]
    Hits = tuple[NDArray[np.int64], Float]

QUERIES = 1024  # at once: the block of scores stays in the cores' caches
_SPARE = 6  # further candidates, so that rounding rarely hides one that belongs among the first


def nearest(
    matrix: Float, queries: Float, k: int, excluded: NDArray[np.int64] | None = None, lengths: float = 1.0
) -> Hits:
    """Return the ``k`` rows of a matrix that are nearest to each query by cosine.

    faiss finds candidates in single precision; they are scored again in double precision. A query for which rounding
    may have hidden a row is searched again exactly: the result is that of exact_kernel.block_top_k().

    Args:
        matrix: unit rows, float32 [n, d], or those of csls.rows().
        queries: unit rows, float32 [q, d], or those of csls.queries().
        k: how many.
        excluded: the row that each query must not return, int64 [q]; -1: none.
        lengths: an upper bound of the product of a row's and a query's length.

    Returns:
        Rows, int64 [q, k], and their scores, float32, best first, equal scores in the order of rows; row -1 where there
        are fewer.
    """
    import faiss

    spare = 0 if excluded is None else 1
    reach = min(len(matrix), k + spare + _SPARE)
    hits = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
    if not reach:
        return hits
    slack = rounding(matrix.shape[1], lengths)
    rough, rows = faiss.knn(queries, matrix, reach, metric=faiss.METRIC_INNER_PRODUCT)
    is_candidate = rough >= rough[:, min(reach, k + spare) - 1, None] - slack
    scores = np.full(rows.shape, -np.inf, np.float32)
    scores[is_candidate] = dots_of(queries, np.nonzero(is_candidate)[0], matrix, rows[is_candidate])
    if excluded is not None:
        scores[rows == excluded[:, None]] = -np.inf
    _fill(hits, rows, scores)
    if reach < len(matrix):
        # What faiss has left out scores at most its last.
        unsure = np.flatnonzero(rough[:, -1] + slack >= hits[1][:, -1])
        if len(unsure):
            rows, scores = block_top_k(matrix, queries[unsure], k + spare, lengths)
            if excluded is not None:
                scores[rows == excluded[unsure, None]] = -np.inf
            exact = hits[0][unsure], hits[1][unsure]
            _fill(exact, rows, scores)
            hits[0][unsure], hits[1][unsure] = exact
    return hits


def _fill(hits: Hits, rows: NDArray[np.int64], scores: Float) -> None:
    """Write the best of some candidates into ``hits``, by (score descending, row)."""
    order = np.lexsort((rows, -scores))[:, : hits[0].shape[1]]
    best = np.take_along_axis(scores, order, axis=1)
    hits[0][:, : order.shape[1]] = np.where(best > -np.inf, np.take_along_axis(rows, order, axis=1), -1)
    hits[1][:, : order.shape[1]] = best
