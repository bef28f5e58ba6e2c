"""Vectors out, in word2vec's text or binary format, as one stream from one task."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import files
from embedall_spark.errors import BadData, ResourceError
from embedall_spark.search import exact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

# Java's Unicode whitespace, and the four separators that Python splits at too.
_WHITESPACE = r"(?U)[\s\x1c-\x1f]+"
_WRITTEN = T.StructType([T.StructField("rows", T.LongType(), False)])


@dataclass(frozen=True)
class Written:
    """What an exported file holds, and how it differs from the table."""

    rows: int
    vector_size: int
    renamed: int
    dropped: int

    def text(self, path: str) -> str:
        """Return a sentence for the user."""
        said = f"{path}: {self.rows:,} vectors of {self.vector_size} numbers"
        if self.renamed:
            said += f"; {self.renamed:,} ids had whitespace, which the format cannot hold: it is '_' in the file"
        if self.dropped:
            said += f"; {self.dropped:,} of them then had the name of a more frequent id and were left out"
        return said


def write(vectors: DataFrame, path: str, *, binary: bool = False) -> Written:
    """Write vectors in word2vec's format, most frequent first, ties and ids without a count in the order of ids.

    gensim's ``KeyedVectors.load_word2vec_format`` and the original C tools read the file. Numbers keep every bit in
    both formats. The formats cannot hold whitespace in an id: each run of it (and an empty id) becomes ``_``; where
    two ids then have the same name, the more frequent one is kept.

    Args:
        vectors: VECTORS.
        path: file to write, a path or URI that the tasks and the driver both see; an existing file is replaced.
        binary: binary in place of text.

    Raises:
        BadData: the table is empty, or its vectors differ in length.
        ResourceError: the file that a task has written is not where the driver sees it.
    """
    target = os.path.abspath(path) if files.is_local(path) and "://" not in path else path
    name = F.regexp_replace("id", _WHITESPACE, "_")
    name = F.when(F.col("id") == "", "_").otherwise(name)
    rows = vectors.select("id", "vector", "count", name.alias("name"))
    found = rows.agg(
        F.count("*").alias("rows"),
        F.count_if(F.col("name") != F.col("id")).alias("renamed"),
        F.min(F.size("vector")).alias("least"),
        F.max(F.size("vector")).alias("most"),
    ).first()
    assert found is not None
    if not found["rows"]:
        raise BadData(f"{path}: the table has no vectors to export")
    if found["least"] != found["most"]:
        raise BadData(
            f"{path}: the table has vectors of {found['least']} and of {found['most']} numbers; need one length"
        )
    order = [F.desc_nulls_last("count"), F.col("id")]
    kept = found["rows"]
    if found["renamed"]:
        place = F.row_number().over(Window.partitionBy("name").orderBy(*order))
        rows = rows.withColumn("place", place).where("place = 1")
        kept = rows.count()
    # One task sorts, spilling to its disk, and streams: the file is one, and its order is part of the format.
    ordered = rows.repartition(1).sortWithinPartitions(*order).select("name", "vector")
    done = ordered.mapInArrow(_writer(target, kept, found["most"], binary), _WRITTEN).first()
    if done is None or done["rows"] != kept or not files.exists(target):
        raise ResourceError(
            f"{path}: written on another host's own disk, or the table changed meanwhile; "
            "give a path or URI that all hosts share, and export a table that no job is writing"
        )
    return Written(kept, found["most"], found["renamed"], found["rows"] - kept)


def _writer(target: str, rows: int, numbers: int, binary: bool) -> Callable[[Batches], Batches]:
    def write_file(batches: Batches) -> Batches:
        done = 0
        with files.create(target) as stream:
            stream.write(f"{rows} {numbers}\n".encode())
            for batch in batches:
                stream.writelines(_binary(batch) if binary else _text(batch))
                done += batch.num_rows
        yield pa.record_batch({"rows": pa.array([done], pa.int64())})

    return write_file


def _binary(batch: pa.RecordBatch) -> Iterator[bytes]:
    matrix = exact.to_matrix(batch["vector"]).astype("<f4", copy=False)
    for name, row in zip(batch["name"].to_pylist(), matrix, strict=True):
        yield b"%b %b\n" % (name.encode(), row.tobytes())


def _text(batch: pa.RecordBatch) -> Iterator[bytes]:
    # Arrow writes the shortest decimal that reads back as the same float32.
    column = batch["vector"]
    numbers = pc.cast(column.flatten(), pa.string())
    starts = pa.array(range(0, len(numbers) + 1, len(numbers) // len(column)), pa.int32())
    fields = pc.binary_join(pa.ListArray.from_arrays(starts, numbers), " ")
    for line in pc.binary_join_element_wise(batch["name"], fields, " ").to_pylist():
        yield line.encode() + b"\n"
