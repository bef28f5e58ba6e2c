"""Files of 0 bytes, which Spark's own listing leaves out: found by a task, so that none is lost in silence."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.fs as pafs
from pyspark.sql.pandas.types import from_arrow_schema

from embedall_spark import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame, SparkSession

    Batches = Iterable[pa.RecordBatch]

_ROWS = pa.schema([("path", pa.string()), ("length", pa.int64()), ("origin", pa.string())])
_ROWS_PER_BATCH = 1000
_WILD = re.compile(r"[*?\[{]")


def read(spark: SparkSession, path: str) -> DataFrame:
    """Return path, length (0) and origin of the files of 0 bytes that a path or glob names, lazily.

    Folders are searched to any depth; names that begin with _ or . do not count, as in Spark. One task walks over all
    names below the glob's first wildcard.

    Args:
        spark: the session.
        path: an absolute path or a URI: of a folder, of a file, or with Hadoop's wildcards.
    """
    return spark.range(0, 1, 1, 1).mapInArrow(_finder(path), from_arrow_schema(_ROWS))


def folder_of(path: str) -> str:
    """Return the last folder before a glob's first wildcard; other paths are returned as they are."""
    wild = _WILD.search(path)
    return path[: wild.start()].rpartition("/")[0] if wild else path


def pattern_of(glob: str) -> re.Pattern[str]:
    """Return what matches the paths that one of Hadoop's globs names, and all that lies below them."""
    pieces = {"*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}
    text, depth = "", 0
    for part in re.findall(r"\\.|\[[^\]]+\]|.", glob, re.DOTALL):
        depth += (part == "{") - (part == "}")
        if part.startswith("[") and len(part) > 1:
            text += "[" + re.sub(r"^[!^]", "^", part[1:-1]).replace("\\", r"\\") + "]"
        elif part == "," and depth > 0:
            text += "|"
        else:
            text += pieces.get(part) or re.escape(part[-1])
    return re.compile(text + "(?:/.*)?", re.DOTALL)


def _finder(path: str) -> Callable[[Batches], Batches]:
    folder = folder_of(path).rstrip("/")
    pattern = pattern_of(path.rstrip("/")) if folder != path.rstrip("/") else None

    def find(batches: Batches) -> Batches:
        for _ in batches:
            names: list[str] = []
            for below in _empty(folder or "/"):
                name = f"{folder}/{below}"
                if pattern is None or pattern.fullmatch(name):
                    names.append(name)
                if len(names) == _ROWS_PER_BATCH:
                    yield _batch(names)
                    names = []
            yield _batch(names)

    return find


def _empty(folder: str) -> Iterator[str]:
    """Yield the names below a folder of the files of 0 bytes."""
    filesystem, base = files.resolve(folder)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        for info in filesystem.get_file_info(pafs.FileSelector(base, allow_not_found=True, recursive=True)):
            below = info.path.removeprefix(base).lstrip("/")
            if info.size == 0 and info.is_file and not any(map(_hidden, below.split("/"))):
                yield below
        return
    for root, folders, names in os.walk(base, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in names:
            whole = os.path.join(root, name)
            if not _hidden(name) and os.path.isfile(whole) and not os.path.getsize(whole):
                yield os.path.relpath(whole, base)


def _hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _batch(names: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"path": names, "length": [0] * len(names), "origin": names}, _ROWS)
