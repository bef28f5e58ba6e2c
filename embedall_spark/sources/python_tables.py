"""Docstrings, calls and imports of all Python files below a folder as three tables, from one pass over the files."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark import files
from embedall_spark.sources import python_calls, python_docstrings, python_files, python_imports

if TYPE_CHECKING:
    import ast
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

_TESTS = {"test", "tests", "testing"}
_MAX_BYTES = 100_000
_CALL, _IMPORT = python_calls.COLUMNS, python_imports.COLUMNS
_COLUMNS = pa.schema([("part", pa.string()), *python_docstrings.COLUMNS, *_CALL, *_IMPORT])
_NO_TEXT, _NO_CALL, _NO_IMPORT = ((None,) * len(some) for some in (python_docstrings.COLUMNS, _CALL, _IMPORT))


class PythonTables(NamedTuple):
    """Folders of Parquet files, and how many files were refused."""

    docstrings: str
    """Each distinct docstring once: ``text``."""
    calls: str
    """What functions call: ``key`` (the function), ``item`` (what it calls), ``order`` (the call's place in it)."""
    imports: str
    """Which module imports which: ``src``, ``dst``, ``weight`` (number of statements)."""
    files: int
    """Number of Python files that were parsed."""
    refused: int
    """Number of files that are not Python and were left out."""


def write(spark: SparkSession, folder: str, output: str) -> PythonTables:
    """Parse the .py files below a folder once, and return the tables of what is in them.

    Tests and long files, which are mostly data or generated, are left out: four tenths of the work. The tables lie
    below ``output`` in a folder named after the files' version: a second call with the same files writes nothing.

    Args:
        spark: the session.
        folder: of the Python files, searched to any depth; visible to all hosts.
        output: folder of the tables.

    Raises:
        BadData: the folder is not there, has no .py file, or has more than a million.
    """
    target, paths = f"{output}/{python_files.version(folder)}", _paths(folder)
    parsed, texts = f"{target}/parsed", f"{target}/docstrings"
    if not files.exists(f"{parsed}/_SUCCESS"):
        rows = python_files.read(spark, folder, _rows, _COLUMNS, paths)
        rows = rows.withColumn("part", F.coalesce("part", F.lit("problems")))
        rows.write.mode("overwrite").partitionBy("part").parquet(parsed)
    if not files.exists(f"{texts}/_SUCCESS"):
        # Packages repeat many docstrings word for word: inherited methods, vendored copies.
        distinct = spark.read.parquet(f"{parsed}/part=docstrings").select("text").distinct()
        distinct.write.mode("overwrite").parquet(texts)
    refused = spark.read.parquet(parsed).where("part = 'problems'").count()
    return PythonTables(texts, f"{parsed}/part=calls", f"{parsed}/part=imports", len(paths), refused)


def _paths(folder: str) -> list[str]:
    """Return the files to parse; all of them where these rules would leave none."""
    paths = python_files.names(folder)
    code = [path for path in paths if not _TESTS.intersection(Path(path).parts)]
    return [path for path in code if Path(folder, path).stat().st_size <= _MAX_BYTES] or paths


def _rows(tree: ast.Module, root: str, name: str) -> Iterator[tuple[Any, ...]]:
    return chain(
        (("docstrings", *row, *_NO_CALL, *_NO_IMPORT) for row in python_docstrings.rows(tree, root, name)),
        (("calls", *_NO_TEXT, *row, *_NO_IMPORT) for row in python_calls.rows(tree, root, name)),
        (("imports", *_NO_TEXT, *_NO_CALL, *row) for row in python_imports.rows(tree, root, name)),
    )
