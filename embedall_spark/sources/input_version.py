"""What an input is made of: a digest that changes when it does, its size, and what of it is not read."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pyspark.sql import functions as F

from embedall_spark import files
from embedall_spark.sources import input_files, openmoji, python_files
from embedall_spark.sources.input_files import InputFile, LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import Row, SparkSession


INCREMENTAL = (
    "keep what was read beside the runs, and read only new and changed files in the next run; of a Delta table only "
    "what its change data feed names"
)
"""Description of the option of each source."""
# Up to here files are compared by their contents, so that a file written again with the same bytes is the same input.
_MAX_BYTES = 256 << 20
_MAX_FILES = 10_000


class Storage(Protocol):
    """How an input is stored."""

    def version(self, spark: SparkSession) -> str:
        """Return a digest that changes when the input does."""

    def size(self, spark: SparkSession) -> int:
        """Return about how many bytes the input has, as it is stored."""

    def left_out(self) -> dict[str, tuple[int, str]]:
        """Return for each reason how many files are not read for it, and one of them."""


class Input(Protocol):
    """A source's configuration."""

    @property
    def storage(self) -> Storage:
        """How the input is stored."""


def version(spark: SparkSession, config: Input) -> str:
    """Return a digest of the input's files (see Files.version()), or the id and version of a Delta table."""
    return config.storage.version(spark)


def size(spark: SparkSession, config: Input) -> int:
    """Return about how many bytes the input has, as it is stored."""
    return config.storage.size(spark)


def left_out(config: Input) -> dict[str, tuple[int, str]]:
    """Return for each reason how many files are not read for it, and one of them."""
    return config.storage.left_out()


def is_path(path: str) -> bool:
    """Tell whether an input is named by a path, not as a table in a catalog."""
    return "/" in path or files.exists(path)


def table_and_version(path: str) -> tuple[str, int | None]:
    """Return the two parts of TABLE@VERSION, as a retry names a Delta table; a folder of such a name is no version."""
    table, version = files.table_and_version(path)
    return (path, None) if version is None or files.exists(path) else (table, version)


def storage_of(path: str, format: str, suffixes: list[str] | None = None) -> Storage:
    """Return how an input of a format is stored.

    Args:
        path: the input's.
        format: of any source.
        suffixes: with format files, the names' endings that count.
    """
    if format in python_files.SHARES:
        return PythonFiles(path, format)
    if format == "openmoji":
        return OpenMoji()
    if format == "delta":
        return DeltaTable(path)
    if format == "parquet":
        return Parquet(path) if is_path(path) else CatalogTable(path)
    return Files(path, input_files.ending_in(suffixes) if suffixes else None)


class Files(NamedTuple):
    """Files below a path."""

    path: str
    names: re.Pattern[str] | None = None

    def version(self, spark: SparkSession) -> str:
        """Return a digest of the files' paths and contents, and how many there are.

        Remote, many or large files are compared by size and time in place of content.
        """
        del spark
        digest, count, size = hashlib.sha256(), 0, 0
        small: list[InputFile] = []
        for file in self._files():
            digest.update(f"{file.path}\0{file.size}\0{file.modified}\n".encode())
            count, size = count + 1, size + file.size
            if count <= _MAX_FILES and size <= _MAX_BYTES and files.is_local(file.path):
                small.append(file)
        contents = _digest_of_contents(small) if len(small) == count else None
        return f"{(contents or digest.hexdigest())[:16]}.{count}"

    def size(self, spark: SparkSession) -> int:
        """Return the sum of the files' sizes."""
        del spark
        return sum(file.size for file in self._files())

    def left_out(self) -> dict[str, tuple[int, str]]:
        """Return what input_files.walk() leaves out; nothing on remote storage: a listing costs more than it tells."""
        counts: dict[str, tuple[int, str]] = {}
        if not files.is_local(self.path):
            return counts
        for entry in input_files.walk(self.path, self.names):
            if reason := self._reason(entry):
                count, example = counts.get(reason, (0, entry.path))
                counts[reason] = count + 1, example
        return counts

    def _files(self) -> Iterator[InputFile]:
        entries = input_files.walk(self.path, self.names)
        return (entry for entry in entries if isinstance(entry, InputFile) and not self._reason(entry))

    def _reason(self, entry: InputFile | LeftOut) -> str | None:
        return entry.reason if isinstance(entry, LeftOut) else None


def _digest_of_contents(listed: list[InputFile]) -> str | None:
    """Return a digest of local files' paths and contents; None where one cannot be read, which its reader reports."""
    digest = hashlib.sha256()
    for path, *_ in listed:
        try:
            with open(path, "rb") as file:
                digest.update(f"{path}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        except OSError:
            return None
    return digest.hexdigest()


class Parquet(Files):
    """Parquet files below a path, which Spark lists by rules of its own."""

    def _reason(self, entry: InputFile | LeftOut) -> str | None:
        if isinstance(entry, LeftOut):
            return entry.reason
        path = input_files.absolute(self.path).rstrip("/")
        root = input_files.folder_of(path)
        *folders, name = entry.path.removeprefix(root).strip("/").split("/")
        if any(part.startswith("_") and "=" not in part for part in [*folders, name]):
            return "Spark does not read Parquet files whose names begin with _"
        if root == path and any("=" not in folder for folder in folders):
            return "Spark does not read Parquet files in folders below"
        return None


class DeltaTable(NamedTuple):
    """A Delta table, by path or in a catalog."""

    path: str

    @property
    def storage(self) -> Storage:
        """The table itself."""
        return self

    @property
    def identifier(self) -> str:
        """Its name quoted for SQL."""
        name, _ = table_and_version(self.path)
        # A folder without a slash in its name may look like a table of the catalog.
        in_tree = files.is_local(name) and not name.startswith(("file:", "dbfs:"))
        return files.identifier(os.path.abspath(name) if in_tree and files.exists(name) else name)

    def version(self, spark: SparkSession) -> str:
        """Return the table's id and version, as ``id@version``."""
        _, version = table_and_version(self.path)
        if version is not None:
            return f"{self._detail(spark)['id']}@{version}"
        history = spark.sql(f"DESCRIBE HISTORY {self.identifier} LIMIT 1")
        return f"{self._detail(spark)['id']}@{history.select('version').collect()[0]['version']}"

    def size(self, spark: SparkSession) -> int:
        """Return the size of the table's files."""
        return int(self._detail(spark)["sizeInBytes"])

    def left_out(self) -> dict[str, tuple[int, str]]:
        """Return nothing: the table itself says which files are its own."""
        return {}

    def _detail(self, spark: SparkSession) -> Row:
        detail = spark.sql(f"DESCRIBE DETAIL {self.identifier}")
        return detail.select("id", "sizeInBytes").collect()[0]


class CatalogTable(NamedTuple):
    """A table of Parquet files in a catalog."""

    path: str

    def version(self, spark: SparkSession) -> str:
        """Return a digest of the files' paths, sizes and times, and how many there are."""
        columns = ("file_path", "file_size", "file_modification_time")
        listed = spark.table(self.path).select(*[f"_metadata.{name}" for name in columns]).distinct()
        row = listed.select(F.xxhash64(*columns).alias("file")).agg(F.bit_xor("file"), F.count("*")).collect()[0]
        return f"{row[0] or 0:x}.{row[1]}"

    def size(self, spark: SparkSession) -> int:
        """Return the sum of the files' sizes."""
        sizes = spark.table(self.path).select("_metadata.file_path", "_metadata.file_size").distinct()
        row = sizes.agg(F.sum("file_size")).first()
        return int(row[0] or 0) if row else 0

    def left_out(self) -> dict[str, tuple[int, str]]:
        """Return nothing: the catalog says which files are the table's own."""
        return {}


class PythonFiles(NamedTuple):
    """The Python files below a folder."""

    path: str
    format: str

    def version(self, spark: SparkSession) -> str:
        """Return a digest of the files' names, sizes and times."""
        del spark
        return python_files.version(self.path)

    def size(self, spark: SparkSession) -> int:
        """Return about how many bytes of the format the files hold."""
        del spark
        return python_files.size(self.path, self.format)

    def left_out(self) -> dict[str, tuple[int, str]]:
        """Return nothing: all files that end in .py are read."""
        return {}


class OpenMoji(NamedTuple):
    """The drawings of the installed package."""

    def version(self, spark: SparkSession) -> str:
        """Return the versions of the packages."""
        del spark
        return openmoji.version()

    def size(self, spark: SparkSession) -> int:
        """Return how many bytes the drawings have."""
        del spark
        return openmoji.size()

    def left_out(self) -> dict[str, tuple[int, str]]:
        """Return nothing: which drawings are taken is part of the format."""
        return {}


def check_incremental(incremental: bool, format: str) -> None:
    """Raise ValueError if an input of a format cannot be read in increments."""
    if incremental and format not in ("text", "json", "csv", "edgelist", "delta"):
        raise ValueError(f"incremental: format {format} is always read whole; need text, json, csv, edgelist or delta")
