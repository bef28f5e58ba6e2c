"""How a table of pictures was made: the configuration of the run that wrote it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml
from pyspark.sql import functions as F

from embedall_spark import config as configs
from embedall_spark import files, tables
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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
