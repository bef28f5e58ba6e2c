"""Credentials in URIs: refused in configurations, since those are recorded; masked wherever text is shown."""

from __future__ import annotations

import re

# A container of Azure also stands before an @, but without a colon. A key of S3 may hold slashes, and buckets no port.
_USER = re.compile(r"(?<=s3://)[^/\s:@]+:[^\s@]*@|(?<=s3[an]://)[^/\s:@]+:[^\s@]*@|(?<=://)[^/?#\s:@]*:[^/?#\s@]*@")
_QUERY = re.compile(
    r"(?i)([?&](?:sig|[\w-]*(?:secret|token|passw|signature|credential|access_?key|account_?key)[\w-]*)=)[^&\s'\"]+"
)


def mask(text: str) -> str:
    """Return a text in which ``***`` stands for the credentials of URIs."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", text))


def problem(text: str) -> str | None:
    """Return why a text may not be a path or another option, None where it may."""
    if mask(text) == text:
        return None
    return (
        f"{mask(text)} holds credentials, and paths are recorded; give them to Spark (spark.hadoop.fs.*) and to its "
        "tasks by the environment (such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or use the hosts' own role"
    )
