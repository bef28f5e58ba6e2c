"""Small files on any storage, and host-local copies, through the clients of ``filesystems.py``.

A run's folder may be a local path, a mount (``/dbfs``) or a URI (``s3a://``, ``abfss://``, ``hdfs://``, ``gs://``).
Files are written sequentially and become visible whole, which object stores allow.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pyarrow.fs as pafs

from embedall_spark import credentials, filesystems, user_cache
from embedall_spark.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator


_CHUNK_BYTES = 16 << 20


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the filesystem of a path or URI and the path inside it; raise ConfigError if it holds credentials."""
    return filesystems.of(uri)


def expand_user(name: str) -> str:
    """Return a path with ``~`` replaced by the home folder, as a shell does; raises ValueError if it is empty."""
    if not name.strip():
        raise ValueError("is empty; give a path, a URI or a table")
    return plain(os.path.expanduser(name))


def plain(name: str) -> str:
    """Return a path in the spelling that Spark and Python both know: volumes of Databricks are folders."""
    return re.sub(r"^dbfs:/+(?=Volumes/)", "/", name)


def input_path(name: str) -> str:
    """Return a path or glob as an absolute one, ``~`` expanded; a URI or the name of a table stays as it is."""
    path = expand_user(name)
    if not is_local(path) or path.startswith(("file:", "dbfs:")) or not (is_path(path) or os.path.exists(path)):
        return path
    return os.path.abspath(path)


def spark_path(path: str) -> str:
    """Return a path as Spark's readers want it: where the path exists as it is written, none of it is a glob."""
    path = plain(path)
    if set(path) & set("[]{}*?\\") and exists(path):
        return re.sub(r"([\[\]{}*?\\])", r"\\\1", path)
    return path


def is_local(uri: str) -> bool:
    """Tell whether a path or URI lies in this machine's file tree (mounts included)."""
    return "://" not in uri or uri.startswith("file:")  # dbfs:/ is a mount


def is_path(name: str) -> bool:
    """Tell whether a table's name is a path or URI, not ``schema.table`` or ``catalog.schema.table``."""
    return re.fullmatch(r"[\w-]+(\.[\w-]+){1,2}", name) is None


def table_and_version(name: str) -> tuple[str, int | None]:
    """Return the two parts of TABLE@VERSION; the version is None where only a table is named."""
    table, separator, version = name.rpartition("@")
    return (table, int(version)) if separator and version.isdecimal() else (name, None)


def file_name(run_id: str) -> str:
    """Return a run's id as a name that every storage takes: Hadoop takes no colons, and ``+`` may mean a blank."""
    return re.sub(r"[^\w.-]", lambda match: f"~{ord(match[0]):02X}", run_id, flags=re.ASCII)


def metadata_of(table: str) -> str:
    """Return the name of the table of titles, tags and labels beside a table."""
    return f"{table.rstrip('/')}_metadata"


def map_of(table: str) -> str:
    """Return the name of the table of places on a map beside a table."""
    return f"{table.rstrip('/')}_map"


def words_of(table: str) -> str:
    """Return the name of the table of words' vectors that were learned for a latent table."""
    return f"{table.rstrip('/')}_words"


def identifier(name: str) -> str:
    """Return a table's name quoted for SQL; a folder is one of Delta. Raise ConfigError if it holds credentials."""
    if (problem := credentials.problem(name)) is not None:
        raise ConfigError(problem)
    name = plain(name)
    if not is_path(name):
        return ".".join(f"`{part}`" for part in name.split("."))
    # The driver's own folder is what a relative path means, wherever Spark's JVM was started.
    path = name if "://" in name or name.startswith(("/", "dbfs:", "file:")) else os.path.abspath(name)
    return f"delta.`{path.replace('`', '``')}`"


def exists(uri: str) -> bool:
    """Tell whether a file or folder is there."""
    filesystem, path = resolve(uri)
    return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)


def children(uri: str) -> list[str]:
    """Return the names in a folder, sorted; none where the folder is not there."""
    filesystem, path = resolve(uri)
    selector = pafs.FileSelector(path, allow_not_found=True)
    return sorted(info.base_name for info in filesystem.get_file_info(selector))


def read_bytes(uri: str) -> bytes:
    """Return a whole small file."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())


def write_bytes(uri: str, content: bytes) -> None:
    """Write a whole small file that readers see either not at all or complete."""
    with create(uri) as stream:
        stream.write(content)


@contextmanager
def create(uri: str) -> Iterator[BinaryIO]:
    """Open a new file for sequential writing; it appears under its name only when the block ends well."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        with _create_local(Path(path)) as file:
            yield file
    elif filesystem.type_name == "py::hdfs":
        # Its rename takes the place of a file that is there in the same step.
        part = f"{path}.{uuid.uuid4().hex}.part"
        try:
            with filesystem.open_output_stream(part) as stream:
                yield stream
            filesystem.move(part, path)
        except BaseException:
            with suppress(OSError):
                filesystem.delete_file(part)
            raise
    else:
        # A client of an object store cannot give an upload up: what was begun is published when its stream is closed,
        # or dropped. In a thread, which Ctrl-C does not interrupt. Arrow's copy_files() would lose errors of the end.
        with tempfile.NamedTemporaryFile(dir=scratch("uploads")) as file:
            yield file  # type: ignore[misc]
            file.flush()
            with ThreadPoolExecutor(1) as executor:
                executor.submit(_upload, file.name, filesystem, path).result()


def _upload(source: str, filesystem: pafs.FileSystem, path: str) -> None:
    with open(source, "rb") as content, filesystem.open_output_stream(path) as stream:
        shutil.copyfileobj(content, stream, _CHUNK_BYTES)


@contextmanager
def _create_local(target: Path) -> Iterator[BinaryIO]:
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with hidden.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(hidden, target)
    finally:
        hidden.unlink(missing_ok=True)


def delete(uri: str) -> None:
    """Remove a file or a whole folder; nothing happens where it is not there."""
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.Directory:
        filesystem.delete_dir(path)
    elif info.type == pafs.FileType.File:
        filesystem.delete_file(path)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a host-wide lock on a local folder, so that one process per host fills it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def scratch(*parts: str) -> Path:
    """Return a folder of this user alone for host-local copies, below Spark's local folder where the task has one.

    Raises:
        ResourceError: another user has put something in its place.
    """
    # In a container of YARN or Kubernetes only Spark's local folders have room and are cleaned with the application.
    roots = os.environ.get("SPARK_LOCAL_DIRS") or os.environ.get("LOCAL_DIRS") or os.environ.get("TMPDIR") or "/tmp"
    own = Path(roots.split(",")[0]) / f"embedall-{os.getuid()}"
    own.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        own.mkdir(mode=0o700)
    # Folders such as /tmp are shared: somebody else may have put a folder or a link of this name there.
    if own.is_symlink() or not own.is_dir() or not user_cache.is_own(own):
        raise ResourceError(
            f"{own}: the folder for local copies is a link or belongs to another user: have it removed, or set "
            "SPARK_LOCAL_DIRS to a folder of your own"
        )
    if own.stat().st_mode & 0o077:
        own.chmod(0o700)
    folder = own / Path(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_tree(folder: Path) -> None:
    """Remove a local folder and all that is in it, also where parts of it vanish meanwhile."""
    shutil.rmtree(folder, ignore_errors=True)


def expire(name: str, seconds: float) -> None:
    """Remove the folders below the scratch folder ``name`` that nobody has touched for so long.

    Processes that have mapped their files keep what they have mapped.
    """
    for child in scratch(name).iterdir():
        with suppress(FileNotFoundError):
            if child.stat().st_mtime < time.time() - seconds:
                remove_tree(child)


def sweep(name: str) -> int:
    """Remove what dead processes left below the scratch folder ``name``; return how many folders that were.

    Below it lies a folder per run, and in that one folder per process, named by the process's number.
    """
    left = [child for child in scratch(name).glob("*/*") if not Path(f"/proc/{child.name.split('-')[0]}").exists()]
    for child in left:
        remove_tree(child)
    return len(left)
