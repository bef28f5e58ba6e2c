"""The nearest rows of many queries by faiss, exact to the order of ties; no Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedall_spark.search.exact_kernel import block_top_k, dots_of, rounding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float32]
    Found = tuple[NDArray[np.int64], Float]

QUERIES = 1024  # at once: the block of scores stays in the cores' caches
_SPARE = 6  # further candidates, so that rounding rarely hides one that belongs among the first


def nearest(matrix: Float, queries: Float, k: int, own: NDArray[np.int64] | None = None, lengths: float = 1.0) -> Found:
    """Return the ``k`` rows of a matrix that are nearest to each query by cosine.

    faiss finds candidates in single precision, these are scored in double precision, and where rounding may have hidden
    a row, the query is asked again without rounding: the result is that of block.block_top_k().

    Args:
        matrix: unit rows, float32 [n, d], or those of csls.rows().
        queries: unit rows, float32 [q, d], or those of csls.queries().
        k: how many.
        own: a row that each query must not find, int64 [q]; -1: none.
        lengths: what the lengths of a row and a query multiply to at most.

    Returns:
        Rows, int64 [q, k], and their scores, float32, best first, equal scores in the order of rows; row -1 where there
        are fewer.
    """
    import faiss

    more = 0 if own is None else 1
    reach = min(len(matrix), k + more + _SPARE)
    found = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
    if not reach:
        return found
    slack = rounding(matrix.shape[1], lengths)
    rough, rows = faiss.knn(queries, matrix, reach, metric=faiss.METRIC_INNER_PRODUCT)
    among = rough >= rough[:, min(reach, k + more) - 1, None] - slack
    scores = np.full(rows.shape, -np.inf, np.float32)
    scores[among] = dots_of(queries, np.nonzero(among)[0], matrix, rows[among])
    if own is not None:
        scores[rows == own[:, None]] = -np.inf
    _fill(found, rows, scores)
    if reach < len(matrix):
        # What faiss has left out scores at most its last.
        unsure = np.flatnonzero(rough[:, -1] + slack >= found[1][:, -1])
        if len(unsure):
            rows, scores = block_top_k(matrix, queries[unsure], k + more, lengths)
            if own is not None:
                scores[rows == own[unsure, None]] = -np.inf
            again = found[0][unsure], found[1][unsure]
            _fill(again, rows, scores)
            found[0][unsure], found[1][unsure] = again
    return found


def _fill(found: Found, rows: NDArray[np.int64], scores: Float) -> None:
    """Put the best of some candidates into ``found``, by (score descending, row)."""
    order = np.lexsort((rows, -scores))[:, : found[0].shape[1]]
    best = np.take_along_axis(scores, order, axis=1)
    found[0][:, : order.shape[1]] = np.where(best > -np.inf, np.take_along_axis(rows, order, axis=1), -1)
    found[1][:, : order.shape[1]] = best
