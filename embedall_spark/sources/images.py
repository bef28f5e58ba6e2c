"""Pictures to IMAGES: folders, tables with bytes or paths, MNIST, OpenMoji; what cannot be one says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark.schemas import IMAGES, conform
from embedall_spark.sources import expressions, image_files, image_tables, mnist, openmoji

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.sources.image_config import ImagesConfig


def read(spark: SparkSession, config: ImagesConfig) -> DataFrame:
    """Return IMAGES, lazily, one row per picture or record that is none.

    Tasks open files by ``path``; ``content`` is there only where a table holds the bytes. Ids are unique: rows that
    share one all have a problem, and so have files that are empty or over ``limits.max_bytes``.

    Raises:
        BadData: there is nothing at the path, or no picture in it, or it is of another format.
        SchemaMismatch: a column is missing or of a wrong type.
        SetupError: a package that the format needs is not installed.
    """
    if config.format == "mnist":
        return mnist.read(spark, config.path, config.part)
    if config.format == "openmoji":
        return openmoji.read(spark)
    rows = image_files.read(spark, config) if config.format == "files" else image_tables.read(spark, config)
    # Of files in their folder no two are the same.
    return conform(rows if config.format == "files" and config.id != "name" else _unique(rows), IMAGES)


def _unique(rows: DataFrame) -> DataFrame:
    """Return rows in which those that share an id have a problem."""
    # The pictures' bytes take no part in it.
    shared = rows.where("id IS NOT NULL").groupBy("id").agg(F.count("*").alias("sharing")).where("sharing > 1")
    reason = F.concat(
        F.col("sharing").cast("string"), F.lit(" pictures have this id: "), F.left("id", F.lit(expressions.EXCERPT))
    )
    joined = rows.join(shared, "id", "left").withColumn("problem", F.coalesce("problem", reason))
    good = F.col("problem").isNull()
    names = [name for name in ("content", "path") if name in rows.columns]
    return joined.withColumns({name: F.when(good, F.col(name)) for name in names})
