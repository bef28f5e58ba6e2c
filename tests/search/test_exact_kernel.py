from __future__ import annotations

import numpy as np
import pytest

from embedall_spark.search.exact_kernel import block_top_k, block_top_k_mul
from embedall_spark.vectors import unit


def brute(scores, k):
    """Return the k best columns by (score descending, column)."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize(
    ("n", "d", "q", "k"), [(1, 3, 2, 5), (7, 4, 3, 7), (40, 8, 5, 3), (3000, 20, 50, 10), (999, 5, 1, 1)]
)
def test_same_as_sorting_all_scores(n, d, q, k):
    rng = np.random.default_rng(n)
    matrix = unit(rng.normal(size=(n, d)).astype(np.float32))
    queries = unit(rng.normal(size=(q, d)).astype(np.float32))
    rows, scores = block_top_k(matrix, queries, k)
    exact = (queries.astype(np.float64) @ matrix.T.astype(np.float64)).astype(np.float32)
    assert rows.shape == (q, min(k, n))
    np.testing.assert_array_equal(rows, brute(exact, k))
    np.testing.assert_array_equal(scores, np.take_along_axis(exact, rows, axis=1))


def test_many_queries_go_through_in_parts(monkeypatch):
    monkeypatch.setattr("embedall_spark.search.exact_kernel.MAX_CELLS", 1000)
    rng = np.random.default_rng(1)
    matrix, queries = (unit(rng.normal(size=(n, 6)).astype(np.float32)) for n in (300, 47))
    rows, _ = block_top_k(matrix, queries, 4)
    exact = (queries.astype(np.float64) @ matrix.T.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(rows, brute(exact, 4))


def test_equal_scores_come_in_the_order_of_rows():
    one = unit(np.random.default_rng(2).normal(size=(1, 100)).astype(np.float32))
    matrix = np.repeat(one, 5000, axis=0)
    rows, scores = block_top_k(matrix, one, 6)
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert len(set(scores[0].tolist())) == 1


def test_mul_same_as_the_formula_for_every_row():
    rng = np.random.default_rng(3)
    matrix = unit(rng.normal(size=(500, 3)).astype(np.float32))  # few dimensions: cosines near -1, small denominators
    triples = matrix[rng.integers(0, 500, size=(40, 3))]
    rows, scores = block_top_k_mul(matrix, triples, 7, 1e-3)
    a, b, c = ((1 + triples[:, i].astype(np.float64) @ matrix.T.astype(np.float64)) / 2 for i in range(3))
    exact = b * c / (a + 1e-3)
    np.testing.assert_array_equal(rows, brute(exact.astype(np.float32), 7))
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, axis=1), rtol=1e-6)
