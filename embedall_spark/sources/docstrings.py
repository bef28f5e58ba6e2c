"""The docstrings of every Python file below a folder as DOCUMENTS: real text that any Python installation has."""

from __future__ import annotations

import ast
import gc
import hashlib
import inspect
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame, SparkSession

MAX_FILE_BYTES = 4 << 20
_MAX_FILES = 1_000_000
_FILES_PER_TASK = 256
_FOUND = pa.schema([("text", pa.string()), ("origin", pa.string()), ("problem", pa.string())])
_WITH_BODY = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def read(spark: SparkSession, folder: str) -> DataFrame:
    """Return DOCUMENTS: each distinct docstring once, and a problem for each file that is not Python.

    The folder must be visible to all hosts; only the files' names pass the driver. Packages repeat many docstrings
    word for word (inherited methods, vendored copies), so equal texts are kept once, with the first of their files
    as origin and the hash of the text as id.

    Raises:
        BadData: the folder is not there, has no .py file, or has more than a million.
    """
    root, names = Path(folder), _names(folder)
    paths = spark.createDataFrame([(name,) for name in names], T.StructType([T.StructField("origin", T.StringType())]))
    schema = T.StructType([T.StructField(name, T.StringType()) for name in _FOUND.names])
    tasks = 1 + len(names) // _FILES_PER_TASK
    found = paths.repartition(tasks, "origin").mapInArrow(_reader(str(root.absolute())), schema)
    key = F.xxhash64(F.coalesce("text", F.concat("origin", "problem")))
    return (
        found.groupBy(key.alias("id"))
        .agg(F.min(F.struct("origin", "problem", "text")).alias("first"))
        .select("id", "first.text", "first.origin", "first.problem")
    )


def version(folder: str) -> str:
    """Return a digest of the files' names, sizes and times.

    Raises:
        BadData: as read().
    """
    digest = hashlib.sha256()
    for name in _names(folder):
        stat = Path(folder, name).stat()
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def size(folder: str) -> int:
    """Return about how many bytes of docstrings there are: a sixth of the source.

    Raises:
        BadData: as read().
    """
    return sum(Path(folder, name).stat().st_size for name in _names(folder)) // 6


def _names(folder: str) -> list[str]:
    root = Path(folder)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.py") if path.is_file())
    if not names or len(names) > _MAX_FILES:
        raise BadData(
            f"{folder}: need a folder with 1 to {_MAX_FILES} .py files, found {len(names)}; give another folder"
        )
    return names


def of_file(path: Path) -> Iterator[str]:
    """Yield the docstrings of a Python file: the module's, then its classes' and functions' in a fixed order.

    Raises:
        ValueError: the file is larger than MAX_FILE_BYTES or is not Python (SyntaxError among others).
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size} bytes, limit {MAX_FILE_BYTES}")
    with warnings.catch_warnings():
        # Invalid escapes and the like are the packages' own business.
        warnings.simplefilter("ignore")
        pending: list[ast.AST] = [ast.parse(path.read_bytes())]
    while pending:
        node = pending.pop()
        if isinstance(node, _WITH_BODY) and (text := ast.get_docstring(node, clean=False)):
            # A lone surrogate, which an escape can make, has no UTF-8.
            yield inspect.cleandoc(text).encode("utf-8", "replace").decode("utf-8")
        pending += [
            child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case)
        ]


def _reader(root: str) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def batches(names: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # Syntax trees have no cycles; the collector would walk them again and again for nothing.
        gc.disable()
        try:
            for batch in names:
                for start in range(0, len(batch), _FILES_PER_TASK):
                    yield _read_all(root, batch.column("origin").slice(start, _FILES_PER_TASK).to_pylist())
        finally:
            gc.enable()

    return batches


def _read_all(root: str, names: list[str]) -> pa.RecordBatch:
    rows: list[tuple[str | None, str, str | None]] = []
    for name in names:
        try:
            rows += [(text, name, None) for text in of_file(Path(root, name)) if text]
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
            rows.append((None, name, f"not Python: {error}"))
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    arrays = [pa.array(values, pa.string()) for values in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=_FOUND)
