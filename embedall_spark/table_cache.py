"""Copies of Delta tables in the user's cache, one per version, which the next question maps instead of reading.

A copy is a folder: ``vectors`` (float32 [n, d], in the order of the ids), ``lengths`` (float32 [n]), ``columns``
(Arrow) and ``about.json``, which is written last. It is made beside its place and renamed, so that it is there as a
whole or not at all; a process that has mapped files of a removed copy keeps them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark import files, user_cache
from embedall_spark.errors import BadData, NeedsSpark
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import normalize, to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedall_spark.delta_files import DeltaFiles

DEFAULT_LIMIT = 2.0  # GiB of vectors
MAX_BYTES = 8 << 30  # of all copies; the one that was used least recently goes first
_FORMAT = 1
_COLUMNS = {
    "id": pa.string(),
    "norm": pa.float64(),
    "count": pa.int64(),
    "kind": pa.string(),
    "run_id": pa.string(),
}
_REQUIRED = {"id", "vector", "norm", "kind", "run_id"}
_SORTED_ROWS = 1 << 16  # at once


def vectors(table: DeltaFiles, limit: float) -> LocalTable:
    """Return a table of vectors, from its copy if there is one.

    Args:
        table: the table.
        limit: GiB of vectors that are copied at most.

    Raises:
        NeedsSpark: the table is larger, is not a table of vectors, or has several rows of an id.
    """
    folder, about = _copy(table, "vectors", lambda draft: _write_vectors(table, limit, draft))
    if about["bytes"] > limit * 2**30:
        raise _too_large(about["bytes"], limit)
    if about["problem"] is not None:
        raise NeedsSpark(about["problem"])
    matrix = np.empty((0, about["d"]), np.float32)
    if about["rows"]:
        matrix = np.memmap(folder / "vectors", np.float32, "r").view(np.ndarray).reshape(-1, about["d"])
    return LocalTable(matrix, np.fromfile(folder / "lengths", np.float32), _mapped(folder / "columns"))


def rows(table: DeltaFiles, limit: float) -> pa.Table:
    """Return all columns of any table, such as one of metadata, from its copy if there is one.

    Raises:
        NeedsSpark: the table is larger than ``limit`` GiB.
    """

    def write(draft: Path) -> dict[str, Any]:
        if (size := table.vector_bytes()) > limit * 2**30:
            raise _too_large(size, limit)
        _write_arrow(table.dataset().to_table(), draft / "columns")
        return {}

    return _mapped(_copy(table, "rows", write)[0] / "columns")


def commits(table: DeltaFiles) -> list[dict[str, Any]]:
    """Return DeltaFiles.commits(), which reads the table's whole log, from its copy if there is one."""
    return list(_copy(table, "commits", lambda _: {"commits": table.commits()})[1]["commits"])


def _copy(table: DeltaFiles, part: str, write: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the copy of a table's part, which ``write`` fills the first time, and its about.json."""
    root = _root()
    name, _, version = table.version.rpartition("@")
    prefix = hashlib.sha256(f"{table.path}\n{name}\n{part}\n{_FORMAT}".encode()).hexdigest()[:24]
    folder = root / f"{prefix}-{version}"
    try:
        about = json.loads((folder / "about.json").read_text())
        os.utime(folder)
        return folder, about
    except (OSError, ValueError):
        pass
    with tempfile.TemporaryDirectory(dir=root, prefix=".") as draft:
        made = Path(draft, "copy")
        made.mkdir()
        about = write(made)
        (made / "about.json").write_text(json.dumps(about))
        try:
            made.rename(folder)
        except OSError:
            # Another process was faster, or what is there cannot be read.
            files.remove_tree(folder)
            made.rename(folder)
    _expire(root, folder, prefix)
    return folder, about


def _root() -> Path:
    """Return the folder of all copies."""
    root = user_cache.folder("tables")
    if root is None:
        raise NeedsSpark("there is no folder for its copy: set XDG_CACHE_HOME to one that you own")
    return root


def _expire(root: Path, newest: Path, prefix: str) -> None:
    """Remove copies of earlier versions of a table, and, beyond MAX_BYTES, those that were used least recently."""
    copies = []
    for folder in root.iterdir():
        if folder.name.startswith(prefix) and folder.name != newest.name and _version(folder) < _version(newest):
            files.remove_tree(folder)
        elif not folder.name.startswith("."):
            size = sum(file.stat().st_size for file in folder.iterdir())
            copies.append((folder.stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in copies)
    for _, size, folder in sorted(copies):
        if total > MAX_BYTES and folder != newest:
            files.remove_tree(folder)
            total -= size


def _version(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _write_vectors(table: DeltaFiles, limit: float, draft: Path) -> dict[str, Any]:
    """Write the files of a table of vectors; return what about.json says of it."""
    size, dataset = table.vector_bytes(), table.dataset()
    if size > limit * 2**30:
        raise _too_large(size, limit)
    types = {field.name: field.type for field in dataset.schema}
    wanted = {**_COLUMNS, "vector": pa.list_(pa.float32())}
    if any(types.get(name) != kind and (name in types or name in _REQUIRED) for name, kind in wanted.items()):
        raise NeedsSpark("it is not a table of vectors")
    parts: list[pa.Table] = []
    d = 0
    with (draft / "vectors").open("wb") as file:
        for batch in dataset.to_batches(columns=[name for name in wanted if name in types]):
            if batch.num_rows:
                matrix = _matrix(batch["vector"])
                if parts and matrix.shape[1] != d:
                    raise NeedsSpark("its vectors differ in dimension")
                d = matrix.shape[1]
                file.write(matrix.data)
                parts.append(_columns(batch).append_column("length", pa.array(normalize(matrix)[1], pa.float32())))
    columns = pa.concat_tables(parts).combine_chunks() if parts else _columns(dataset.schema.empty_table(), True)
    order = pc.sort_indices(columns["id"]).to_numpy()
    if (order[1:] < order[:-1]).any():
        _sort(draft / "vectors", order, d)
        columns = columns.take(pa.array(order))
    ids = columns["id"]
    twice = len(ids) > 1 and pc.any(pc.equal(ids.slice(1), ids.slice(0, len(ids) - 1))).as_py()
    columns["length"].to_numpy().tofile(draft / "lengths")
    _write_arrow(columns.drop_columns("length"), draft / "columns")
    problem = "it has several rows of some ids" if twice else None
    return {"rows": len(ids), "d": d, "bytes": size, "problem": problem}


def _matrix(column: pa.ListArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return vectors as a matrix; a null or another dimension is for Spark to explain."""
    try:
        if column.null_count:
            raise NeedsSpark("some of its vectors are null")
        return np.ascontiguousarray(to_matrix(column))
    except BadData:
        raise NeedsSpark("its vectors differ in dimension") from None


def _columns(batch: pa.RecordBatch | pa.Table, empty: bool = False) -> pa.Table:
    """Return the columns that questions use, those that are missing with nulls."""
    names = batch.schema.names
    columns = {
        name: batch[name] if name in names else pa.nulls(batch.num_rows, kind) for name, kind in _COLUMNS.items()
    }
    table = pa.table(columns)
    return table.append_column("length", pa.array([], pa.float32())) if empty else table


def _sort(path: Path, order: np.ndarray[Any, np.dtype[np.uint64]], d: int) -> None:
    """Write the rows of a matrix's file anew, in this order."""
    matrix = np.memmap(path, np.float32, "r").view(np.ndarray).reshape(-1, d)
    in_order = path.with_name("sorted")
    with in_order.open("wb") as file:
        for start in range(0, len(order), _SORTED_ROWS):
            file.write(matrix[order[start : start + _SORTED_ROWS]].data)
    in_order.rename(path)


def _write_arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table.combine_chunks())


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _too_large(size: int, limit: float) -> NeedsSpark:
    return NeedsSpark(f"it has {size / 2**30:.1f} GiB of vectors, more than --limit {limit:g}")
