"""The version of the table that a run's training starts from, which is part of the run's configuration."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from embedall_spark import files, kinds, run_manifest, tables
from embedall_spark.errors import ConfigError
from embedall_spark.train import warm_start
from embedall_spark.train.config import TrainConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


def resolve(
    spark: SparkSession, kind: str, root: str, config: Any, run_id: str | None, publishes: str | None
) -> tuple[Any, str | None]:
    """Return the configuration with the version to start from: a resumed run's, or the latest.

    In the first night of a run that publishes to the table that it starts from, there is no such table: training then
    starts from nothing, with a warning. The second value returned is then the table's name, else None.

    Args:
        spark: the session.
        kind: of the run.
        root: the folder of the runs.
        config: of the run.
        run_id: its name, or None.
        publishes: the table that the run's is published to, by itself or by a later step of its pipeline; or None.

    Raises:
        BadData: there is no such table or version.
        ConfigError: its vectors do not fit, or were trained by another method.
    """
    train = getattr(config, "train", None)
    if not isinstance(train, TrainConfig) or train.start is None:
        return config, None
    name, version = files.table_and_version(train.start)
    if version is None:
        # A run that was killed may have published a newer version itself.
        inputs = kinds.load(kind).version(spark, config)
        for start in run_manifest.starts(root, name, run_id):
            choice = _starting_from(config, start) if start != name else without(config)
            if run_id is not None or run_manifest.unfinished(root, kind, choice, inputs) is not None:
                return choice, name if start == name else None
        latest = tables.version(spark, name)
        if latest is None and publishes is not None and files.input_path(publishes).rstrip("/") == name.rstrip("/"):
            log.warning(
                "train.start=%s: there is no such table yet; this run is to be its first version and starts from "
                "random vectors", name,
            )  # fmt: skip
            return without(config), name
        config = _starting_from(config, name if latest is None else f"{name}@{latest}")
    warm_start.read(spark, config.train)
    _check_method(spark, name, config.train)
    return config, None


def without(config: Any) -> Any:
    """Return a configuration that starts from no table, with the defaults of such a training."""
    train = getattr(config, "train", None)
    if not isinstance(train, TrainConfig) or train.start is None:
        return config
    return config.model_copy(update={"train": train.without_start()})


def _check_method(spark: SparkSession, table: str, train: TrainConfig) -> None:
    """Raise ConfigError if a table was trained by another method, so that its vectors mean something else."""
    folder = run_manifest.producer_of(spark, table).get("run_folder")
    if folder is None or not files.exists(f"{folder}/{run_manifest.FILE}"):
        return
    made = run_manifest.read(folder)["config"]
    wanted: dict[str, str] = {"train.method": train.method}
    if train.method == "glove":
        wanted["train.glove.vector"] = train.glove.vector
    for name, value in wanted.items():
        if made.get(name, value) != value:
            raise ConfigError(
                f"train.start={train.start}: the table was made with {name}={made[name]}, and here it is {value}; set "
                "it as it was, or leave train.start out"
            )


def _starting_from(config: Any, start: str) -> Any:
    return config.model_copy(update={"train": config.train.model_copy(update={"start": start})})
