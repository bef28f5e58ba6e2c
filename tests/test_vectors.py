from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F
from threadpoolctl import threadpool_info
from vector_tables import table

from embedall_spark import vectors
from embedall_spark.errors import BadData

MATRIX = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_a_column_and_its_matrix_are_the_same_values():
    column = vectors.to_column(MATRIX)
    assert column.type == pa.list_(pa.float32())
    assert column.to_pylist() == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_array_equal(vectors.to_matrix(column), MATRIX)
    # A slice of a batch, and the chunks in which a table comes to the driver.
    np.testing.assert_array_equal(vectors.to_matrix(column.slice(1)), MATRIX[1:])
    chunked = pa.chunked_array([column.slice(0, 1), column.slice(1)])
    np.testing.assert_array_equal(vectors.to_matrix(chunked), MATRIX)


def test_missing_rows_are_null_and_float64_becomes_float32():
    column = vectors.to_column(MATRIX.astype(np.float64), np.array([False, True, False]))
    assert column.to_pylist() == [[0, 1], None, [4, 5]]
    assert column.type == pa.list_(pa.float32())


def test_a_column_without_rows_has_a_matrix_without_rows():
    assert vectors.to_matrix(vectors.to_column(np.zeros((0, 4), np.float32))).shape == (0, 0)


def test_vectors_of_two_dimensions_are_refused():
    with pytest.raises(BadData, match="vectors of 1 and of 2 dimensions; need one dimension"):
        vectors.to_matrix(pa.array([[1.0, 2.0], [3.0]], pa.list_(pa.float32())))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unit_leaves_rows_that_have_no_direction_at_zero(dtype):
    matrix = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e-30, 0], [3e38, 3e38]], dtype)
    rows, lengths = vectors.normalize(matrix)
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [0, 0], [0, 0], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    np.testing.assert_allclose(lengths, [5, 0, np.nan, np.inf, 1e-30, 3e38 * 2**0.5], rtol=1e-6)
    assert rows.dtype == dtype and lengths.dtype == np.float64
    np.testing.assert_array_equal(vectors.unit(matrix), rows)


def test_a_task_converts_a_few_rows_at_a_time_on_one_thread():
    seen = []

    def convert(batch):
        seen.append(batch.num_rows)
        assert all(pool["num_threads"] == 1 for pool in threadpool_info())
        return batch

    batches = [pa.record_batch({"at": range(start, stop)}) for start, stop in ((0, 5), (5, 5), (5, 7))]
    actual = list(vectors.in_batches(convert, 2)(iter(batches)))
    assert seen == [2, 2, 1, 2]
    assert [value for batch in actual for value in batch["at"].to_pylist()] == list(range(7))


def test_qualified_ids_in_python():
    assert vectors.qualified_id("photos", "a:b.jpg") == "photos:a:b.jpg"
    assert vectors.local_id("photos", "photos:a:b.jpg") == "a:b.jpg"
    assert vectors.kind_of("photos:a:b.jpg") == "photos"


def test_dimension_and_qualified_ids_in_spark(spark):
    rows = table(spark, ["a:b", "ü"], [[1, 0, 0], [0, 1, 0]], partitions=1)
    both = rows.withColumn("context", F.slice("vector", 1, 2))
    assert [vectors.dimension(both, name) for name in ("vector", "context", "vector")] == [3, 2, 3]
    assert vectors.dimension(rows.where("id = 'none'")) is None
    qualified = rows.select(vectors.qualify("wörter"), "kind")
    named = qualified.select(
        "id",
        vectors.unqualify("wörter").alias("local"),
        vectors.unqualify(qualified["kind"]).alias("by_column"),
        vectors.is_of_kind("wörter").alias("is_of_kind"),
        vectors.is_of_kind("wört").alias("is_of_other"),
    )
    assert named.collect() == [
        ("wörter:a:b", "a:b", ":a:b", True, False),
        ("wörter:ü", "ü", ":ü", True, False),
    ]
