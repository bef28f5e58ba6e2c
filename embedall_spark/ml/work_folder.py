"""Where a fit works: a run's folder, which is removed when the fit ends, and the model's, when the process ends."""

from __future__ import annotations

import atexit
import os
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException

from embedall_spark import cluster_slots, files, run_store
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from embedall_spark.ml.options import HasOptions
    from embedall_spark.run_store import StoredRun

# pyspark.ml keeps what it would otherwise cache in the folder that this variable names.
_VARIABLE = "SPARKML_TEMP_DFS_PATH"


def new(spark: SparkSession, stage: HasOptions) -> str:
    """Return a new folder for a stage's model, which is removed when this process ends.

    Raises:
        ConfigError: the session is a cluster's, and no folder that all hosts share is configured; or the session is one
            of Spark Connect, whose server does not see the folder.
    """
    root = stage.optional("run_root") or os.environ.get(_VARIABLE)
    if root is None and cluster_slots.local(spark) is None:
        raise ConfigError(
            f"{type(stage).__name__}: all hosts need to reach the folder of the fit; set run_root, or the environment "
            f"variable {_VARIABLE}, to a path or URI on shared storage"
        )
    parent = files.scratch("ml").as_posix() if root is None else files.expand_user(root).rstrip("/")
    folder = f"{parent}/{stage.uid}-{uuid.uuid4().hex[:12]}"
    atexit.register(_remove, folder)
    if cluster_slots.is_remote(spark):
        _check_server(spark, stage, folder)
    return folder


def _check_server(spark: SparkSession, stage: HasOptions, folder: str) -> None:
    """Raise ConfigError if Spark does not see a file that this process has written to the folder."""
    files.write_bytes(f"{folder}/probe", b"seen")
    try:
        seen = spark.read.text(files.spark_path(f"{folder}/probe")).collect()
    except PySparkException:
        seen = []
    files.delete(f"{folder}/probe")
    if [row.value for row in seen] != ["seen"]:
        _remove(folder)
        raise ConfigError(
            f"{type(stage).__name__}: the server of Spark Connect does not see {folder}, which this process can write; "
            f"set run_root, or the environment variable {_VARIABLE}, to a path or URI on storage that both share"
        )


@contextmanager
def run(spark: SparkSession, folder: str, max_reject_share: float = 1.0) -> Iterator[StoredRun]:
    """Yield a run whose stages and checkpoints lie in a folder until the block ends; if it fails, all goes."""
    try:
        stored = run_store.local(spark, f"{folder}/run", max_reject_share)
        yield stored
        stored.meter.close()
    except BaseException:
        _remove(folder)
        raise
    _remove(f"{folder}/run")


def _remove(folder: str) -> None:
    with suppress(OSError):
        files.delete(folder)
