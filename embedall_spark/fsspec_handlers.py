"""fsspec's file systems as pyarrow's, in which an outage is an error and never a file that is not there."""

from __future__ import annotations

import datetime
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs

from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def _brief() -> Iterator[None]:
    """Leave a server's stack out of its errors."""
    try:
        yield
    except OSError as error:
        if "\n" not in str(error):
            raise
        raise type(error)(str(error).splitlines()[0]) from None


class Handler(pafs.FSSpecHandler):  # type: ignore[misc]
    """Any file system of fsspec."""

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        """Return what lies at each path."""
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        """Return what lies in a folder, and with ``recursive`` in those below it."""
        base = self._info(selector.base_dir)
        if base.type == pafs.FileType.NotFound and selector.allow_not_found:
            return []
        if base.type == pafs.FileType.NotFound:
            raise FileNotFoundError(selector.base_dir)
        if base.type != pafs.FileType.Directory:
            raise NotADirectoryError(selector.base_dir)
        entries = self.fs.ls(selector.base_dir, detail=True, refresh=True)
        # Some list a folder's own marker in it.
        own = selector.base_dir.rstrip("/")
        found = [_file_info(entry, entry["name"]) for entry in entries if entry["name"].rstrip("/") != own]
        if selector.recursive:
            for info in [info for info in found if info.type == pafs.FileType.Directory]:
                found += self.get_file_info_selector(pafs.FileSelector(info.path, recursive=True))
        return found

    def delete_file(self, path: str) -> None:
        """Remove a file; raise FileNotFoundError where there is none."""
        with _brief():
            self.fs.rm(path)

    def open_input_stream(self, path: str) -> pa.PythonFile:
        """Open a file for reading."""
        with _brief():
            return pa.PythonFile(self.fs.open(path, "rb"), mode="r")

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open a file for reading at any place."""
        with _brief():
            return pa.PythonFile(self.fs.open(path, "rb"), mode="r")

    def open_output_stream(self, path: str, metadata: object) -> pa.PythonFile:
        """Open a file for writing, and make its folder where that must be there."""
        with _brief():
            try:
                file = self.fs.open(path, "wb")
            except FileNotFoundError:
                self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                file = self.fs.open(path, "wb")
            return pa.PythonFile(file, mode="w")

    def _info(self, path: str) -> pafs.FileInfo:
        try:
            with _brief():
                return _file_info(self.fs.info(path, refresh=True), path)
        except FileNotFoundError:
            return pafs.FileInfo(path, pafs.FileType.NotFound)


class HdfsHandler(Handler):
    """HDFS by hdfs-native, whose rename over a file never loses either of the two."""

    def get_type_name(self) -> str:
        """Return the name of this kind of storage."""
        return "hdfs"

    def move(self, source: str, target: str) -> None:
        """Rename a file; one that is there is replaced in the same step."""
        with _brief():
            self.fs.mv(source, target, overwrite=True)


def hdfs(scheme: str, authority: str, arguments: dict[str, Any]) -> HdfsHandler:
    """Return the handler of a cluster.

    Args:
        scheme: hdfs or viewfs.
        authority: host:port, the name of a service, or nothing.
        arguments: options of Hadoop, which win over those in HADOOP_CONF_DIR.

    Raises:
        ConfigError: hdfs-native is not installed.
    """
    try:
        import hdfs_native.fsspec
    except ImportError as error:
        raise ConfigError(
            f"{scheme}://{authority}: needs the package hdfs-native on the driver and on every host ({error}); "
            'pip install "embedall_spark[hdfs]"'
        ) from None
    base = hdfs_native.fsspec.HdfsFileSystem if scheme == "hdfs" else hdfs_native.fsspec.ViewfsFileSystem

    class Client(base):  # type: ignore[misc, valid-type]
        """As hdfs-native's, which takes a # or ? in a name for the end of the path."""

        # fsspec would keep it for the whole process, and after a fork.
        cachable = False

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return re.sub(r"^\w+://[^/]*", "", path).rstrip("/") or cls.root_marker

    host, _, port = authority.partition(":")
    return HdfsHandler(Client(host or None, int(port) if port else None, **arguments))


def _file_info(entry: dict[str, Any], path: str) -> pafs.FileInfo:
    """Return an entry of fsspec as pyarrow's."""
    kinds = {"directory": pafs.FileType.Directory, "file": pafs.FileType.File}
    # Each file system has a name of its own for it.
    names = ("mtime", "modification_time", "LastModified", "last_modified", "modified", "created")
    time: Any = next((entry[name] for name in names if entry.get(name) is not None), None)
    if "modification_time" in entry and isinstance(time, int):
        time = time / 1000
    if isinstance(time, str):
        time = datetime.datetime.fromisoformat(time)
    return pafs.FileInfo(path, kinds.get(entry["type"], pafs.FileType.Unknown), size=entry["size"] or 0, mtime=time)
