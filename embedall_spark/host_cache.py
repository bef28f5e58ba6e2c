"""A stage's parquet files in another format on each host's own disk, written once and mapped by all of its workers."""

from __future__ import annotations

import hashlib
import os
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.fs as pafs

from embedall_spark import files
from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

_UNUSED_SECONDS = 2 * 24 * 3600


def parts(folder: str) -> tuple[list[pafs.FileInfo], str]:
    """Return a folder's parquet files in the order of their names, and a key that changes when they do.

    Raises:
        BadData: there are none.
    """
    filesystem, path = files.resolve(folder)
    entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    parquet = sorted((info for info in entries if info.base_name.endswith(".parquet")), key=lambda info: info.base_name)
    if not parquet:
        raise BadData(f"{folder}: need the parquet files of a stage, found none; has the stage been run?")
    listing = [folder, *(f"{info.base_name} {info.size} {info.mtime_ns}" for info in parquet)]
    return parquet, hashlib.sha256("\n".join(listing).encode()).hexdigest()[:24]


def make(kind: str, folder: str, write: Callable[[pafs.FileSystem, list[str], Path], None]) -> tuple[Path, str]:
    """Return the folder of the host's copy of a stage, and its key; the first process writes it, the others wait.

    ``write`` gets a filesystem, the paths of the stage's files in order, and the folder to write into. Copies that
    were not opened for two days are deleted when another one is written.
    """
    stage_files, key = parts(folder)
    home = files.scratch(kind, key)
    # Marks the copy as used: see files.expire.
    os.utime(home)
    ready = home / "ready"
    if ready.exists():
        return ready, key
    with files.lock(home):
        if not ready.exists():
            files.expire(kind, _UNUSED_SECONDS)
            draft = home / uuid.uuid4().hex
            draft.mkdir()
            try:
                write(files.resolve(folder)[0], [info.path for info in stage_files], draft)
                os.rename(draft, ready)
            finally:
                files.remove_tree(draft)
    return ready, key


def mapped(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    """Return a file as a read-only array, mapped into memory unless it is empty."""
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r").view(np.ndarray)
