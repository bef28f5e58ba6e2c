"""Vectors written to a file in word2vec's text or binary format, as one stream from one task."""

from __future__ import annotations

import bz2
import gzip
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Window
from pyspark.sql import functions as F

from embedall_spark import files
from embedall_spark.errors import BadData, ConfigError, ResourceError
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import mixed_dimensions, to_column, to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from embedall_spark.search.local_table import Vectors

    Batches = Iterable[pa.RecordBatch]

ROWS = 1 << 14  # of a table on the driver that are written at once
# Java's Unicode whitespace, and the four separators that Python splits at too.
_WHITESPACE = r"(?U)[\s\x1c-\x1f]+"


@dataclass(frozen=True)
class Written:
    """What an exported file holds, and how its ids differ from the table's."""

    rows: int
    vector_size: int
    renamed: int
    dropped: int

    def text(self, path: str) -> str:
        """Return a sentence for the user."""
        parts = [f"{path}: {self.rows:,} vectors of {self.vector_size} dimensions"]
        if self.renamed:
            parts.append(f"{self.renamed:,} ids had whitespace, which the format cannot hold: it is '_' in the file")
        if self.dropped:
            parts.append(f"{self.dropped:,} of them then had the name of a more frequent id and were left out")
        return "; ".join(parts)


def check(path: str) -> str:
    """Return the path of a file to write, ``~`` expanded; raise ConfigError if it cannot be one."""
    if not path.strip():
        raise ConfigError("the file to export to has an empty name; give a path, such as vectors.txt")
    path = files.expand_user(path)
    if not files.is_local(path):
        return path
    target = Path(files.resolve(path)[1])
    if target.is_dir() or path.endswith("/"):
        raise ConfigError(f"{path}: is a folder; give a file in it, such as {path.rstrip('/')}/vectors.txt")
    if parent := next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None):
        raise ConfigError(f"{path}: {parent} is a file, so nothing can be written below it; give another path")
    return path


def write(vectors: Vectors, path: str, *, binary: bool = False) -> Written:
    """Write vectors in word2vec's format, most frequent first, ties and ids without a count in the order of ids.

    gensim's ``KeyedVectors.load_word2vec_format`` and the original C tools read the file. Values keep every bit in
    both formats. The formats cannot hold whitespace in an id: each run of it (and an empty id) becomes ``_``; if two
    ids then have the same name, the more frequent one is kept.

    Args:
        vectors: VECTORS; those on the driver are written by it.
        path: file to write, a path or URI that the tasks and the driver both see; an existing file is replaced; it is
            compressed if it ends in .gz or .bz2.
        binary: binary in place of text.

    Raises:
        BadData: the table is empty, or its vectors differ in dimension.
        ConfigError: the path is that of a folder, or lies below a file.
        ResourceError: the driver does not see the file that a task has written.
    """
    path = check(path)
    target = os.path.abspath(path) if files.is_local(path) and "://" not in path else path
    if isinstance(vectors, LocalTable):
        return _write_here(vectors, path, target, binary)
    name = F.regexp_replace("id", _WHITESPACE, "_")
    name = F.when(F.col("id") == "", "_").otherwise(name)
    rows = vectors.select("id", "vector", "count", name.alias("name"))
    totals = rows.agg(
        F.count("*").alias("rows"),
        F.count_if(F.col("name") != F.col("id")).alias("renamed"),
        F.min(F.size("vector")).alias("shortest"),
        F.max(F.size("vector")).alias("longest"),
    ).first()
    assert totals is not None
    if not totals["rows"]:
        raise nothing_in(path)
    if totals["shortest"] != totals["longest"]:
        raise mixed_dimensions(totals["shortest"], totals["longest"])
    order = [F.desc_nulls_last("count"), F.col("id")]
    count, d = totals["rows"], totals["longest"]
    if totals["renamed"]:
        place = F.row_number().over(Window.partitionBy("name").orderBy(*order))
        rows = rows.withColumn("place", place).where("place = 1")
        count = rows.count()
    # One task sorts, spilling to its disk, and streams: the file is one, and its order is part of the format.
    ordered = rows.repartition(1).sortWithinPartitions(*order).select("name", "vector")
    result = ordered.mapInArrow(_writer(target, count, d, binary), "rows bigint").first()
    check_written(path, target, None if result is None else result["rows"], count)
    return Written(count, d, totals["renamed"], totals["rows"] - count)


def nothing_in(path: str) -> BadData:
    """Return the error for a table without rows."""
    return BadData(f"{path}: the table has no vectors to export")


def most_frequent_first(vectors: LocalTable) -> NDArray[np.int64]:
    """Return the rows of a table on the driver in the order of a file, among its rows."""
    return np.argsort(-vectors.column("count").fill_null(-1).to_numpy(), kind="stable")


def _write_here(vectors: LocalTable, path: str, target: str, binary: bool) -> Written:
    """Write vectors as write() does, without Spark."""
    if not len(vectors):
        raise nothing_in(path)
    order, ids = most_frequent_first(vectors), vectors.ids.to_pylist()
    # Python's whitespace is that of the pattern above.
    names = [re.sub(r"\s+", "_", text) or "_" for text in ids]
    row_of: dict[str, int] = {}
    for row in order.tolist():
        row_of.setdefault(names[row], row)
    kept = np.array(list(row_of.values()))
    renamed = sum(name != text for name, text in zip(names, ids, strict=True))

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(kept), ROWS):
            part = kept[start : start + ROWS]
            rows = part if vectors.rows is None else vectors.rows[part]
            texts = pa.array([names[row] for row in part], pa.string())
            yield pa.record_batch({"name": texts, "vector": to_column(vectors.vectors[rows])})

    [result] = _writer(target, len(kept), vectors.dimension, binary)(batches())
    check_written(path, target, result["rows"][0].as_py(), len(kept))
    return Written(len(kept), vectors.dimension, renamed, len(order) - len(kept))


def check_written(path: str, target: str, written: int | None, rows: int) -> None:
    """Raise ResourceError if the driver does not see the file of a path, or it has not as many rows as the table."""
    if written != rows or not files.exists(target):
        raise ResourceError(
            f"{path}: written on another host's own disk, or the table changed meanwhile; "
            "give a path or URI that all hosts share, and export a table that no job is writing"
        )


def _writer(target: str, rows: int, d: int, binary: bool) -> Callable[[Batches], Batches]:
    """Build the task's function: it writes the file and returns how many rows that were."""

    def write_file(batches: Batches) -> Batches:
        written = 0
        with files.create(target) as file, compressed(file, target) as stream:
            stream.write(f"{rows} {d}\n".encode())
            for batch in batches:
                stream.writelines(_binary(batch) if binary else _text(batch))
                written += batch.num_rows
        yield pa.record_batch({"rows": pa.array([written], pa.int64())})

    return write_file


@contextmanager
def compressed(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Yield a stream that compresses into a file as the end of its name says."""
    if name.endswith(".gz"):
        # Without name and time: the same vectors give the same bytes.
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
            yield stream  # type: ignore[misc]
    elif name.endswith(".bz2"):
        with bz2.BZ2File(file, "wb") as stream:
            yield stream  # type: ignore[misc]
    else:
        yield file


def _binary(batch: pa.RecordBatch) -> Iterator[bytes]:
    matrix = to_matrix(batch["vector"]).astype("<f4", copy=False)
    for name, row in zip(batch["name"].to_pylist(), matrix, strict=True):
        yield b"%b %b\n" % (name.encode(), row.tobytes())


def _text(batch: pa.RecordBatch) -> Iterator[bytes]:
    # Arrow writes the shortest decimal that reads back as the same float32.
    column = batch["vector"]
    values = pc.cast(column.flatten(), pa.string())
    starts = pa.array(range(0, len(values) + 1, len(values) // len(column)), pa.int32())
    fields = pc.binary_join(pa.ListArray.from_arrays(starts, values), " ")
    for line in pc.binary_join_element_wise(batch["name"], fields, " ").to_pylist():
        yield line.encode() + b"\n"
