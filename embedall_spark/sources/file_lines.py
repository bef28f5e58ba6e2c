"""Lines of text files as a DataFrame. Spark's own reader takes neither other encodings nor long lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from embedall_spark.sources import input_files, line_reader, text_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.sources.line_reader import Lines, Part
    from embedall_spark.sources.text_streams import Check

    Batches = Iterable[pa.RecordBatch]
    Read = Callable[[Part], Iterator[Lines]]

MAX_HEADS = 8
# A row for a block of lines, so that their origin crosses to the JVM once.
_BLOCKS = pa.schema(
    [
        pa.field("origin", pa.string()),
        pa.field("first", pa.bool_()),
        pa.field("problem", pa.string()),
        pa.field("values", pa.list_(pa.string())),
    ]
)


def read(
    spark: SparkSession,
    path: str,
    encoding: str = "utf-8",
    max_bytes: int = line_reader.MAX_BYTES,
    option: str | None = None,
    check: Check | None = None,
    comments: bool = False,
) -> DataFrame:
    """Return the lines of text files, lazily: value, origin, first, problem; see line_reader.read().

    ``first`` says whether a line is the first of its file that is not empty; a row with a ``problem`` has the beginning
    of its line as ``value``. Values may have bytes that are no UTF-8.

    Raises:
        BadData: there is no file with content, or the first ones are refused by ``check`` or are no text.
    """
    check_heads(path, encoding, check)
    return rows(
        spark, path, encoding, lambda part: line_reader.read(part, encoding, max_bytes, option, check, comments)
    )


def check_heads(path: str, encoding: str, check: Check | None = None) -> None:
    """Raise BadData if there is no file with content, or the first ones are refused by ``check`` or are no text."""
    for file, head in heads(path, encoding):
        if check is not None:
            check(file, head)


def rows(spark: SparkSession, path: str, encoding: str, read: Read, whole: bool = False) -> DataFrame:
    """Return what ``read`` yields for the parts of the files that a path names, in the columns of read().

    Args:
        spark: the session.
        path: file, folder or glob.
        encoding: of files without a byte order mark.
        read: called in the tasks.
        whole: read each file by one task.
    """
    tasks, parts_of = divide(spark, path, encoding, whole)

    def blocks(batches: Batches) -> Batches:
        for part in parts_of(batches):
            origin = text_streams.origin(part.path)
            for lines in read(part):
                yield _batch(origin, lines)

    table = tasks.mapInArrow(blocks, from_arrow_schema(_BLOCKS))
    lines = table.select("origin", "first", "problem", F.posexplode("values").alias("place", "value"))
    return lines.select("value", "origin", (F.col("first") & (F.col("place") == 0)).alias("first"), "problem")


def divide(
    spark: SparkSession, path: str, encoding: str, whole: bool = False
) -> tuple[DataFrame, Callable[[Batches], Iterator[Part]]]:
    """Return a table with a row and a partition for each task, and what yields the parts of files of a task's rows.

    Raises:
        BadData: the path names no file with content.
    """
    tasks = int(str(spark.conf.get("spark.sql.shuffle.partitions")))
    bins = line_reader.divide(input_files.list_files(path), encoding, tasks, whole)

    def parts_of(batches: Batches) -> Iterator[Part]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from bins[number]

    return spark.range(0, len(bins), 1, len(bins)), parts_of


def heads(path: str, encoding: str, size: int = text_streams.HEAD) -> Iterator[tuple[str, bytes]]:
    """Yield path and first bytes, in UTF-8, of the first files with content, at most eight.

    Raises:
        BadData: there is none, or one cannot be read or is no text.
    """
    listed = [file for file in input_files.list_files(path) if file.size][:MAX_HEADS]
    return ((file.path, text_streams.read_head(file.path, encoding, size)) for file in listed)


def _batch(origin: str, lines: Lines) -> pa.RecordBatch:
    values = pa.ListArray.from_arrays(pa.array([0, len(lines.values)], pa.int32()), lines.values)
    return pa.RecordBatch.from_arrays(
        [pa.array([origin]), pa.array([lines.first]), pa.array([lines.problem], pa.string()), values], schema=_BLOCKS
    )
