"""How far a new version of a table has moved from the one before: by id, in its neighborhoods, in its ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.publish import procrustes
from embedall_spark.vectors import to_matrix, unit

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


def table(candidate: DataFrame, published: DataFrame, matrix: NDArray[np.float64]) -> DataFrame:
    """Return DRIFT: each id of either table, its cosine to its earlier vector, and whether it is new or lost."""
    rows = procrustes.cosines(candidate, published, matrix).withColumn("status", F.lit("shared"))
    new = candidate.join(published.select("id"), "id", "left_anti").select("id", "count")
    lost = published.join(candidate.select("id"), "id", "left_anti").select("id", "count")
    for part, status in ((new, "new"), (lost, "lost")):
        rows = rows.unionByName(part.withColumns({"cosine": F.lit(None).cast("double"), "status": F.lit(status)}))
    return rows


def measure(candidate: DataFrame, published: DataFrame, drift: DataFrame) -> Drift:
    """Return what a drift table, and the neighborhoods of frequent ids, say.

    Args:
        candidate: VECTORS; neighbors do not depend on its rotation.
        published: VECTORS.
        drift: DRIFT of the two.
    """
    quartiles = F.percentile_approx("cosine", [0.25, 0.5, 0.75], 10_000).alias("quartiles")
    counts = {
        row["status"]: row for row in drift.groupBy("status").agg(F.count("*").alias("rows"), quartiles).collect()
    }
    shared, new, lost = (int(counts[status]["rows"]) if status in counts else 0 for status in ("shared", "new", "lost"))
    frequent = drift.where("status = 'shared'").orderBy(F.desc_nulls_last("count"), F.xxhash64("id"), "id")
    table = frequent.limit(MAX_QUERIES).select("id", "count", "cosine").toArrow()
    ids = drift.sparkSession.createDataFrame(table.select(["id"]))
    before, after = (_units(vectors, ids) for vectors in (published, candidate))
    overlaps = overlap(before, after)
    return Drift(
        float(overlaps.mean()) if len(overlaps) else float("nan"),
        float(overlaps.std(ddof=1) / np.sqrt(len(overlaps))) if len(overlaps) > 1 else float("nan"),
        shared, new, lost, lost / max(1, shared + lost),
        tuple(counts["shared"]["quartiles"]) if shared else (float("nan"),) * 3,
        table,
    )  # fmt: skip


def _units(vectors: DataFrame, ids: DataFrame) -> NDArray[np.float32]:
    """Return the vectors of some ids at length 1 in the order of the ids, float32 [n, d]."""
    rows = vectors.select("id", "vector").join(ids, "id", "left_semi").toArrow().sort_by("id")
    return unit(to_matrix(rows["vector"])) if len(rows) else np.zeros((0, 0), np.float32)


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
