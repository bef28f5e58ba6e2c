"""Vectors as a task searches them: unit rows in a memory-mapped file on its host, so that memory stays bounded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from embedall_spark import files, host_cache
from embedall_spark.search import csls
from embedall_spark.vectors import mixed_dimensions, to_matrix, unit

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    import pyarrow.fs as pafs
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

BATCH = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32()))])
_SORTED_ROWS = 1 << 16  # at once
_READ_ROWS = 1 << 14  # of a parquet file at once


class Packed(NamedTuple):
    """Ids and their unit rows."""

    ids: pa.Array
    """strings [n]"""
    matrix: NDArray[np.float32]
    """float32 [n, d]; a vector without a direction is zeros; see ordered() for CSLS"""


Source = Callable[[], Packed]


@contextmanager
def ordered(batches: Iterable[pa.RecordBatch], d: int, *, by_csls: bool = False) -> Iterator[Packed]:
    """Yield a task's rows of id and vector in the order of their ids; their files go when the block ends.

    Args:
        batches: of id and vector, with ``by_csls`` also of similarity.
        d: the vectors' dimension.
        by_csls: the matrix is that of csls.rows(), float32 [n, d + 1].

    Raises:
        BadData: a vector is not of dimension ``d``.
    """
    # Files without a name: however the process ends, nothing is left behind.
    folder = files.scratch("search")
    with tempfile.TemporaryFile(dir=folder) as arrived, tempfile.TemporaryFile(dir=folder) as sorted_:
        ids = _write(batches, d, arrived)
        order = pc.sort_indices(ids).to_numpy()
        matrix = _mapped(arrived, d + by_csls)
        if (order[1:] < order[:-1]).any():
            for start in range(0, len(order), _SORTED_ROWS):
                sorted_.write(matrix[order[start : start + _SORTED_ROWS]].data)
            matrix, ids = _mapped(sorted_, d + by_csls), ids.take(pa.array(order))
        yield Packed(ids, matrix)


def store(queries: DataFrame, folder: str) -> int:
    """Write the ids and vectors of a table to a folder that all hosts share, for stored(); return their number."""
    queries.select("id", "vector").write.mode("overwrite").parquet(folder)
    filesystem, _ = files.resolve(folder)
    return sum(pq.read_metadata(info.path, filesystem=filesystem).num_rows for info in host_cache.parts(folder)[0])


def stored(folder: str, d: int) -> Packed:
    """Return what store() wrote, from this host's copy of it, which the first task that needs it makes.

    Rows are in the same order on every host.

    Raises:
        BadData: a vector is not of dimension ``d``.
    """

    def write(filesystem: pafs.FileSystem, paths: list[str], draft: Path) -> None:
        with (draft / "matrix").open("wb") as matrix:
            ids = _write((batch for path in paths for batch in _batches(filesystem, path)), d, matrix)
        write_ids(ids, draft / "ids")

    copy, _ = host_cache.make("queries", folder, write)
    return Packed(mapped_ids(copy / "ids"), host_cache.mapped(copy / "matrix", np.float32).reshape(-1, d))


def write_ids(ids: pa.Array, path: Path) -> None:
    """Write ids for mapped_ids()."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, pa.schema([("id", pa.string())])) as out:
        out.write(pa.record_batch({"id": ids}))


def mapped_ids(path: Path) -> pa.Array:
    """Return what write_ids() wrote, mapped: pages that several tasks of a host share."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)["id"]


@contextmanager
def task_threads() -> Iterator[None]:
    """Let faiss and BLAS use the cores of this task, and no other's."""
    # Loaded first: the limit does not apply to a library that is loaded later.
    import faiss  # noqa: F401
    from pyspark import TaskContext

    context = TaskContext.get()
    with threadpool_limits(context.cpus() if context is not None else 1):
        yield


def _write(batches: Iterable[pa.RecordBatch], d: int, file: BinaryIO) -> pa.Array:
    """Write unit rows to a file as they come; return their ids."""
    ids = []
    for batch in batches:
        if not batch.num_rows:
            continue
        matrix = to_matrix(batch["vector"])
        if matrix.shape[1] != d:
            raise mixed_dimensions(d, matrix.shape[1])
        units = unit(matrix)
        if "similarity" in batch.schema.names:
            units = csls.rows(units, batch["similarity"].to_numpy())
        file.write(units.data)
        ids.append(batch["id"])
    file.flush()
    return pa.concat_arrays(ids) if ids else pa.array([], pa.string())


def _mapped(file: BinaryIO, d: int) -> NDArray[np.float32]:
    file.flush()
    if not file.seek(0, 2):
        return np.empty((0, d), np.float32)
    return np.memmap(file, np.float32, "r").view(np.ndarray).reshape(-1, d)


def _batches(filesystem: pafs.FileSystem, path: str) -> Iterator[pa.RecordBatch]:
    with filesystem.open_input_file(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(_READ_ROWS, columns=["id", "vector"]):
            yield batch.cast(BATCH)
