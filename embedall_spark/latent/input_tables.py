"""The tables that a latent space is made of: how they are read, and whether they fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.latent_model import TITLES, WORDS
from embedall_spark.schemas import VECTORS, conform
from embedall_spark.sources import input_version, reader_errors

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from embedall_spark.latent.config import LatentInput


def check_ids(left: DataFrame, ids: DataFrame, source: LatentInput) -> None:
    """Raise BadData if no id of the left side has an item or a pair, before anything is computed from them.

    Args:
        left: VECTORS of the left side.
        ids: a table whose ``id`` is that of an item or of the left side of a pair.
        source: where they come from.
    """
    key, path = ("input.items", source.items_table) if source.pairs is None else ("input.pairs", source.pairs)
    if not left.join(ids, "id", "left_semi").isEmpty():
        return
    examples = [
        ", ".join(repr(row["id"]) for row in side.select("id").orderBy("id").take(3)) or "no id" for side in (left, ids)
    ]
    raise BadData(
        f"{key}: no id of {path} is an id of {source.path}. {path} has {examples[1]}; {source.path} has {examples[0]}. "
        "Ids must be equal, a folder in front included"
    )


def check_size(parts: DataFrame, smallest: int) -> None:
    """Raise BadData if there are too few training items for a latent space of the smallest ``fit.k``."""
    items = parts.where("part = 'train'").count()
    if items <= smallest:
        raise BadData(
            f"fit.k={smallest} needs more than {smallest:,} training items, and there are {items:,}; give more items, "
            "a smaller fit.k, or a smaller split.test and split.validation"
        )


def kinds(spark: SparkSession, left: DataFrame, source: LatentInput) -> tuple[str, str]:
    """Return the kinds of the left and of the right side, which their ids begin with in the latent space.

    Raises:
        ConfigError: both are the same, or a table has rows of several kinds and none is configured.
    """
    first = source.kind or _kind(left, source.path, "input.kind")
    second = TITLES
    if source.right is not None:
        second = source.right_kind or _kind(read(spark, source.right, VECTORS), source.right, "input.right_kind")
    if first == second or (source.right is None and first == WORDS):
        raise ConfigError(f"both sides have ids of kind {first!r}; set input.kind to another name for the left side's")
    return first, second


def _kind(vectors: DataFrame, path: str, option: str) -> str:
    row = vectors.agg(F.min("kind"), F.max("kind")).first()
    assert row is not None
    if row[0] != row[1]:
        raise ConfigError(f"{path} has rows of several kinds, such as {row[0]!r} and {row[1]!r}; set {option}")
    return str(row[0])


def read(spark: SparkSession, path: str, schema: StructType) -> DataFrame:
    """Return a Delta table of a contract.

    Raises:
        BadData: there is no such table.
        SchemaMismatch: it lacks a column.
    """
    _, version = input_version.table_and_version(path)
    reader = spark.read if version is None else spark.read.option("versionAsOf", version)
    rows = reader_errors.opened(path, "delta", lambda: reader.table(input_version.DeltaTable(path).identifier))
    return conform(rows, schema)


def is_finite() -> Column:
    """Return whether all values of ``vector`` are finite."""
    return F.forall("vector", lambda value: ~F.isnan(value) & (F.abs(value) < float("inf")))
