"""Pictures that a table holds, or tells the places of, with their titles, tags and labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark.sources import empty_files, image_paths, input_version, reader_errors, tabular

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from embedall_spark.sources.images import ImagesConfig

COLUMNS = ("content", "location", "title", "tags", "label")
"""Options that name columns, beside ``id``."""


def read(spark: SparkSession, config: ImagesConfig) -> DataFrame:
    """Return id, content or path, what else is asked for, origin and problem of each row, lazily; ids may be shared.

    Raises:
        BadData: there is nothing at the path, or nothing in it, or it is of another format.
        SchemaMismatch: a column is missing or of a wrong type.
    """
    assert config.format in ("delta", "parquet", "csv", "json")
    columns = {f"input.{name}": key for name in ("id", *COLUMNS) if (key := getattr(config, name)) is not None}
    types = {"input.content": ["binary"], "input.tags": ["array<string>", "string"]}
    found = tabular.read(
        spark, config.path, config.format, columns,
        separator=config.separator, multiline=config.multiline, types=types,
    )  # fmt: skip
    location = F.col("location") if config.location else reader_errors.null()
    identity = F.col("id").cast("string") if config.id else location
    size = F.octet_length("content") if config.content else F.lit(None).cast("int")
    record = F.coalesce(identity, location, F.concat(size.cast("string"), F.lit(" bytes")), F.lit("null"))
    need = config.id or config.location
    problem = F.coalesce(
        F.col("problem"),
        F.when(F.coalesce(identity, F.lit("")) == "", reader_errors.problem(f"{need} is null or empty", record)),
        _location_problem(config, location, record) if config.location else _content_problem(config, size, record),
    )
    values = {"content": F.when(problem.isNull(), F.col("content"))} if config.content else {}
    values["path"] = F.when(problem.isNull(), place_of(config, location))
    values |= {name: F.col(name).cast("string") for name in ("title", "label") if getattr(config, name)}
    if config.tags:
        values["tags"] = _words(found, config.tags_separator)
    named = [value.alias(name) for name, value in values.items()]
    return found.select(identity.alias("id"), *named, "origin", problem.alias("problem"))


def _content_problem(config: ImagesConfig, size: Column, record: Column) -> Column:
    missing = F.when(size.isNull(), reader_errors.problem(f"{config.content} is null", record))
    return F.coalesce(missing, image_paths.size_problem(size, config.limits.max_bytes, record))


def _location_problem(config: ImagesConfig, location: Column, record: Column) -> Column:
    problems = [
        F.when(
            F.coalesce(location, F.lit("")) == "", reader_errors.problem(f"{config.location} is null or empty", record)
        ),
        F.when(
            location.rlike("(?i)^https?:"), reader_errors.problem("pictures are not fetched from the web", location)
        ),
    ]
    if _base(config) is None:
        relative = ~location.rlike(f"{image_paths.SCHEME}|^/")
        problems.append(
            F.when(relative, reader_errors.problem("relative location in a table without a folder", location))
        )
    return F.coalesce(*problems)


def place_of(config: ImagesConfig, location: Column) -> Column:
    """Return where a location lies: as it is written, or below the root."""
    base = _base(config)
    if base is None:
        return location
    if re.match(image_paths.SCHEME, base) and not base.startswith("dbfs:"):
        # Below a URI blanks and the like are encoded.
        below = F.replace(F.replace(F.url_encode(location), F.lit("+"), F.lit("%20")), F.lit("%2F"), F.lit("/"))
    else:
        below = location
    return F.when(location.rlike(f"{image_paths.SCHEME}|^/"), location).otherwise(F.concat(F.lit(f"{base}/"), below))


def _base(config: ImagesConfig) -> str | None:
    """Return the folder that relative locations are below; None where a table is named in a catalog."""
    if config.root is not None:
        return re.sub(image_paths.LOCAL, "", image_paths.absolute(config.root)).rstrip("/")
    if not input_version.is_path(config.path):
        return None
    path = re.sub(image_paths.LOCAL, "", image_paths.absolute(config.path)).rstrip("/")
    if (folder := empty_files.folder_of(path)) != path:
        return folder
    return path.rpartition("/")[0]


def _words(found: DataFrame, separator: str) -> Column:
    tags = F.col("tags")
    if found.schema["tags"].dataType.simpleString() == "string":
        tags = F.split(tags, rf"\Q{separator}\E")
    return F.filter(F.transform(tags, lambda tag: F.trim(F.make_valid_utf8(tag))), lambda tag: tag != "")
