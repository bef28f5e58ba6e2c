"""Checks of the paths that a run reads and writes, before Spark starts."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from typing import TYPE_CHECKING

from embedall_spark import cluster_slots, files
from embedall_spark import config as configs
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from embedall_spark.config import Section


def check(config: Section, run_root: str, store: str | None) -> None:
    """Check every path of a configuration.

    Args:
        config: of the run; its keys declared as InputPath and OutputPath are looked at.
        run_root: the folder of the runs.
        store: the local file of MLflow's default store; None if the store is elsewhere.

    Raises:
        ConfigError: an output lies inside an input, so that the run would read what it writes; an output lies below a
            file; or a Parquet file has a name that Hadoop cannot read.
    """
    inputs = configs.paths(config, configs.InputPath)
    outputs = configs.paths(config, configs.OutputPath) | {"output.run_root": run_root}
    if store is not None:
        outputs["MLflow's store"] = store
    for key, path in outputs.items():
        _check_parents(key, path)
    for key, path in inputs.items():
        for output, written in outputs.items():
            _check_apart(key, path, output, written)
        if getattr(getattr(config, "input", None), "format", None) == "parquet":
            _check_names(key, path)


def _check_parents(key: str, path: str) -> None:
    """Raise ConfigError if the path lies below a file."""
    if not files.is_path(path) or not files.is_local(path):
        return
    parent = os.path.dirname(files.resolve(path.rstrip("/"))[1])
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise ConfigError(f"{key}: {path} lies below {parent}, which is a file; choose another folder")


def _check_apart(key: str, read: str, output: str, written: str) -> None:
    """Raise ConfigError if what is written is, or lies inside, what is read."""
    pattern, parts = _parts(read), _parts(written)
    if len(parts) < len(pattern) or not all(map(fnmatch.fnmatchcase, parts, pattern)):
        return
    # Spark's readers skip hidden files and folders.
    if any(part.startswith(".") for part in parts[len(pattern) :]):
        return
    if len(parts) == len(pattern):
        raise ConfigError(f"{output}: {written} is what {key} reads; a run cannot replace its input: choose another")
    # As the input's own files end, so that the advice holds for pictures too.
    names = files.children(read) if files.is_local(read) and os.path.isdir(files.resolve(read)[1]) else []
    endings = Counter(ending for name in names if (ending := os.path.splitext(name)[1]))
    ending = endings.most_common(1)[0][0] if endings else ".txt"
    raise ConfigError(
        f"{output}: {written} lies inside {key} ({read}), so the run would read what it writes; write to another "
        f"folder, or let {key} name the input's files only, such as {read.rstrip('/')}/*{ending}"
    )


def _parts(path: str) -> list[str]:
    """Return the parts of a path, of a URI with its scheme, or of a table's name."""
    if not files.is_path(path) and not os.path.exists(path):
        return [path]
    if files.is_local(path):
        local = files.resolve(path)[1]
        # A path that exists as it is written is no glob.
        return (glob.escape(local) if os.path.exists(local) else local).strip("/").split("/")
    return re.sub(r"^s3[an]:", "s3:", path).rstrip("/").split("/")


def _check_names(key: str, path: str) -> None:
    """Raise ConfigError if a local input file directly in the path has a colon in its name, a limit of Hadoop."""
    if not files.is_path(path) or not files.is_local(path):
        return
    local = files.resolve(path)[1]
    for name in os.listdir(local) if os.path.isdir(local) else [local, *glob.iglob(local)]:
        if ":" in os.path.basename(name):
            raise ConfigError(f"{key}: Spark (Hadoop) cannot read a file with a colon in its name: rename {name}")


def check_run_id(run_id: str | None) -> None:
    """Raise ConfigError if a run's id cannot be the name of its folder."""
    if run_id is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}", run_id):
        raise ConfigError(
            f"--run-id {run_id!r}: need at most 200 letters, digits and _ . : + @ = - (no slash or blank), "
            "beginning with a letter, a digit or _"
        )


def check_root(spark: SparkSession, root: str) -> None:
    """Refuse a relative folder where tasks run on other hosts, which know nothing of this one's working folder."""
    if cluster_slots.local(spark) is not None or has_scheme(root) or root.startswith("/"):
        return
    raise ConfigError(
        f"output.run_root: {root} is relative, and tasks run on other hosts: give a path or URI that all hosts share"
    )


def has_scheme(folder: str) -> bool:
    """Tell whether a folder is a URI."""
    return "://" in folder or folder.startswith(("file:", "dbfs:"))
