"""Packages that only some work needs, which are extras of this package, and the error where one is missing."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

    from pyspark.sql import SparkSession

TORCH = {"torch": "torch"}
"""What several workers, GPUs and the contrastive refinement need: the extra of each package."""
IMAGES = {"torch": "images", "torchvision": "images"}
"""What networks for pictures need."""


def missing(packages: dict[str, str]) -> str | None:
    """Return which of some packages is not installed here, as ``what; what to do``; None where all are."""
    for package, extra in packages.items():
        if find_spec(package) is None:
            return f"{package} is not installed; pip install 'embedall_spark[{extra}]' on every host"
    return None


def check(packages: dict[str, str], user: str) -> None:
    """Raise ConfigError if one of some packages is not installed here; ``user`` is what needs them. Imports nothing."""
    if (problem := missing(packages)) is not None:
        raise ConfigError(f"{user} needs {problem.replace(' is not', ', which is not')}")


def check_hosts(spark: SparkSession, packages: dict[str, str], user: str) -> None:
    """Raise ConfigError if one of some packages is not installed where Spark's tasks run; ``user`` is what needs them.

    A local master's tasks have the driver's packages, which check() has seen.
    """
    # Pictures are described in processes without Spark.
    from embedall_spark import cluster_slots

    if cluster_slots.local(spark) is not None:
        return
    for host, problem in cluster_slots.problems(spark, partial(missing, packages)):
        raise lacking(host, problem, user)


def lacking(host: str, problem: str, user: str) -> ConfigError:
    """Return the error where the tasks on a host lack a package that ``user`` needs; ``problem`` is missing()'s."""
    there = f", which the Python of Spark's tasks on host {host} lacks"
    return ConfigError(
        f"{user} needs {problem.replace(' is not installed', there)}, or ship it with the job (see "
        "docs/guide/packaging.md)"
    )


def load(module: str, extra: str, user: str) -> ModuleType:
    """Return a module of a package that an extra of this one brings; raise ConfigError if it cannot be imported."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{user} needs {module}, which cannot be imported here ({error}); "
            f"pip install 'embedall_spark[{extra}]' on every host"
        ) from None
