"""Which module of a folder imports which, as EDGES: a real graph that any Python installation has."""

from __future__ import annotations

import ast
import functools
import os
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow as pa

from embedall_spark.schemas import EDGES, conform
from embedall_spark.sources import python_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame, SparkSession

COLUMNS = pa.schema([("src", pa.string()), ("dst", pa.string()), ("weight", pa.float64())])


def read(spark: SparkSession, folder: str) -> DataFrame:
    """Return EDGES from each module below a folder to those that it imports, and a problem for each file that is none.

    Ids are dotted names, as seen from the folder. An edge's weight is the number of statements, anywhere in the file,
    that import the module. Modules from outside the folder are there too.

    Raises:
        BadData: the folder is not there, has no .py file, or has more than a million.
    """
    return conform(python_files.read(spark, folder, rows, COLUMNS), EDGES)


def of_tree(tree: ast.Module, root: str, name: str) -> Counter[str]:
    """Return how often a file imports each module.

    ``from x import y`` imports ``x.y`` where that is a file or package below the folder, else ``x``.

    Args:
        tree: the file's syntax tree.
        root: the folder.
        name: the file's name below the folder.
    """
    imports: Counter[str] = Counter()
    for node in python_files.statements(tree):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = python_files.absolute(name, node.module, node.level)
            # Names from the future change the language, and are no module's.
            if module is None or module == "__future__":
                continue
            full_names = (f"{module}.{alias.name}" for alias in node.names)
            imports.update({full_name if _is_module(root, full_name) else module for full_name in full_names})
    return imports


def rows(tree: ast.Module, root: str, name: str) -> Iterator[tuple[str, str, float]]:
    """Yield the rows of a file: COLUMNS, as python_files.read() wants them."""
    src = python_files.module_of(name)
    return ((src, dst, float(times)) for dst, times in of_tree(tree, root, name).items())


@functools.lru_cache(1 << 16)
def _is_module(root: str, module: str) -> bool:
    path = os.path.join(root, *module.split("."))
    return os.path.isfile(f"{path}.py") or os.path.isfile(f"{path}/__init__.py")
