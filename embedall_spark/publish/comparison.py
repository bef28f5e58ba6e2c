"""A candidate beside the published version: the rotation onto it, and how far readers will see things move."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from embedall_spark.publish import drift, procrustes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame

    from embedall_spark.publish.drift import Drift
    from embedall_spark.publish.procrustes import Rotation

log = logging.getLogger(__name__)


class Comparison(NamedTuple):
    """What two tables of vectors have to do with each other."""

    rotation: Rotation | None
    drift: Drift
    rows: DataFrame
    """DRIFT."""


@contextmanager
def compare(candidate: DataFrame, published: DataFrame, *, rotate: bool = True) -> Iterator[Comparison]:
    """Return a comparison of two tables of VECTORS, whose joined rows are kept until the block ends.

    Args:
        candidate: the new table.
        published: the one before.
        rotate: whether the candidate is rotated; else its vectors are compared as they are.

    Raises:
        ConfigError: the tables differ in dimension.
        BadData: a table is empty, or they share too few ids for a rotation.
    """
    size = procrustes.same_dimension(candidate, published)
    # A row that stands for an id that no longer occurs is no part of the version before.
    pairs = procrustes.pair(candidate, published.where("count IS NULL OR count > 0")).persist()
    try:
        rotation = procrustes.fit(pairs, size) if rotate else None
        if rotation is not None:
            log.info("rotation: %s anchors, mean cosine %.4f", f"{rotation.anchors:,}", rotation.fit)
        matrix = None if rotation is None else rotation.matrix
        rows = drift.table(pairs, matrix)
        yield Comparison(rotation, drift.measure(pairs, matrix, rows), rows)
    finally:
        pairs.unpersist()
