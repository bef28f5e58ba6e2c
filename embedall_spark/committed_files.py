"""The parquet files of a folder that its writer has named at its end: what lies beside them is not read back."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pyarrow.fs as pafs

from embedall_spark import files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame, DataFrameReader

# Spark skips files whose names begin so.
_FILE = "_committed.json"
# Rows of ours may have a MiB. By default Parquet puts at least a hundred of them into a page, and Spark reads a whole
# row group into memory.
_OPTIONS = {
    "parquet.block.size": 32 << 20,
    "parquet.block.size.row.check.min": 1,
    "parquet.page.size.row.check.min": 1,
    # Most columns of ours are binary and distinct: Parquet would build a dictionary and throw it away.
    "parquet.enable.dictionary": "false",
}
# Spark puts the id of a write into the name of each of its files.
_WRITE = re.compile(r"-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?=-|\.)")


def write(rows: DataFrame, folder: str) -> None:
    """Write rows as parquet files into a folder, in place of what is there, and name the files."""
    rows.write.mode("overwrite").options(**_OPTIONS).parquet(folder)
    named = {info.base_name: info.size for info in _listed(folder)}
    files.write_bytes(f"{folder}/{_FILE}", json.dumps(named).encode())


def of(folder: str) -> list[pafs.FileInfo]:
    """Return a folder's parquet files in the order of their names: those that its writer has named, else all."""
    named = _named(folder)
    if named is None:
        return _listed(folder)
    _, path = files.resolve(folder)
    return [pafs.FileInfo(f"{path}/{name}", pafs.FileType.File, size=size) for name, size in sorted(named.items())]


def read(reader: DataFrameReader, folders: Sequence[str]) -> DataFrame:
    """Return the rows of folders: of the files that their writers have named, else of all files."""
    named = [_named(folder) for folder in folders]
    if all(names is not None for names in named):
        reader = reader.option("pathGlobFilter", _pattern([name for names in named for name in names or {}]))
    return reader.parquet(*map(files.spark_path, folders))


def _pattern(names: list[str]) -> str:
    """Return a glob of files' names, which does not grow with their number where Spark has named them."""
    writes = [_WRITE.search(name) for name in names]
    parts = [re.sub(r"([\[\]{}*?,\\])", r"\\\1", name) for name, write in zip(names, writes, strict=True) if not write]
    return f"{{{','.join(parts + sorted({f'*{write[1]}*' for write in writes if write}))}}}"


def _named(folder: str) -> dict[str, int] | None:
    try:
        return dict(json.loads(files.read_bytes(f"{folder}/{_FILE}")))
    except FileNotFoundError:
        return None


def _listed(folder: str) -> list[pafs.FileInfo]:
    filesystem, path = files.resolve(folder)
    entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    found = [info for info in entries if info.base_name.endswith(".parquet") and info.base_name[:1] not in "._"]
    return sorted(found, key=lambda info: info.base_name)
