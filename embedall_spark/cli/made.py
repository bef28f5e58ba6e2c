"""How a table of pictures was made, and where its pictures are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml
from pyspark.sql import functions as F

from embedall_spark import config as configs
from embedall_spark import files, schemas, tables
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.images.decode import Limits
    from embedall_spark.kinds import images


def by(spark: SparkSession, table: str, instead: str) -> images.Config:
    """Return the configuration of the run of ``embedall images`` that has made a table.

    Args:
        spark: the session.
        table: the table.
        instead: the option to give where there is no such run.

    Raises:
        ConfigError: no run of ours has made the table of pictures, or its folder is gone.
    """
    from embedall_spark.kinds import images

    commit = tables.history(spark, table).where("run_id is not null").orderBy(F.desc("version")).first()
    made = json.loads(commit["metadata"]) if commit else {}
    if made.get("kind") != "images" or "run_folder" not in made:
        raise ConfigError(f"{table} was not made by 'embedall images'; give {instead}")
    file = f"{made['run_folder']}/config.yaml"
    try:
        return configs.parse(images.Config, yaml.safe_load(files.read_bytes(file)))
    except OSError:
        raise ConfigError(f"{file}: the configuration of the run that made {table} is gone; give {instead}") from None


def embedded(spark: SparkSession, table: str, path: str) -> NDArray[np.float32]:
    """Return the vector of a picture in a file, by the network that has made a table, float32 [d].

    Raises:
        ConfigError: as by().
        BadData: the file cannot be read, or is not a picture that can be used.
    """
    from embedall_spark.kinds import images

    return images.embed_file(by(spark, table, "--id or --vector"), path)


def pictures(spark: SparkSession, table: str, folder: str | None, pattern: str) -> tuple[DataFrame, Limits]:
    """Return IMAGES of a table's ids, or more, and the limits of what is decoded.

    Args:
        spark: the session.
        table: the table.
        folder: where the pictures lie; none: where the run that made the table had them from.
        pattern: the path below the folder, with ``{id}`` in it.

    Raises:
        ConfigError: as by(), where there is no folder.
        BadData: there are no pictures any more where the run had them from.
    """
    from embedall_spark.images.decode import Limits
    from embedall_spark.sources import images

    if folder is None:
        config = by(spark, table, "--images FOLDER")
        return images.read(spark, config.input), config.input.limits
    # An id comes from data, and must not lead out of the folder.
    inside = ~F.array_contains(F.split("id", "/"), "..")
    path = F.concat(F.lit(f"{folder.rstrip('/')}/"), F.replace(F.lit(pattern), F.lit("{id}"), F.col("id")))
    rows = tables.read(spark, table).where(inside).select("id", path.alias("path"))
    return schemas.conform(rows, schemas.IMAGES), Limits()
