"""Reads picture files from any storage, in the threads of a task."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from embedall_spark import credentials, files

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def read(path: str, limit: int) -> bytes:
    """Return the content of a file, at most ``limit`` + 1 bytes of it: one byte more tells that it is too large.

    Args:
        path: a path, or a percent-encoded URI.
        limit: in bytes.

    Raises:
        OSError: the file cannot be read, or the URI has a query, which could name another endpoint, or credentials.
        pyarrow.ArrowException: pyarrow does not know the scheme of the URI.
    """
    uri = re.fullmatch(r"(\w[\w+.-]*://[^/?]+)/([^?]+)", path)
    if uri is None and "://" in path and not path.startswith("file:"):
        raise OSError("a URI with a query, or without a path")
    if credentials.problem(path) is not None:
        raise OSError("a URI with credentials")
    if uri is None:
        filesystem, inside = files.resolve(path)
    else:
        # Connecting to a store takes a second, and threads may share the connection.
        filesystem, root = _store(f"{uri[1]}/")
        inside = f"{root.rstrip('/')}/{unquote(uri[2])}"
    with filesystem.open_input_stream(inside, compression=None) as stream:
        return bytes(stream.read(limit + 1))


@functools.lru_cache(maxsize=16)
def _store(uri: str) -> tuple[FileSystem, str]:
    return files.resolve(uri)
