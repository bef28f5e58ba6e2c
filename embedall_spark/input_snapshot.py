"""What an input was made of when a run began, so that a retry of the run reads the same although it has moved since.

Of Delta tables that is the version. Of files it is the list, which serves as long as those files are unchanged: what is
usual is that new ones arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedall_spark import tables
from embedall_spark.corpus import increments
from embedall_spark.sources import input_files

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MAX_FILES = 500  # that one glob can name
_LISTED = ("text", "json", "csv", "edgelist")
# Options of sources that name Delta tables, whatever the format of the input itself.
_TABLES = ("deleted", "right", "pairs", "words")


def take(spark: SparkSession, config: Any) -> dict[str, Any]:
    """Return what restore() needs of a run's configuration; empty if only the whole input as it is can be read."""
    source = config.input
    kind = getattr(source, "format", "delta")
    if getattr(source, "incremental", False):
        # What it has read is kept elsewhere.
        return {}
    names = [name for name in _TABLES if getattr(source, name, None)] + (["path"] if kind == "delta" else [])
    snapshot: dict[str, Any] = {"tables": {name: tables.version(spark, getattr(source, name)) for name in names}}
    if kind in _LISTED:
        listed = _listed(source.path)
        snapshot["files"] = listed if len(listed) <= _MAX_FILES else None
    return snapshot


def restore(config: Any, snapshot: dict[str, Any]) -> Any:
    """Return a configuration whose input is what it was; the same one if that cannot be had."""
    source = config.input
    versions = {name: version for name, version in snapshot.get("tables", {}).items() if version is not None}
    changes = {name: f"{getattr(source, name)}@{version}" for name, version in versions.items()}
    if before := snapshot.get("files"):
        then, now = ({tuple(file) for file in listed} for listed in (before, _listed(source.path)))
        if then < now:
            changes["path"] = increments.glob([path for path, _, _ in before])
    return config.model_copy(update={"input": source.model_copy(update=changes)}) if changes else config


def _listed(path: str) -> list[list[Any]]:
    """Return path, size and time of each file, as JSON keeps them."""
    return [list(file) for file in input_files.list_files(path)]
