"""K-means over unit vectors, by pyspark.ml, and the members nearest to each centre."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import Normalizer
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Window
from pyspark.sql import functions as F

from embedall_spark import randomness
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.search import exact
from embedall_spark.search.exact_kernel import unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

MAX_CENTER_BYTES = 64 << 20  # centres travel to the tasks
_ROWS = 5_000  # rows per task
_TASKS = 2_000
_RESTARTED = 200_000
_RESULT = "id string, cluster int, distance double"


def fit(vectors: DataFrame, k: int, seed: int = 1, *, restarts: int | None = None, iterations: int = 50) -> DataFrame:
    """Return the cluster of every id: id, cluster (int, 0 is the largest), distance (double).

    K-means|| (Bahmani et al. 2012, "Scalable K-Means++") begun ``restarts`` times; the one with the least sum of
    squared distances is kept. Rows are dealt to tasks by a hash of their ids and ordered there, so that the input's
    partitioning changes nothing; what is left are roundings of sums, in the last digits of ``distance``, and rows that
    are as near to one centre as to another. Equal vectors share a cluster: where there are fewer different ones
    than ``k``, there are fewer clusters.

    Args:
        vectors: VECTORS; ``id`` and ``vector`` are read. A vector of zeros stays one.
        k: how many clusters.
        seed: of the starts.
        restarts: how many starts; unset: 4 for up to _RESTARTED rows, 1 for more, whose starts differ less.
        iterations: at most, of each start.

    Returns:
        ``distance`` is Euclidean, from the unit vector to the centre of its cluster (0 to 2).

    Raises:
        ConfigError: ``k`` is under 2, or its centres take more than MAX_CENTRE_BYTES.
        BadData: there are fewer rows than ``k``; vectors differ in length or are not finite.
    """
    rows, size = _shape(vectors, k)
    if k * size * 8 > MAX_CENTER_BYTES:
        most = MAX_CENTER_BYTES // (8 * size)
        raise ConfigError(f"k = {k:,}: centres of {size} numbers have room for k = {most:,} at most; ask for fewer")
    restarts = restarts or (4 if rows <= _RESTARTED else 1)
    tasks = min(_TASKS, -(-rows // _ROWS))
    features = vectors.select("id", array_to_vector(F.col("vector")).alias("raw"))
    dealt = features.repartition(tasks, F.xxhash64("id")).sortWithinPartitions("id")
    units = Normalizer(p=2.0, inputCol="raw", outputCol="features").transform(dealt).select("features").persist()
    try:
        # A start's jobs are short and one after the other: of a small table they leave most cores idle.
        with ThreadPoolExecutor(restarts) as beside:
            seeds = [randomness.mix(seed, start) >> 1 for start in range(restarts)]
            found = list(beside.map(lambda one: _start(units, k, one, iterations), seeds))
    finally:
        units.unpersist()
    model = min(found, key=lambda one: float(one.summary.trainingCost))
    centres, sizes = np.array(model.clusterCenters()), list(model.summary.clusterSizes)
    if len(centres) < k:
        log.warning("clusters: %d, not %d, because so few vectors differ", len(centres), k)
    order = sorted(range(len(centres)), key=lambda cluster: (-sizes[cluster], tuple(centres[cluster])))
    log.info("clusters: sizes from %d to %d", sizes[order[0]], sizes[order[-1]])
    return vectors.select("id", "vector").mapInArrow(_assigner(centres[order]), _RESULT)


def nearest(assignments: DataFrame, n: int = 10) -> DataFrame:
    """Return the ``n`` members of each cluster that are nearest to its centre: cluster, rank (from 1), id, distance.

    Args:
        assignments: as fit() returns them, or CLUSTERS.
        n: how many; ties in the order of ids.
    """
    rank = F.row_number().over(Window.partitionBy("cluster").orderBy("distance", "id")).alias("rank")
    return assignments.select("cluster", rank, "id", "distance").where(F.col("rank") <= n)


def _shape(vectors: DataFrame, k: int) -> tuple[int, int]:
    """Return how many vectors there are and how long they are."""
    if k < 2:
        raise ConfigError(f"k = {k}: need 2 clusters or more")
    length, square = F.size("vector"), F.aggregate("vector", F.lit(0.0), lambda total, value: total + value * value)
    found = vectors.agg(
        F.count("*").alias("rows"),
        F.min(length).alias("shortest"),
        F.max(length).alias("longest"),
        F.count_if(~(square < float("inf"))).alias("endless"),
    ).first()
    assert found is not None
    rows, shortest, longest, endless = found
    if rows < k:
        raise BadData(f"k = {k:,} clusters of {rows:,} vectors: need as many vectors as clusters; ask for fewer")
    if shortest != longest:
        raise BadData(f"vectors of {shortest} and of {longest} numbers; one length per table is needed")
    if endless:
        raise BadData(f"{endless:,} of {rows:,} vectors hold a number that is not finite; leave these out")
    return int(rows), int(longest)


def _start(units: DataFrame, k: int, seed: int, iterations: int) -> Any:
    return KMeans(k=k, seed=seed, maxIter=iterations, initSteps=5).fit(units)


def _assigner(centres: NDArray[np.float64]) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Build the task's function: the nearest centre of each row, float64 as in the fit, ties to the lower number."""
    squares = (centres**2).sum(axis=1)
    # The matrix of distances is kept to some 32 MiB.
    step = max(1, (4 << 20) // len(centres))

    def assign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                points = unit(exact.to_matrix(part["vector"])).astype(np.float64)
                cluster = (squares - 2 * (points @ centres.T)).argmin(axis=1)
                distance = np.linalg.norm(points - centres[cluster], axis=1)
                columns = [part["id"], pa.array(cluster, pa.int32()), pa.array(distance)]
                yield pa.RecordBatch.from_arrays(columns, ["id", "cluster", "distance"])

    return assign
