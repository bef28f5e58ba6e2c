"""Pictures that a table holds, or tells the places of, with their titles, tags and labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark.sources import expressions, image_paths, input_files, input_version, tabular
from embedall_spark.sources.expressions import problem
from embedall_spark.sources.image_config import COLUMNS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from embedall_spark.sources.image_config import ImagesConfig


# What stands before an @ is a container on Azure, unless it holds a colon.
_USER = "://[^/@]*:[^/@]*@"
_QUERY = "^[A-Za-z][A-Za-z0-9+.-]*://[^?]*[?]"


def read(spark: SparkSession, config: ImagesConfig) -> DataFrame:
    """Return id, content or path, the other columns, origin and problem of each row, lazily; ids may be shared.

    Raises:
        BadData: there is nothing at the path, or nothing in it, or it is of another format.
        SchemaMismatch: a column is missing or of a wrong type.
    """
    assert config.format in ("delta", "parquet", "csv", "json")
    columns = {f"input.{name}": key for name in ("id", *COLUMNS) if (key := getattr(config, name)) is not None}
    types = {"input.content": ["binary"], "input.tags": ["array<string>", "string"]}
    rows = tabular.read(
        spark, config.path, config.format, columns, types={key: types[key] for key in types if key in columns},
        separator=config.separator, header=config.header, multiline=config.multiline, encoding=config.encoding,
    )  # fmt: skip
    location = F.col("location") if config.location else expressions.null()
    identity = F.col("id") if config.id else location
    size = F.octet_length("content") if config.content else F.lit(None).cast("int")
    record = F.coalesce(identity, location, F.concat(size.cast("string"), F.lit(" bytes")), F.lit("null"))
    need = config.id or config.location
    reason = F.coalesce(
        F.col("problem"),
        F.when(F.coalesce(identity, F.lit("")) == "", problem(f"{need} is null or empty", record)),
        _location_problem(config, location, record) if config.location else _content_problem(config, size, record),
    )
    values = {"content": F.when(reason.isNull(), F.col("content"))} if config.content else {}
    values["path"] = F.when(reason.isNull(), place_of(config, location))
    values |= {name: F.col(name) for name in ("title", "label") if getattr(config, name)}
    if config.tags:
        values["tags"] = expressions.tags(F.col("tags"), rows.schema["tags"].dataType, config.tags_separator)
    named = [value.alias(name) for name, value in values.items()]
    return rows.select(identity.alias("id"), *named, "origin", reason.alias("problem"))


def _content_problem(config: ImagesConfig, size: Column, record: Column) -> Column:
    missing = F.when(size.isNull(), problem(f"{config.content} is null", record))
    return F.coalesce(missing, image_paths.size_problem(size, config.limits.max_bytes, record))


def _location_problem(config: ImagesConfig, location: Column, record: Column) -> Column:
    # Refused rows are stored, and shall not spread what is secret.
    public = F.regexp_replace(F.regexp_replace(location, _USER, "://***@"), "[?].*", "?***")
    problems = [
        F.when(F.coalesce(location, F.lit("")) == "", problem(f"{config.location} is null or empty", record)),
        F.when(location.rlike("(?i)^https?:"), problem("pictures are not fetched from the web", public)),
        F.when(location.rlike(_USER), problem("a location with credentials", public)),
        F.when(location.rlike(_QUERY), problem("a location with a query, which could name another endpoint", public)),
        F.when(_is_foreign(config, location), problem("a host that neither the table nor input.root is on", public)),
    ]
    if _base(config) is None:
        relative = ~location.rlike(f"{image_paths.SCHEME}|^/")
        problems.append(F.when(relative, problem("relative location in a table without a folder", location)))
    return F.coalesce(*problems)


def _is_foreign(config: ImagesConfig, location: Column) -> Column:
    """Return whether a location names a host of its own: buckets and what the configuration names are none."""
    base = _base(config) or ""
    own = re.match(r"[A-Za-z][\w+.-]*://[^/]*", base)
    hosts = F.regexp_extract(location, r"^([A-Za-z][A-Za-z0-9+.-]*://[^/]*)", 1)
    return ~hosts.isin("", "file://", own[0] if own else "") & ~hosts.rlike("^(?:s3[an]?|gs)://|^(?:hdfs|viewfs)://$")


def place_of(config: ImagesConfig, location: Column) -> Column:
    """Return where a location lies: as it is written, or below the root."""
    base = _base(config)
    if base is None:
        return location
    if re.match(image_paths.SCHEME, base) and not base.startswith("dbfs:"):
        # Below a URI blanks and the like are encoded.
        base = image_paths.encoded(base)
        below = F.replace(F.replace(F.url_encode(location), F.lit("+"), F.lit("%20")), F.lit("%2F"), F.lit("/"))
    else:
        below = location
    return F.when(location.rlike(f"{image_paths.SCHEME}|^/"), location).otherwise(F.concat(F.lit(f"{base}/"), below))


def _base(config: ImagesConfig) -> str | None:
    """Return the folder that relative locations are below; None where a table is named in a catalog."""
    if config.root is not None:
        return re.sub(image_paths.LOCAL, "", input_files.absolute(config.root)).rstrip("/")
    if not input_version.is_path(config.path):
        return None
    path = re.sub(image_paths.LOCAL, "", input_files.absolute(config.path)).rstrip("/")
    if (folder := input_files.folder_of(path)) != path:
        return folder
    return path.rpartition("/")[0]
