"""Errors of Spark's readers as BadData: which file cannot be read, and why."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyarrow import parquet
from pyspark.errors import AnalysisException, PySparkException

from embedall_spark import files
from embedall_spark.errors import BadData
from embedall_spark.sources import input_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import DataFrame, DataFrameReader, SparkSession


def opened(path: str, kind: str, read: Callable[[], DataFrame]) -> DataFrame:
    """Return what ``read`` reads from a path, which must have at least one row.

    Raises:
        BadData: there is nothing at the path, or nothing in it, or it is not of this kind.
    """
    try:
        with translate_read_errors():
            table = read()
            empty = table.isEmpty()
    except AnalysisException as error:
        if error.getCondition() == "PATH_NOT_FOUND":
            raise BadData(f"{path}: no such file or folder; correct the input's path") from None
        # Without Spark's codes.
        reason = re.sub(r"^\[[A-Z0-9_.]+\] | SQLSTATE: \w+$", "", str(error).splitlines()[0]).rstrip(" .")
        remedy = "correct path or format"
        if re.search("Parquet type|data type", reason):
            remedy = "write the column as text, or times in microseconds"
            reason += _nanosecond_columns(path)
        raise BadData(f"{path}: cannot be read as {kind}: {reason}; {remedy}") from None
    except Exception as error:
        # Spark looks into a file for its columns, and fails as a job does: by py4j's error, or Connect's. So does Delta
        # where a version of a table is asked for that is not there.
        if "/_delta_log does not exist" in str(error):
            raise BadData(f"{path}: no such table; correct its path") from None
        if "is not a Parquet file" not in str(error):
            raise
        raise BadData(f"{path}: cannot be read as {kind}: it is no Parquet file; correct path or format") from None
    if empty:
        raise BadData(
            f"{path}: no row found as {kind}; need at least one file that is not empty and whose name begins with "
            "neither _ nor ."
        )
    return table


def _nanosecond_columns(path: str) -> str:
    """Return which columns of the first Parquet file hold times in nanoseconds, which Spark does not read."""
    try:
        file = next(file.path for file in input_files.list_files(path) if file.size)
        filesystem, inside = files.resolve(file)
        schema = parquet.read_schema(inside, filesystem=filesystem)
    except (OSError, ValueError, StopIteration):
        return ""
    names = [field.name for field in schema if pa.types.is_timestamp(field.type) and field.type.unit == "ns"]
    return f", column {', '.join(names)}" if names else ""


@contextmanager
def translate_read_errors() -> Iterator[None]:
    """Raise BadData, which names the file, where a task inside could not read one or refused it."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        text = str(error)
        if raised := re.search(r"embedall_spark\.errors\.BadData: (.*)", text):
            raise BadData(raised[1].strip()) from None
        if refused := re.search(r"\[USER_RAISED_EXCEPTION\] (.*?)(?: SQLSTATE|$)", text, re.MULTILINE):
            raise BadData(refused[1]) from None
        file = re.search(r"\[FAILED_READ_FILE\.\w+\] [^\n]*? file (\S+)\. ", text)
        if file is None:
            raise
        causes = re.findall(r"Caused by: [\w.$]+: ((?:.|\n)*?)\n\tat ", text)
        why = " ".join(causes[-1].split()) if causes else "Spark does not say why"
        raise BadData(f"{file[1]}: the file cannot be read ({why}); mend, replace or remove it") from None


def strict(spark: SparkSession) -> DataFrameReader:
    """Return a reader that skips nothing.

    A session may be set to skip what it cannot read; a damaged archive would then lose its end in silence.
    """
    return spark.read.options(ignoreCorruptFiles=False, ignoreMissingFiles=False)
