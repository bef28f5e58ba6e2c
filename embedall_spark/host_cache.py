"""A stage's parquet files in another format on each host's own disk, written once and mapped by all of its workers."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.fs as pafs

from embedall_spark import committed_files, files
from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_UNUSED_SECONDS = 2 * 24 * 3600


def parts(folder: str) -> tuple[list[pafs.FileInfo], str]:
    """Return a folder's parquet files in the order of their names, and a key that changes when they do.

    Raises:
        BadData: there are none.
    """
    parquet = committed_files.of(folder)
    if not parquet:
        raise BadData(f"{folder}: need the parquet files of a stage, found none; has the stage been run?")
    listing = [folder, *(f"{info.base_name} {info.size} {info.mtime_ns}" for info in parquet)]
    return parquet, hashlib.sha256("\n".join(listing).encode()).hexdigest()[:24]


def make(kind: str, folder: str, write: Callable[[pafs.FileSystem, list[str], Path], None]) -> tuple[Path, str]:
    """Return the folder of the host's copy of a stage and its key; see cached().

    ``write`` gets a filesystem, the paths of the stage's files in their order, and the folder to write into.
    """
    infos, key = parts(folder)
    return cached(kind, key, lambda draft: write(files.resolve(folder)[0], [info.path for info in infos], draft)), key


def copy_file(kind: str, uri: str) -> Path:
    """Return a file as one of this host's: itself if it is local, else a copy of it, see cached()."""
    filesystem, inside = files.resolve(uri)
    if files.is_local(uri):
        return Path(inside)

    def write(draft: Path) -> None:
        with filesystem.open_input_stream(inside) as source, (draft / "copy").open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    return cached(kind, hashlib.sha256(uri.encode()).hexdigest()[:24], write) / "copy"


def cached(kind: str, key: str, write: Callable[[Path], None]) -> Path:
    """Return the folder of what ``write`` writes into a folder; one process of a host writes while others wait.

    Copies of a kind that nobody has opened for two days are removed when another one is written.
    """
    home = files.scratch(kind, key)
    # Marks the copy as used: see files.expire.
    os.utime(home)
    ready = home / "ready"
    if ready.exists():
        return ready
    with files.lock(home):
        if not ready.exists():
            files.expire(kind, _UNUSED_SECONDS)
            draft = home / uuid.uuid4().hex
            draft.mkdir()
            try:
                write(draft)
                os.rename(draft, ready)
            finally:
                files.remove_tree(draft)
    return ready


def mapped(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    """Return a file as a read-only array, mapped into memory unless it is empty."""
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r").view(np.ndarray)
