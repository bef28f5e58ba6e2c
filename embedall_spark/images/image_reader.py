"""Reads picture files from any storage, in the threads of a task."""

from __future__ import annotations

import re
from urllib.parse import unquote

from embedall_spark import credentials, files
from embedall_spark.errors import ConfigError


def read(path: str, limit: int) -> bytes:
    """Return the content of a file, at most ``limit`` + 1 bytes of it: one byte more tells that it is too large.

    Args:
        path: a path, or a percent-encoded URI.
        limit: in bytes.

    Raises:
        OSError: the file cannot be read, the URI has a query, which could name another endpoint, or credentials, or
            nothing reads its scheme.
    """
    uri = re.fullmatch(r"(\w[\w+.-]*://[^/?]+)/([^?]+)", path)
    if uri is None and "://" in path and not path.startswith("file:"):
        raise OSError("a URI with a query, or without a path")
    if credentials.problem(path) is not None:
        raise OSError("a URI with credentials")
    try:
        filesystem, root = files.resolve(path if uri is None else f"{uri[1]}/")
    except ConfigError as error:
        raise OSError(str(error)) from None
    inside = root if uri is None else f"{root.rstrip('/')}/{unquote(uri[2])}"
    with filesystem.open_input_stream(inside, compression=None) as stream:
        return bytes(stream.read(limit + 1))
