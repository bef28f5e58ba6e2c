"""Every Python file below a folder, parsed in Spark's tasks: what docstrings, calls and imports have in common."""

from __future__ import annotations

import ast
import gc
import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pyspark.sql import DataFrame, SparkSession

    Batches = Iterable[pa.RecordBatch]
    Find = Callable[[ast.Module, str, str], Iterable[tuple[Any, ...]]]

# Formats of an input that are made of Python files, and how many bytes of them there are in a byte of source.
SHARES = {"docstrings": 1 / 6, "calls": 0.2, "imports": 0.03}
MAX_FILE_BYTES = 4 << 20
_MAX_FILES = 1_000_000
_FILES_PER_TASK = 256
_ROWS_PER_BATCH = 1 << 14
# Fields of statements that hold further statements, exception handlers or cases of a match.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError, OSError)


def read(
    spark: SparkSession, folder: str, find: Find, columns: pa.Schema, paths: Sequence[str] | None = None
) -> DataFrame:
    """Return what ``find`` finds in each .py file below a folder, and a problem for each file that is not Python.

    The folder must be visible to all hosts; only the files' names pass the driver.

    Args:
        spark: the session.
        folder: the folder, searched to any depth.
        find: called in the tasks as ``find(tree, root, name)`` with the syntax tree of the file ``name`` below the
            folder ``root``; returns rows of ``columns``. A function of a module, so that it pickles.
        columns: what a row holds.
        paths: the files to parse, as names() returns them; None: all.

    Returns:
        ``columns``, all nullable, then ``origin`` (the file's name below the folder) and ``problem`` (string). A
        file with a problem has one row, of nulls otherwise.

    Raises:
        BadData: the folder is not there, has no .py file, or has more than a million.
    """
    paths = names(folder) if paths is None else paths
    schema = pa.schema([*columns, pa.field("origin", pa.string()), pa.field("problem", pa.string())])
    files = spark.createDataFrame([(name,) for name in paths], T.StructType([T.StructField("name", T.StringType())]))
    tasks = 1 + len(paths) // _FILES_PER_TASK
    reader = _reader(str(Path(folder).absolute()), find, schema)
    return files.repartition(tasks, "name").mapInArrow(reader, from_arrow_schema(schema))


def names(folder: str) -> list[str]:
    """Return the names below a folder of its .py files, sorted.

    Raises:
        BadData: the folder is not there, has no .py file, or has more than a million.
    """
    root = Path(folder)
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.py") if path.is_file())
    if not paths or len(paths) > _MAX_FILES:
        raise BadData(
            f"{folder}: need a folder with 1 to {_MAX_FILES} .py files, found {len(paths)}; give another folder"
        )
    return paths


def version(folder: str) -> str:
    """Return a digest of the files' names, sizes and times.

    Raises:
        BadData: as read().
    """
    digest = hashlib.sha256()
    for name in names(folder):
        stat = Path(folder, name).stat()
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def size(folder: str, format: str) -> int:
    """Return about how many bytes of a format in SHARES the files hold.

    Raises:
        BadData: as read().
    """
    return int(SHARES[format] * sum(Path(folder, name).stat().st_size for name in names(folder)))


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file.

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
        return ast.parse(path.read_bytes())


def module_of(name: str) -> str:
    """Return the dotted name of the module that a file holds: ``pkg/sub/__init__.py`` is ``pkg.sub``."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def absolute(name: str, module: str | None, level: int) -> str | None:
    """Return the module that ``from ..module import`` means in a file; None where that is outside the folder.

    Args:
        name: the file's name below the folder.
        module: what is written after the dots, if anything.
        level: how many dots there are.
    """
    if not level:
        return module
    package = name.split("/")[:-1]
    if level > len(package):
        return None
    return ".".join([*package[: len(package) - level + 1], *([module] if module else [])])


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all statements below it, in a fixed order, without descending into expressions."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        for name in _BLOCKS:
            pending += getattr(node, name, ())


def _reader(root: str, find: Find, schema: pa.Schema) -> Callable[[Batches], Batches]:
    blank = (None,) * (len(schema) - 2)

    def rows_of(name: str) -> list[tuple[Any, ...]]:
        try:
            return [(*row, name, None) for row in find(parse(Path(root, name)), root, name)]
        except _NOT_PYTHON as error:
            return [(*blank, name, f"not Python: {error}")]

    def batches(names: Batches) -> Iterator[pa.RecordBatch]:
        rows: list[tuple[Any, ...]] = []
        # Syntax trees have no cycles; the collector would walk them again and again for nothing.
        gc.disable()
        try:
            for name in (name for batch in names for name in batch.column("name").to_pylist()):
                rows += rows_of(name)
                if len(rows) >= _ROWS_PER_BATCH:
                    yield _batch(rows, schema)
                    rows = []
        finally:
            gc.enable()
        if rows:
            yield _batch(rows, schema)

    return batches


def _batch(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
