"""What the kinds' sections ``evaluate`` have in common: gates on figures, a map, labels of ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from embedall_spark.config import MOVABLE, Section
from embedall_spark.errors import ConfigError, TooFewIds
from embedall_spark.sources import metadata as metadata_source
from embedall_spark.sources.metadata import Metadata
from embedall_spark.visualize import scatter_map

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run


def _two_or_none(value: int) -> int:
    if value == 1:
        raise ValueError("need two or more, or 0 for none")
    return value


TwoOrNone = Annotated[int, AfterValidator(_two_or_none)]
MapSize = Annotated[TwoOrNone, Field(ge=0, le=scatter_map.MAX_IDS)]


class Evaluation(Section):
    """Base of every kind's section ``evaluate``."""

    gates: dict[str, float] = Field(
        {},
        description="least value of a figure, by its name; below it the table is left as it was",
        json_schema_extra=MOVABLE,
    )

    def check_gates(self, figures: Iterable[str], otherwise: str = "none") -> None:
        """Refuse gates on figures that the run will not have.

        Args:
            figures: the figures that it will have.
            otherwise: what the error says in place of their names where there are none.

        Raises:
            ConfigError: names the gate and the figures.
        """
        known = sorted(figures)
        if unknown := set(self.gates) - set(known):
            names = ", ".join(known) or otherwise
            raise ConfigError(f"evaluate.gates.{min(unknown)}: no such figure (known: {names})")


class LabelledEvaluation(Evaluation):
    """Base of the section where ids may have labels and titles."""

    metadata: Metadata | None = Field(
        None,
        description="labels of ids, to measure purity of neighbors (and classification of nodes) and to color the map, "
        "and titles to show; unset: none. Keys:",
        json_schema_extra=MOVABLE,
    )

    @property
    def has_labels(self) -> bool:
        """Whether the metadata have labels, not only titles."""
        return self.metadata is not None and self.metadata.label is not None

    def check_metadata(self) -> None:
        """Raise ConfigError where the file of labels is missing or of an unknown format."""
        if self.metadata is not None:
            metadata_source.check(self.metadata)


def draw_map(run: Run, vectors: DataFrame, count: int, seed: int, metadata: DataFrame | None = None) -> None:
    """Record a map of ``count`` ids as ``map.png``; none for 0, or where there are fewer than two vectors.

    Args:
        run: where the picture goes.
        vectors: VECTORS.
        count: ids on the map.
        seed: of their layout.
        metadata: id, label and title, to color and caption the ids by.
    """
    if not count:
        return
    try:
        picture = scatter_map.draw(vectors, count, seed=seed, metadata=metadata)
    except TooFewIds:
        return
    run.artifact("map.png", picture)
