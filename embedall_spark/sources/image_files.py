"""The pictures below a folder or glob, listed by Spark and not opened: ids, places and problems."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark.errors import BadData
from embedall_spark.sources import empty_files, image_paths, reader_errors

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from embedall_spark.sources.images import ImagesConfig


def read(spark: SparkSession, config: ImagesConfig) -> DataFrame:
    """Return id, path, origin and problem of each picture, lazily; ids may be shared where they are names.

    The ids' root is the folder itself, the folder of a single file, or a glob's last folder before its first wildcard.

    Raises:
        BadData: there is nothing at the path, or no picture.
    """
    path = image_paths.absolute(config.path)
    reader = reader_errors.strict(spark).format("binaryFile").option("recursiveFileLookup", True)
    # Without its contents, a file is not opened.
    columns = ("path", "length", reader_errors.origin())
    listed = reader_errors.opened(config.path, "files", lambda: reader.load(path).select(*columns), "file")
    inside = F.regexp_replace("path", image_paths.AUTHORITY, "")
    below = F.substr(inside, F.lit(len(_root(listed, inside, path, config)) + 2))
    name = F.regexp_replace(F.element_at(F.split("path", "/"), -1), r"\.[^.]+$", "")
    # Hadoop's names of files are not URIs: blanks and the like are not encoded, as in those of mounts and local files.
    plain = F.regexp_replace("path", image_paths.LOCAL, "")
    place = F.when(plain.rlike("^(/|dbfs:)"), plain).otherwise(F.col("origin"))
    problem = image_paths.size_problem(F.col("length"), config.limits.max_bytes, below)
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
        endings = ", .".join(config.suffixes)
        raise BadData(f"{config.path}: no file of more than 0 bytes ends in .{endings}; correct path or suffixes")
    root = re.sub(image_paths.AUTHORITY, "", path).rstrip("/")
    # A file, which lies in its folder, is the only one.
    return root.rpartition("/")[0] if first["inside"] == root else empty_files.folder_of(root)


def _is_picture(config: ImagesConfig) -> Column:
    ending = "|".join(re.escape(suffix.lstrip(".")) for suffix in config.suffixes)
    return F.col("path").rlike(rf"(?i)\.({ending})$")
