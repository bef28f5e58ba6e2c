"""The docstrings of every Python file below a folder as DOCUMENTS: real text that any Python installation has."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.sources import python_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame, SparkSession

COLUMNS = pa.schema([("text", pa.string())])
_WITH_BODY = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def read(spark: SparkSession, folder: str) -> DataFrame:
    """Return DOCUMENTS: each distinct docstring once, and a problem for each file that is not Python.

    The folder must be visible to all hosts; only the files' names pass the driver. Packages repeat many docstrings
    word for word (inherited methods, vendored copies), so equal texts are kept once, with the first of their files
    as origin and the hash of the text as id.

    Raises:
        BadData: the folder is not there, has no .py file, or has more than a million.
    """
    docstrings = python_files.read(spark, folder, rows, COLUMNS)
    key = F.xxhash64(F.coalesce("text", F.concat("origin", "problem")))
    return (
        docstrings.groupBy(key.alias("id"))
        .agg(F.min(F.struct("origin", "problem", "text")).alias("first"))
        .select("id", "first.text", "first.origin", "first.problem")
    )


def of_tree(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a Python file: the module's, then its classes' and functions' in a fixed order."""
    for node in python_files.statements(tree):
        if isinstance(node, _WITH_BODY) and (text := ast.get_docstring(node, clean=False)):
            # A lone surrogate, which an escape can make, has no UTF-8.
            yield inspect.cleandoc(text).encode("utf-8", "replace").decode("utf-8")


def rows(tree: ast.Module, root: str, name: str) -> Iterator[tuple[str]]:
    """Yield the rows of a file: COLUMNS, as python_files.read() wants them."""
    del root, name
    return ((text,) for text in of_tree(tree) if text)
