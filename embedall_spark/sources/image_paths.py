"""Where pictures lie, as Spark writes it and as tasks open it, and how large they may be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from pyspark.sql import functions as F

from embedall_spark.sources import expressions

if TYPE_CHECKING:
    from pyspark.sql import Column

SCHEME = r"^[A-Za-z][A-Za-z0-9+.-]*:"
"""What a URI begins with, for Python and Java alike."""
LOCAL = r"^file:(//)?(?=/)"
"""What to take away from the URI of a local file to have its path."""


def encoded(uri: str) -> str:
    """Return a URI of remote storage, in which letters stand for themselves, percent-encoded; a path as it is."""
    parts = re.fullmatch(r"([A-Za-z][\w+.-]*://[^/]*)(/.*)", uri, re.DOTALL)
    return uri if parts is None or uri.startswith("file:") else parts[1] + quote(parts[2])


def size_problem(size: Column, limit: int, record: Column) -> Column:
    """Return why a picture of so many bytes cannot be used, null where it can."""
    over = F.concat(
        size.cast("string"),
        F.lit(f" bytes, over limits.max_bytes={limit}: "),
        F.left(record, F.lit(expressions.EXCERPT)),
    )
    return F.when(size == 0, expressions.problem("empty", record)).when(size > limit, over)
