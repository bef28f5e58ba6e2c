"""K-means over unit vectors, by pyspark.ml, and the members nearest to each center."""

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

from embedall_spark import randomness, vectors
from embedall_spark.errors import BadData, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

MAX_CENTER_BYTES = 64 << 20  # centers are sent to the tasks
_ROWS_PER_TASK = 5_000
_MAX_TASKS = 2_000
_MAX_RESTARTED = 200_000
_RESULT = "id string, cluster int, distance double"


def fit(table: DataFrame, k: int, seed: int = 1, *, restarts: int | None = None, iterations: int = 50) -> DataFrame:
    """Return the cluster of every id: id, cluster (int, 0 is the largest), distance (double).

    K-means|| (Bahmani et al. 2012, "Scalable K-Means++") from ``restarts`` initializations; the result with the least
    sum of squared distances is kept. Rows are partitioned by a hash of their ids and sorted, so that the input's
    partitioning changes nothing but rounding: the last digits of ``distance``, and rows with equal distances to two
    centers. Equal vectors share a cluster, so there are at most as many clusters as different vectors.

    Args:
        table: VECTORS; ``id`` and ``vector`` are read. A vector of zeros stays one.
        k: how many clusters.
        seed: of the initializations.
        restarts: how many initializations; unset: 4 for up to _MAX_RESTARTED rows, 1 for more, whose results differ
            less.
        iterations: at most, of each initialization.

    Returns:
        ``distance`` is Euclidean, from the unit vector to the center of its cluster (0 to 2).

    Raises:
        ConfigError: ``k`` is under 2, or its centers take more than MAX_CENTER_BYTES.
        BadData: there are fewer rows than ``k``; vectors differ in dimension or are not finite.
    """
    rows, size = _shape(table, k)
    if k * size * 8 > MAX_CENTER_BYTES:
        limit = MAX_CENTER_BYTES // (8 * size)
        raise ConfigError(f"k = {k:,}: for centers of {size} dimensions at most k = {limit:,} is possible; lower -k")
    restarts = restarts or (4 if rows <= _MAX_RESTARTED else 1)
    tasks = min(_MAX_TASKS, -(-rows // _ROWS_PER_TASK))
    features = table.select("id", array_to_vector(F.col("vector")).alias("raw"))
    partitions = features.repartition(tasks, F.xxhash64("id")).sortWithinPartitions("id")
    units = Normalizer(p=2.0, inputCol="raw", outputCol="features").transform(partitions).select("features").persist()
    try:
        # The jobs of one fit are short and run one after the other, so that a small table would leave most cores idle.
        with ThreadPoolExecutor(restarts) as executor:
            seeds = [randomness.mix(seed, restart) >> 1 for restart in range(restarts)]
            models = list(executor.map(lambda seed: _fit(units, k, seed, iterations), seeds))
    finally:
        units.unpersist()
    model = min(models, key=lambda model: float(model.summary.trainingCost))
    centers, sizes = np.array(model.clusterCenters()), list(model.summary.clusterSizes)
    if len(centers) < k:
        log.warning("clusters: %d instead of %d, because there are so few different vectors", len(centers), k)
    order = sorted(range(len(centers)), key=lambda cluster: (-sizes[cluster], tuple(centers[cluster])))
    log.info("clusters: sizes from %d to %d", sizes[order[0]], sizes[order[-1]])
    return table.select("id", "vector").mapInArrow(_assigner(centers[order]), _RESULT)


def nearest(assignments: DataFrame, n: int = 10) -> DataFrame:
    """Return the ``n`` members of each cluster that are nearest to its center: cluster, rank (from 1), id, distance.

    Args:
        assignments: as fit() returns them, or CLUSTERS.
        n: how many; ties are in the order of ids.
    """
    rank = F.row_number().over(Window.partitionBy("cluster").orderBy("distance", "id")).alias("rank")
    return assignments.select("cluster", rank, "id", "distance").where(F.col("rank") <= n)


def _shape(table: DataFrame, k: int) -> tuple[int, int]:
    """Return the number of vectors and their dimension."""
    if k < 2:
        raise ConfigError(f"k = {k}: need 2 clusters or more")
    size, square = F.size("vector"), F.aggregate("vector", F.lit(0.0), lambda total, value: total + value * value)
    row = table.agg(
        F.count("*").alias("rows"),
        F.min(size).alias("smallest"),
        F.max(size).alias("largest"),
        F.count_if(~(square < float("inf"))).alias("infinite"),
    ).first()
    assert row is not None
    rows, smallest, largest, infinite = row
    if rows < k:
        raise BadData(f"k = {k:,} clusters of {rows:,} vectors: need as many vectors as clusters; lower -k")
    if smallest != largest:
        raise vectors.mixed_dimensions(smallest, largest)
    if infinite:
        raise BadData(f"{infinite:,} of {rows:,} vectors have a value that is not finite; remove these rows")
    return int(rows), int(largest)


def _fit(units: DataFrame, k: int, seed: int, iterations: int) -> Any:
    return KMeans(k=k, seed=seed, maxIter=iterations, initSteps=5).fit(units)


def _assigner(centers: NDArray[np.float64]) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Build the task's function: the nearest center of each row, in float64 as in the fit; ties to the lower index."""
    squares = (centers**2).sum(axis=1)
    # The matrix of distances takes some 32 MiB.
    step = max(1, (4 << 20) // len(centers))

    def assign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for part in vectors.slices(batches, step):
            points = vectors.unit(vectors.to_matrix(part["vector"])).astype(np.float64)
            cluster = (squares - 2 * (points @ centers.T)).argmin(axis=1)
            distance = np.linalg.norm(points - centers[cluster], axis=1)
            columns = [part["id"], pa.array(cluster, pa.int32()), pa.array(distance)]
            yield pa.RecordBatch.from_arrays(columns, ["id", "cluster", "distance"])

    return assign
