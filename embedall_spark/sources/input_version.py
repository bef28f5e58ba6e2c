"""What an input is made of: a digest that changes when it does, and its size."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pyspark.sql import functions as F

from embedall_spark import files
from embedall_spark.sources import openmoji, python_files

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession


class Input(Protocol):
    """What is asked of a source's configuration."""

    @property
    def path(self) -> str:
        """A path, or a table in a catalog."""

    @property
    def format(self) -> str:
        """How it is stored."""


class Delta(NamedTuple):
    """A Delta table as an input."""

    path: str
    format: str = "delta"


def version(spark: SparkSession, config: Input) -> str:
    """Return a digest of the input's files (names, sizes, times), or the id and version of a Delta table."""
    if config.format in python_files.SHARES:
        return python_files.version(config.path)
    if config.format == "openmoji":
        return openmoji.version()
    if config.format == "delta":
        detail = _detail(spark, config)
        commit = (
            spark.sql(f"DESCRIBE HISTORY {files.identifier(_table(config))} LIMIT 1").select("version").collect()[0]
        )
        return f"{detail['id']}@{commit['version']}"
    found = _files(spark, config)
    digest = found.select(F.xxhash64(*found.columns).alias("file")).agg(F.bit_xor("file"), F.count("*")).collect()[0]
    return f"{digest[0] or 0:x}.{digest[1]}"


def size(spark: SparkSession, config: Input) -> int:
    """Return about how many bytes the input has, as it is stored."""
    if config.format in python_files.SHARES:
        return python_files.size(config.path, config.format)
    if config.format == "openmoji":
        return openmoji.size()
    if config.format == "delta":
        return int(_detail(spark, config)["sizeInBytes"])
    row = _files(spark, config).agg(F.sum("length")).first()
    return int(row[0] or 0) if row else 0


def _files(spark: SparkSession, config: Input) -> DataFrame:
    """Return path, length and time of the input's files."""
    if is_path(config.path) or config.format != "parquet":
        # Folders of pictures are read to any depth; Spark's own readers of the other formats do not do that.
        reader = spark.read.format("binaryFile").option("recursiveFileLookup", config.format == "files")
        return reader.load(config.path).select("path", "length", "modificationTime")
    size, time = F.col("_metadata.file_size").alias("length"), F.col("_metadata.file_modification_time")
    return spark.table(config.path).select("_metadata.file_path", size, time).distinct()


def _detail(spark: SparkSession, config: Input) -> Row:
    return spark.sql(f"DESCRIBE DETAIL {files.identifier(_table(config))}").select("id", "sizeInBytes").collect()[0]


def is_path(path: str) -> bool:
    """Tell whether an input is named by a path, not as a table in a catalog."""
    return "/" in path or files.exists(path)


def _table(config: Input) -> str:
    # A folder without a slash in its name may look like a table of the catalog.
    return os.path.abspath(config.path) if files.exists(config.path) else config.path
