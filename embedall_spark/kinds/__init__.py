"""The kinds of things that can be embedded: one file per kind, and this folder is their registry.

``Kind`` says what such a file has; ``embed`` is the method. Files whose names begin with ``_`` are no kinds.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.config import Section
    from embedall_spark.run_context import Run


class Kind(Protocol):
    """The functions of a kind's module."""

    Config: type[Section]

    def check(self, config: Any) -> None:
        """Raise ConfigError where options contradict each other or files are missing, before Spark starts."""

    def read(self, spark: SparkSession, config: Any) -> Any:
        """Return the input as a table, or what embed() takes in its place."""

    def version(self, spark: SparkSession, config: Any) -> str:
        """Return a text that changes when the input does."""

    def vector_size(self, spark: SparkSession, config: Any) -> int | None:
        """Return the length of the vectors; None where embed() chooses it."""

    def estimate(self, spark: SparkSession, config: Any) -> dict[str, float]:
        """Return estimated costs of a run: tokens, seconds, memory and disk of a worker."""

    def embed(self, run: Run, inputs: Any, config: Any) -> DataFrame:
        """Return VECTORS of the input."""

    def evaluate(self, run: Run, vectors: DataFrame, config: Any) -> dict[str, float]:
        """Return figures of quality; record pictures."""


def names() -> list[str]:
    """Return the names of the kinds, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> Kind:
    """Return the module of a kind."""
    return cast("Kind", import_module(f"{__name__}.{name}"))
