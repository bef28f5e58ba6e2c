"""Vectors with titles, labels and places on a map: .npy and .parquet files, written as one stream from one task."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark import export, files
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.fit import covariance
from embedall_spark.latent.preprocessing import Preparation, prepare
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import mixed_dimensions, to_column, to_matrix, unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.latent.fit.covariance import Moments
    from embedall_spark.search.local_table import Vectors

    Batches = Iterable[pa.RecordBatch]

FORMATS = ("parquet", "npy", "atlas")
_SUFFIXES = {"parquet": ".parquet", "npy": ".npy", "atlas": ".parquet"}
_UNIT = Preparation(unit=True)
_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("label", pa.string()),
        ("kind", pa.string()),
        ("count", pa.int64()),
        ("x", pa.float32()),
        ("y", pa.float32()),
    ]
)
_VECTOR = pa.field("vector", pa.list_(pa.float32()))


class Plane(NamedTuple):
    """The plane in which unit vectors differ most: a map that is computed in one pass, for any number of rows."""

    mean: NDArray[np.float64]
    """float64 [d]"""
    axes: NDArray[np.float64]
    """The first two principal axes, float64 [d, 2]."""

    def places(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the coordinates of vectors [n, d], float32 [n, 2]."""
        with np.errstate(all="ignore"):
            places: NDArray[np.float32] = ((unit(matrix) - self.mean) @ self.axes).astype(np.float32)
        return places


def check(path: str, file_format: str) -> str:
    """Return the path of a file to write, ``~`` expanded; raise ConfigError if it cannot be one of this format."""
    path = export.check(path)
    if not path.endswith(_SUFFIXES[file_format]):
        raise ConfigError(f"{path}: a file of --format {file_format} ends in {_SUFFIXES[file_format]}")
    return path


def beside(path: str) -> str:
    """Return the file of the ids of a .npy file's rows."""
    return f"{path.removesuffix('.npy')}.parquet"


def write(vectors: Vectors, metadata: DataFrame | pa.Table | None, path: str, file_format: str) -> export.Written:
    """Write vectors, most frequent first, ties and ids without a count in the order of ids.

    ``npy``: the file, float32 [n, d], which ``numpy.load(path, mmap_mode="r")`` maps, and beside it a .parquet file of
    the columns id, title, label, kind, count, x and y of its rows, in their order. ``parquet``: these columns and
    ``vector``. ``atlas``: these columns, and ``text``, the title or else the id, as embedding-atlas shows it. x and y
    are those of the metadata, else those of plane(). Memory does not grow with the rows.

    Args:
        vectors: VECTORS.
        metadata: id, title and label, maybe x and y, each id once; of the same sort as the vectors, in Spark or not.
            None: there are no titles.
        path: from check().
        file_format: one of FORMATS.

    Raises:
        BadData: the table is empty, its vectors differ in dimension, or none is finite.
        ConfigError: they have more than covariance.MAX_SIZE dimensions.
        ResourceError: the driver does not see the file that a task has written.
    """
    target = os.path.abspath(path) if files.is_local(path) and "://" not in path else path
    if isinstance(vectors, LocalTable):
        if not len(vectors):
            raise export.nothing_in(path)
        count, d = len(vectors), vectors.dimension
        writer = _Writer(target, file_format, count, d, plane(vectors))
        written = writer.write(_batches(vectors, metadata))
    else:
        sizes = vectors.agg(F.count("*"), F.min(F.size("vector")), F.max(F.size("vector"))).first()
        assert sizes is not None
        count, shortest, d = sizes
        if not count:
            raise export.nothing_in(path)
        if shortest != d:
            raise mixed_dimensions(shortest, d)
        writer = _Writer(target, file_format, count, d, plane(vectors))
        rows = vectors.select("id", "vector", "kind", "count")
        if metadata is not None:
            rows = rows.join(metadata, "id", "left")
        else:
            rows = rows.withColumns({name: F.lit(None).cast("string") for name in ("title", "label")})
        # One task sorts, spilling to its disk, and streams: files with one order of rows.
        ordered = rows.repartition(1).sortWithinPartitions(F.desc_nulls_last("count"), "id")
        row = ordered.mapInArrow(writer.task, "rows bigint").first()
        written = 0 if row is None else row["rows"]
    export.check_written(path, target, written, count)
    return export.Written(count, d, 0, 0)


def plane(vectors: Vectors) -> Plane:
    """Return the plane of the first two principal components of unit vectors; signs are such that sums are positive.

    Raises:
        BadData: no vector is finite.
        ConfigError: they have more than covariance.MAX_SIZE dimensions.
    """
    if isinstance(vectors, LocalTable):
        if vectors.dimension > covariance.MAX_SIZE:
            raise ConfigError(f"a map is computed of at most {covariance.MAX_SIZE:,} dimensions")
        moments = reduce(covariance.merge, _moments(vectors))
    else:
        moments = covariance.of_vectors(vectors, _UNIT)
    if not moments.rows:
        raise BadData("no vector of the table is finite")
    _, axes = np.linalg.eigh(moments.scatter)
    first = axes[:, ::-1][:, :2]
    if first.shape[1] < 2:
        first = np.hstack([first, np.zeros((len(first), 1))])
    largest = np.take_along_axis(first, np.abs(first).argmax(axis=0)[None], axis=0)
    return Plane(moments.mean, first * np.where(largest < 0, -1, 1))


class _Writer(NamedTuple):
    """Writes one file, or a .npy file and its ids; small, and pickled with a task."""

    target: str
    file_format: str
    rows: int
    d: int
    plane: Plane

    def task(self, batches: Batches) -> Batches:
        """Write all batches; yield how many rows they had."""
        with threadpool_limits(1):
            yield pa.record_batch({"rows": pa.array([self.write(batches)], pa.int64())})

    def write(self, batches: Batches) -> int:
        """Write all batches; return how many rows they had."""
        written = 0
        has_array = self.file_format == "npy"
        schema = _COLUMNS
        if self.file_format == "parquet":
            schema = schema.append(_VECTOR)
        elif self.file_format == "atlas":
            schema = schema.append(pa.field("text", pa.string()))
        with ExitStack() as stack:
            table = stack.enter_context(files.create(beside(self.target) if has_array else self.target))
            parquet = stack.enter_context(pq.ParquetWriter(table, schema))
            array = stack.enter_context(files.create(self.target)) if has_array else None
            if array is not None:
                header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.d)}
                np.lib.format.write_array_header_1_0(array, header)
            for batch in filter(len, batches):
                matrix = to_matrix(batch["vector"])
                if array is not None:
                    array.write(matrix.astype("<f4", copy=False).data)
                parquet.write_batch(self._columns(batch, matrix, schema))
                written += batch.num_rows
        return written

    def _columns(self, batch: pa.RecordBatch, matrix: NDArray[np.float32], schema: pa.Schema) -> pa.RecordBatch:
        x, y = self.plane.places(matrix).T
        values = {"x": pa.array(np.ascontiguousarray(x)), "y": pa.array(np.ascontiguousarray(y))}
        if "x" in batch.schema.names:
            values = {}
        values["text"] = pc.coalesce(batch["title"], batch["id"])
        columns = [values[name] if name in values else batch[name] for name in schema.names]
        return pa.RecordBatch.from_arrays(
            [column.cast(field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
        )


def _batches(vectors: LocalTable, metadata: pa.Table | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows in the order of a file."""
    order = export.most_frequent_first(vectors)
    for start in range(0, len(order), export.ROWS):
        part = vectors.take(order[start : start + export.ROWS])
        assert part.rows is not None
        ids = part.ids.combine_chunks()
        columns = {"id": ids, "vector": to_column(vectors.vectors[part.rows])}
        columns |= {name: part.column(name).combine_chunks() for name in ("kind", "count")}
        places = () if metadata is None else sorted({"x", "y"} & set(metadata.column_names))
        for name in ("title", "label", *places):
            columns[name] = pa.nulls(len(ids), pa.string())
            if metadata is not None:
                columns[name] = metadata[name].combine_chunks().take(pc.index_in(ids, metadata["id"].combine_chunks()))
        yield pa.record_batch(columns)


def _moments(vectors: LocalTable) -> Iterator[Moments]:
    rows = np.arange(len(vectors.vectors)) if vectors.rows is None else vectors.rows
    for start in range(0, len(rows), export.ROWS):
        block = vectors.vectors[rows[start : start + export.ROWS]]
        yield covariance.of_arrays(prepare(block, _UNIT), vectors.dimension)
