"""Pictures' files on any storage, opened by the threads of a task."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from embedall_spark import files

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def read(path: str, limit: int) -> bytes:
    """Return a file, or as much of one that is over ``limit`` bytes as shows that it is.

    Args:
        path: a path, or a URI with what is no letter or digit percent-encoded.
        limit: bytes.

    Raises:
        OSError: it cannot be read.
        pyarrow.ArrowException: it is no path or URI that pyarrow knows.
    """
    found = re.fullmatch(r"(\w[\w+.-]*://[^/?]+)/([^?]+)", path)
    if found is None:
        filesystem, inside = files.resolve(path)
    else:
        # A store takes a second to connect to, and threads may share what is connected.
        filesystem, root = _store(f"{found[1]}/")
        inside = f"{root.rstrip('/')}/{unquote(found[2])}"
    with filesystem.open_input_stream(inside, compression=None) as stream:
        return bytes(stream.read(limit + 1))


@functools.lru_cache(maxsize=16)
def _store(uri: str) -> tuple[FileSystem, str]:
    return files.resolve(uri)
