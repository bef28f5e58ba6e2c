"""Vectors as columns, matrices and batches, and the ids of a table of several kinds: helpers of every stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame

    Batches = Iterable[pa.RecordBatch]

Floating = TypeVar("Floating", np.float32, np.float64)

SEPARATOR = ":"  # between the kind and the id that a row had in its own table
# By columns of tables that were asked: each question is a Spark job, and stages ask of the same table.
_dimensions: WeakKeyDictionary[DataFrame, dict[str, int]] = WeakKeyDictionary()


def dimension(table: DataFrame, column: str = "vector") -> int | None:
    """Return the dimension of a table's vectors, read from its first row; None for a table without rows.

    Args:
        table: VECTORS, or any table with a column of vectors, all of one dimension.
        column: the column of vectors.
    """
    known = _dimensions.setdefault(table, {})
    if column not in known:
        row = table.select(F.size(column).alias("dimension")).first()
        if row is None:
            return None
        known[column] = int(row["dimension"])
    return known[column]


def to_matrix(column: pa.ListArray | pa.ChunkedArray) -> NDArray[np.float32]:
    """Return an Arrow column of vectors as a matrix, float32 [n, d]; a ListArray is not copied.

    Raises:
        BadData: the vectors differ in dimension.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    lengths = pc.min_max(pc.list_value_length(column)).as_py()
    if lengths["min"] != lengths["max"]:
        raise mixed_dimensions(lengths["min"], lengths["max"])
    flat: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(len(column), lengths["max"] or 0)


def mixed_dimensions(first: int, second: int) -> BadData:
    """Return the error for a table that has vectors of two dimensions."""
    return BadData(f"vectors of {first} and of {second} dimensions; need one dimension in all of a table")


def to_column(matrix: NDArray[np.floating], missing: NDArray[np.bool_] | None = None) -> pa.ListArray:
    """Return the rows of a matrix [n, d] as an Arrow column of float32 vectors; null where ``missing`` [n] is true."""
    ends = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    values = pa.array(matrix.astype(np.float32, copy=False).ravel())
    return pa.ListArray.from_arrays(pa.array(ends), values, mask=None if missing is None else pa.array(missing))


def text_array(texts: Iterable[str]) -> pa.StringArray:
    """Return texts as an Arrow array, without pandas, which pa.array() imports in a third of a second."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def row_array(rows: NDArray[np.integer]) -> pa.Int64Array:
    """Return row numbers [n] as an Arrow array, without pandas as text_array()."""
    return pa.Int64Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows.astype(np.int64))])


def normalize(matrix: NDArray[Floating]) -> tuple[NDArray[Floating], NDArray[np.float64]]:
    """Return the rows of a matrix [n, d] at length 1, in its dtype, and their Euclidean lengths before, float64 [n].

    A row of zeros, or one whose length is not finite, becomes zeros; its length is returned as it is.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    usable = np.isfinite(lengths) & (lengths > 0)
    rows = np.zeros_like(matrix)
    np.divide(matrix, lengths[:, None], out=rows, where=usable[:, None], casting="same_kind")
    return rows, lengths


def unit(matrix: NDArray[Floating]) -> NDArray[Floating]:
    """Return the rows at length 1, as normalize() does, without their lengths."""
    return normalize(matrix)[0]


def slices(batches: Batches, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the batches in pieces of at most ``rows`` rows, without a copy; empty batches are left out."""
    for batch in batches:
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def in_batches(convert: Callable[[pa.RecordBatch], pa.RecordBatch], rows: int) -> Callable[[Batches], Batches]:
    """Build a task's function that converts at most ``rows`` rows at a time, with numpy on one thread."""

    def converted(batches: Batches) -> Iterator[pa.RecordBatch]:
        with threadpool_limits(1):
            yield from map(convert, slices(batches, rows))

    return converted


def qualified_id(kind: str, local_id: str) -> str:
    """Return the id KIND:ID that a row has in a table of several kinds."""
    return f"{kind}{SEPARATOR}{local_id}"


def local_id(kind: str, qualified_id: str) -> str:
    """Return the id of a row of this kind as its own table has it: ID of KIND:ID."""
    return qualified_id.removeprefix(f"{kind}{SEPARATOR}")


def kind_of(qualified_id: str) -> str:
    """Return KIND of KIND:ID."""
    return qualified_id.partition(SEPARATOR)[0]


def qualify(kind: str, ids: str = "id") -> Column:
    """Return a column of ids as KIND:ID, under the same name."""
    return F.concat(F.lit(f"{kind}{SEPARATOR}"), F.col(ids)).alias(ids)


def unqualify(kind: str | Column, ids: str = "id") -> Column:
    """Return ID of a column of KIND:ID, under the same name; ``kind`` is that of all rows, or a column of kinds."""
    length = F.lit(len(kind)) if isinstance(kind, str) else F.length(kind)
    return F.substring(F.col(ids), length + len(SEPARATOR) + 1, F.length(ids)).alias(ids)


def is_of_kind(kind: str, ids: str = "id") -> Column:
    """Return whether ids, KIND:ID, are of this kind."""
    return F.startswith(F.col(ids), F.lit(f"{kind}{SEPARATOR}"))


def without_kind(ids: str = "id") -> Column:
    """Return ID of a column of KIND:ID of any kinds; null where an id has no colon."""
    place = F.instr(F.col(ids), SEPARATOR)
    return F.when(place > 0, F.substring(F.col(ids), place + 1, F.length(ids)))


def is_qualified(qualified_id: str, local_id: str) -> bool:
    """Return whether an id is KIND:ID of this ID."""
    return qualified_id.partition(SEPARATOR)[2] == local_id != ""
