"""VECTORS tables for tests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from embedall_spark.schemas import VECTORS, conform
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import to_matrix


def table(spark, ids, vectors, counts=None, partitions=2):
    """Return VECTORS of ids and a matrix, in the given number of partitions."""
    vectors = np.asarray(vectors, dtype=np.float32)
    flat = pa.array(vectors.ravel())
    offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1])
    data = pa.table(
        {
            "id": pa.array(list(ids), pa.string()),
            "vector": pa.ListArray.from_arrays(offsets, flat),
            "norm": np.linalg.norm(vectors.astype(np.float64), axis=1),
            "count": pa.array(counts, pa.int64()) if counts is not None else pa.nulls(len(ids), pa.int64()),
            "kind": ["words"] * len(ids),
            "run_id": ["test"] * len(ids),
        }
    )
    rows = spark.createDataFrame(data)
    # A small local table has as many partitions as the session has cores: no shuffle is needed for two.
    if partitions != 2:
        rows = rows.coalesce(1) if partitions == 1 else rows.repartition(partitions)
    return conform(rows, VECTORS)


def here(vectors) -> LocalTable:
    """Return VECTORS in Spark as they are read without Spark."""
    rows = vectors.select("id", "vector", "norm", "count", "kind", "run_id").toArrow().sort_by("id")
    matrix = to_matrix(rows["vector"])
    return LocalTable(matrix, np.linalg.norm(matrix, axis=1).astype(np.float32), rows.drop_columns("vector"))


def bits(vectors) -> dict[str, bytes]:
    """Return the bytes of each id's vector, for comparison to the last bit."""
    return {row.id: np.array(row.vector, np.float32).tobytes() for row in vectors.select("id", "vector").collect()}
