"""The client of each storage: chosen by a URI's scheme here alone, and made once per process, scheme and authority.

pyarrow has clients for S3, Google Cloud Storage and Azure; hdfs-native, which needs neither Java nor libhdfs, serves
HDFS; other schemes are fsspec's.
"""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs

from embedall_spark import credentials, storage_options
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(/.*)?", re.DOTALL)
_S3, _AZURE, _HDFS = ("s3", "s3a", "s3n"), ("abfs", "abfss"), ("hdfs", "viewfs")


def of(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the client of a path or URI and the path inside it.

    A URI of remote storage is taken as Hadoop takes it: blanks, ``%``, ``#`` and other letters stand for themselves.

    Raises:
        ConfigError: the URI holds credentials or a query, its scheme is unknown or lacks a package, or Spark's
            credentials cannot be translated.
    """
    if (problem := credentials.problem(uri)) is not None:
        raise ConfigError(problem)
    if (local := local_path(uri)) is not None:
        return pafs.LocalFileSystem(), local
    parts = _REMOTE.fullmatch(uri)
    if parts is None:
        raise ConfigError(f"{uri}: is no URI; need scheme://host/path")
    scheme, authority, path = parts[1].lower(), parts[2], parts[3] or "/"
    if query := re.search(r"\?[\w.-]+=", uri):
        raise ConfigError(
            f"{uri}: options in a URI ({query[0]}) are not read; set them in Spark, such as "
            "spark.hadoop.fs.s3a.endpoint.region"
        )
    if scheme in _S3:
        return _client("s3", authority, _frozen(storage_options.s3(authority)), os.getpid()), _joined(authority, path)
    if scheme == "gs":
        return _client("gs", "", _frozen(storage_options.gcs()), os.getpid()), _joined(authority, path)
    if scheme in _AZURE:
        container, _, host = authority.rpartition("@")
        return _client("abfs", "", _frozen(storage_options.azure(host)), os.getpid()), _joined(container, path)
    if scheme in _HDFS:
        return _client(scheme, authority, _frozen(storage_options.hdfs(authority)), os.getpid()), path.rstrip(
            "/"
        ) or "/"
    client = _client(scheme, authority, (), os.getpid())
    return client, str(client.handler.fs._strip_protocol(uri))


def local_path(uri: str) -> str | None:
    """Return the path of what lies in this machine's file tree (mounts included), None for what does not."""
    if uri.startswith("dbfs:/"):
        path = "/" + uri.removeprefix("dbfs:").lstrip("/")
        return path if path.startswith("/Volumes/") else f"/dbfs{path}"
    if uri.startswith("file:"):
        # pyarrow decodes it, and takes it only where it is encoded.
        encoded = re.sub(r"[^\w:/%.~!$&'()*+,;=@-]", lambda found: _percent(found[0]), uri)
        return str(pafs.FileSystem.from_uri(encoded)[1])
    return os.path.abspath(uri) if "://" not in uri else None


def _percent(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode())


def _joined(bucket: str, path: str) -> str:
    return f"{bucket}{path}".rstrip("/")


def _frozen(arguments: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, tuple(value.items()) if isinstance(value, dict) else value) for name, value in arguments.items()
    )


# A process that was forked needs clients of its own: they have threads.
@functools.lru_cache(maxsize=64)
def _client(scheme: str, authority: str, options: tuple[tuple[str, Any], ...], pid: int) -> pafs.FileSystem:
    """Make a client; ``pid`` is this process's."""
    del pid
    arguments = {name: dict(value) if isinstance(value, tuple) else value for name, value in options}
    if scheme == "s3":
        if not {"region", "endpoint_override"} & arguments.keys() and not _region_is_known():
            arguments["region"] = pafs.resolve_s3_region(authority)
        # A small file is one request.
        return pafs.S3FileSystem(allow_delayed_open=True, **arguments)
    if scheme == "gs":
        return pafs.GcsFileSystem(**arguments)
    if scheme == "abfs":
        return pafs.AzureFileSystem(**arguments)
    # Imported here: fsspec is needed by few.
    from embedall_spark import fsspec_handlers

    if scheme in _HDFS:
        return pafs.PyFileSystem(fsspec_handlers.hdfs(scheme, authority, arguments))
    return pafs.PyFileSystem(fsspec_handlers.Handler(_fsspec(scheme, authority)))


def _region_is_known() -> bool:
    return bool({"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys())


def _fsspec(scheme: str, authority: str) -> AbstractFileSystem:
    import fsspec

    if scheme in ("http", "https") or "::" in authority:
        raise ConfigError(f"{scheme}://{authority}: nothing is fetched from the web; copy it to storage of your own")
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise ConfigError(f"{scheme}://{authority}: {error}, on the driver and on every host") from None
    except ValueError:
        raise ConfigError(
            f"{scheme}://{authority}: no client for the scheme {scheme}; use s3a, gs, abfss, hdfs, a mount, or a "
            "scheme that an installed package offers to fsspec"
        ) from None
    try:
        return kind(**kind._get_kwargs_from_urls(f"{scheme}://{authority}/"), skip_instance_cache=True)
    except Exception as error:
        # Each has errors of its own.
        raise ConfigError(f"{scheme}://{authority}: cannot be opened by fsspec: {error}") from None
