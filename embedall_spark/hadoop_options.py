"""Options of Hadoop that Spark was given (``spark.hadoop.*``, core-site.xml), for Python's clients of driver and tasks.

Spark hands its session's settings to every task, so nothing is written down and nothing travels with a function.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import SparkSession

_PREFIX = "spark.hadoop."
_STORAGE = ("fs.", "dfs.", "hadoop.security.")
_VARIABLE = "EMBEDALL_HADOOP_OPTIONS"


class _Options(dict[str, str]):
    """Options by name, some of which are secret."""

    def __repr__(self) -> str:
        return f"{len(self)} options of Hadoop"


# Of this process, where it is no task: its session's, or those that its parent has handed to it.
_own = _Options()


def remember(settings: Mapping[str, str]) -> None:
    """Keep the options among the settings of Spark for this process."""
    found = {key.removeprefix(_PREFIX): value for key, value in settings.items() if key.startswith(_PREFIX)}
    _own.clear()
    _own.update({name: value for name, value in found.items() if name.startswith(_STORAGE)})


def remember_those_of(spark: SparkSession) -> SparkSession:
    """Keep the options of a session for this process; return the session.

    What only Hadoop's own files say becomes settings of the session, which reach the tasks.
    """
    from pyspark.errors import PySparkException

    from embedall_spark import hadoop_site

    # A platform that hides its settings has storage of its own.
    with suppress(PySparkException):
        for name, value in hadoop_site.options(spark).items():
            spark.conf.set(f"{_PREFIX}{name}", value)
        remember(spark.conf.getAll)
    return spark


def get(name: str) -> str | None:
    """Return an option as this task's session or this process has it; None where Spark was not told."""
    # Some processes of ours never import it.
    pyspark = sys.modules.get("pyspark")
    task = pyspark.TaskContext.get() if pyspark is not None else None
    value = _own.get(name) if task is None else task.getLocalProperty(f"{_PREFIX}{name}")
    return value or None


def handed_over() -> dict[str, str]:
    """Return the environment variable that hands this process's options to a process that it starts."""
    return {_VARIABLE: json.dumps(_own)} if _own else {}


def accept() -> None:
    """Take the options that the parent process has handed over, and remove them from the environment."""
    _own.update(json.loads(os.environ.pop(_VARIABLE, "{}")))
