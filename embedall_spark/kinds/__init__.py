"""The kinds of things that can be embedded: one file per kind, and this folder is their registry.

``Kind`` says what a file offers; ``embed`` is the method.
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
    """What a file in this folder offers."""

    Config: type[Section]

    def check(self, config: Any) -> None:
        """Raise what is wrong with the configuration beyond its own values, before Spark starts."""

    def read(self, spark: SparkSession, config: Any) -> DataFrame:
        """Return the input as a table."""

    def version(self, spark: SparkSession, config: Any) -> str:
        """Return what changes when the input does."""

    def vector_size(self, spark: SparkSession, config: Any) -> int | None:
        """Return the length of the vectors; None where embed() chooses it."""

    def estimate(self, spark: SparkSession, config: Any) -> dict[str, float]:
        """Return about what a run costs: tokens, seconds, memory and disk of a worker."""

    def embed(self, run: Run, inputs: DataFrame, config: Any) -> DataFrame:
        """Return VECTORS of what is in the input."""

    def evaluate(self, run: Run, vectors: DataFrame, config: Any) -> dict[str, float]:
        """Return figures of quality, and record pictures."""


def names() -> list[str]:
    """Return the kinds: one per file in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Kind:
    """Return the module of the kind called ``name``."""
    return cast("Kind", import_module(f"{__name__}.{name}"))
