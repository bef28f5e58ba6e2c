"""How far a new version of a table has moved from the one before: by id, in its neighborhoods, in its ids."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.publish import procrustes
from embedall_spark.vectors import in_batches, to_matrix, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

MAX_QUERIES = 10_000  # most frequent ids whose neighborhoods are compared: the driver holds their vectors, twice
_BLOCK = 1024  # queries whose products with all others are held at once
SHOWN = 10


class Drift(NamedTuple):
    """What readers of a table will notice."""

    overlap: float
    """Mean share of an id's 10 nearest neighbors that it had before, among the 10,000 most frequent ids of both."""
    overlap_error: float
    """Standard error of this mean."""
    shared: int
    new: int
    lost: int
    lost_share: float
    """Of the published ids."""
    quartiles: tuple[float, float, float]
    """Of the shared ids' cosines to their earlier vectors."""
    frequent: pa.Table
    """id, count and cosine of the ids that the overlap is measured on."""

    @property
    def moved(self) -> list[tuple[str, float]]:
        """Those of the frequent ids that have moved most, and their cosines."""
        rows = self.frequent.sort_by([("cosine", "ascending"), ("id", "ascending")]).slice(0, SHOWN)
        return list(zip(rows["id"].to_pylist(), rows["cosine"].to_pylist(), strict=True))

    def metrics(self) -> dict[str, float]:
        """Return the figures for MLflow."""
        return {
            "publish/overlap_10": self.overlap,
            "publish/lost_share": self.lost_share,
            "publish/new": float(self.new),
            "publish/cosine_median": self.quartiles[1],
        }


def table(pairs: DataFrame, matrix: NDArray[np.float64] | None) -> DataFrame:
    """Return DRIFT of procrustes.pair(): each id, its cosine to its earlier vector, and whether it is new or lost."""
    status = F.when(F.col("x").isNull(), "lost").when(F.col("y").isNull(), "new").otherwise("shared")
    rows = pairs.select("id", "count", "x", "y", status.alias("status"))
    return rows.mapInArrow(in_batches(partial(_drift, matrix), procrustes.ROWS), f"{procrustes.COSINES}, status string")


def _drift(matrix: NDArray[np.float64] | None, batch: pa.RecordBatch) -> pa.RecordBatch:
    return procrustes.with_cosines(matrix, batch).append_column("status", batch["status"])


def measure(pairs: DataFrame, matrix: NDArray[np.float64] | None, drift: DataFrame) -> Drift:
    """Return what the ids of two tables, and the neighborhoods of frequent ones, say.

    Args:
        pairs: as procrustes.pair() returns them.
        matrix: the rotation; None: none.
        drift: DRIFT of the pairs.
    """
    quartiles = F.percentile_approx("cosine", [0.25, 0.5, 0.75], 10_000).alias("quartiles")
    counts = {
        row["status"]: row for row in drift.groupBy("status").agg(F.count("*").alias("rows"), quartiles).collect()
    }
    shared, new, lost = (int(counts[status]["rows"]) if status in counts else 0 for status in ("shared", "new", "lost"))
    frequent = pairs.where(procrustes.SHARED).orderBy(F.desc_nulls_last("count"), F.xxhash64("id"), "id")
    rows = frequent.limit(MAX_QUERIES).toArrow()
    table, overlaps = rows.select(["id", "count"]), np.zeros(0)
    cosines = np.zeros(0)
    if len(rows):
        after, before = (to_matrix(rows[name]) for name in ("x", "y"))
        cosines, overlaps = procrustes.cosine(after, before, matrix), overlap(unit(before), unit(after))
    return Drift(
        float(overlaps.mean()) if len(overlaps) else float("nan"),
        float(overlaps.std(ddof=1) / np.sqrt(len(overlaps))) if len(overlaps) > 1 else float("nan"),
        shared, new, lost, lost / max(1, shared + lost),
        tuple(counts["shared"]["quartiles"]) if shared else (float("nan"),) * 3,
        table.append_column("cosine", pa.array(cosines, pa.float64())),
    )  # fmt: skip


def overlap(before: NDArray[np.float32], after: NDArray[np.float32], k: int = 10) -> NDArray[np.float64]:
    """Return for each row the share of its ``k`` nearest other rows by cosine that are the same in both, float64 [n].

    Args:
        before: unit vectors, float32 [n, d].
        after: unit vectors of the same ids, float32 [n, d'].
        k: how many; fewer where there are fewer rows.
    """
    k = min(k, len(before) - 1)
    if k < 1:
        return np.zeros(0)
    shares = []
    for start in range(0, len(before), _BLOCK):
        nearest = [_nearest(units, start, k) for units in (before, after)]
        shares += [len(np.intersect1d(old, new)) / k for old, new in zip(*nearest, strict=True)]
    return np.array(shares)


def _nearest(units: NDArray[np.float32], start: int, k: int) -> NDArray[np.int64]:
    """Return the indexes of the nearest other rows of a block of rows, int64 [block, k]."""
    products = units[start : start + _BLOCK] @ units.T
    rows = np.arange(len(products))
    products[rows, start + rows] = -np.inf
    return np.argpartition(-products, k - 1, axis=1)[:, :k]
