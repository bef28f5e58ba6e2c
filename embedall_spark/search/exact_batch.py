"""The nearest neighbors of many queries at once, as one Spark job: exact, by cosine or CSLS."""

from __future__ import annotations

import heapq
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Window
from pyspark.sql import functions as F

from embedall_spark import cluster_slots, files
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.schemas import NEIGHBORS, conform
from embedall_spark.search import csls, exact, mapped_vectors
from embedall_spark.search.faiss_exact import QUERIES, nearest
from embedall_spark.vectors import dimension

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.search.mapped_vectors import Packed, Source

    Batches = Iterable[pa.RecordBatch]

MAX_K = 10_000
_MIN_SPREAD = 4096  # queries from which on the products cost more than spreading the vectors evenly
_MAX_UNEVEN = 1.05  # how much longer than the mean the last core may work before rows are spread
_TASK_ROWS = 4_000_000  # whose ids fit in a task's memory
HITS = "number int, query string, id string, score float"


def top_k(
    vectors: DataFrame,
    queries: DataFrame,
    k: int,
    *,
    folder: str,
    exclude_same_id: bool = False,
    similarity: DataFrame | None = None,
) -> DataFrame:
    """Return the ``k`` nearest rows of each query by cosine, as NEIGHBORS; fewer if the table has fewer.

    Each task writes its vectors to a local file and iterates over the queries, which it maps from its host's copy of
    ``folder``: neither has to fit in memory, and neither passes through the driver. Scores and the order of ties are
    those of exact.top_k(), whatever the partitioning.

    Args:
        vectors: VECTORS; only ``id`` and ``vector`` are read.
        queries: any table with ``id`` and ``vector``; each row is a query, even if several have the same id.
        k: how many.
        folder: where the queries are written for the tasks (path or URI that all hosts share); it must stay until the
            result has been computed.
        exclude_same_id: leave out of a query's neighbors the row that has its id.
        similarity: mean_similarity() of the vectors, to rank by CSLS; the mean of a row that it lacks is taken as 0.

    Raises:
        ConfigError: ``k`` is out of range, or queries and vectors differ in dimension.
        BadData: there are no queries, or no vectors.
    """
    d = _dimension(vectors, "vectors")
    check(queries, d, k)
    count = mapped_vectors.store(queries, folder)
    rows = _with_similarity(vectors, similarity)
    if count >= _MIN_SPREAD:
        rows = _spread(rows)
    task = _searcher(partial(mapped_vectors.stored, folder, d), d, k, exclude_same_id, similarity is not None)
    return best(rows.mapInArrow(task, HITS), k)


def search(
    vectors: DataFrame, source: Source, k: int, *, exclude_same_id: bool = False, similarity: DataFrame | None = None
) -> DataFrame:
    """Return the neighbors that top_k() does, for a few queries.

    Args:
        vectors: VECTORS.
        source: returns the queries in a task, such as ``ann.in_memory_queries()``.
        k: how many.
        exclude_same_id: as in top_k().
        similarity: as in top_k().

    Raises:
        ConfigError: queries and vectors differ in dimension.
        BadData: there are no vectors.
    """
    d = _dimension(vectors, "vectors")
    exact.check_dimension(source().matrix.shape[1], d)
    task = _searcher(source, d, k, exclude_same_id, similarity is not None)
    return best(_with_similarity(vectors, similarity).mapInArrow(task, HITS), k)


def mean_similarity(
    vectors: DataFrame, others: DataFrame, k: int, *, folder: str, exclude_same_id: bool = False
) -> DataFrame:
    """Return the mean cosine of each row to its nearest of the queries' side: id, similarity (float).

    Args:
        vectors: VECTORS.
        others: the queries' side, VECTORS of the same dimension.
        k: how many of them, the K of CSLS; all if there are fewer.
        folder: as in top_k(); rows and result are written there.
        exclude_same_id: a row's own id among the others does not count.
    """
    hits = top_k(others, vectors, k, folder=f"{folder}/rows", exclude_same_id=exclude_same_id)
    scores = hits.groupBy("query").agg(F.array_sort(F.collect_list("score")).alias("scores"))
    # In the order of their values, so that the sum does not depend on the order in which rows arrive.
    total = F.aggregate("scores", F.lit(0.0).cast("double"), lambda total, score: total + score)
    means = scores.select(F.col("query").alias("id"), (total / F.size("scores")).cast("float").alias("similarity"))
    # Callers may read it more than once.
    means.write.mode("overwrite").parquet(f"{folder}/similarity")
    return vectors.sparkSession.read.parquet(files.spark_path(f"{folder}/similarity"))


def check(queries: DataFrame, d: int, k: int) -> None:
    """Check queries for a search among vectors of dimension ``d``.

    Raises:
        ConfigError: ``k`` is out of range, or queries and vectors differ in dimension.
        BadData: there are no queries.
    """
    if not 1 <= k <= MAX_K:
        raise ConfigError(f"k = {k:,}: need 1 to {MAX_K:,} neighbors of each query")
    exact.check_dimension(_dimension(queries, "queries"), d)


def best(hits: DataFrame, k: int) -> DataFrame:
    """Return the first ``k`` rows of each query number of HITS by (score descending, id), as NEIGHBORS."""
    rank = F.row_number().over(Window.partitionBy("number").orderBy(F.desc("score"), "id"))
    return conform(hits.withColumn("rank", rank).where(F.col("rank") <= k), NEIGHBORS)


def own_rows(queries: Packed, rows: Packed) -> NDArray[np.int64]:
    """Return the row that has each query's id, int64 [q]; -1: none has."""
    place: NDArray[np.int64] = pc.index_in(queries.ids, value_set=rows.ids).fill_null(-1).to_numpy().astype(np.int64)
    return place


def to_hits(
    queries: Packed, start: int, ids: pa.Array, rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> pa.RecordBatch:
    """Return the rows found for the queries from ``start`` on as a batch of HITS; row -1 is none."""
    query, place = np.nonzero(rows >= 0)
    number = pa.array(query + start, pa.int32())
    columns = [number, queries.ids.take(number), ids.take(pa.array(rows[query, place])), pa.array(scores[query, place])]
    return pa.record_batch(columns, ["number", "query", "id", "score"])


def _with_similarity(vectors: DataFrame, similarity: DataFrame | None) -> DataFrame:
    """Return id, vector and, for CSLS, similarity."""
    rows = vectors.select("id", "vector")
    if similarity is None:
        return rows
    filled = F.coalesce("similarity", F.lit(0.0).cast("float")).alias("similarity")
    return rows.join(similarity, "id", "left").select("id", "vector", filled)


def _dimension(table: DataFrame, name: str) -> int:
    d = dimension(table)
    if d is None:
        raise BadData(f"the table of {name} is empty, or the condition leaves none of its rows")
    return d


def _searcher(source: Source, d: int, k: int, exclude_same_id: bool, by_csls: bool) -> Callable[[Batches], Batches]:
    """Build the task's function: the best ``k`` of every query among its rows."""

    def searcher(batches: Batches) -> Iterator[pa.RecordBatch]:
        with mapped_vectors.task_threads(), mapped_vectors.ordered(batches, d, by_csls=by_csls) as rows:
            if not len(rows.ids):
                return
            queries = source()
            same_id = own_rows(queries, rows) if exclude_same_id else None
            for start in range(0, len(queries.ids), QUERIES):
                part = slice(start, start + QUERIES)
                units, excluded = queries.matrix[part], None if same_id is None else same_id[part]
                if by_csls:
                    hits, scores = nearest(rows.matrix, csls.queries(units), k, excluded, csls.MAX_PRODUCT)
                else:
                    hits, scores = nearest(rows.matrix, units, k, excluded)
                yield to_hits(queries, start, rows.ids, hits, scores)

    return searcher


def _spread(rows: DataFrame) -> DataFrame:
    """Return rows in partitions with which all cores finish at about the same time."""
    cores = cluster_slots.total(rows.sparkSession)
    counted = rows.groupBy(F.spark_partition_id().alias("part")).count().collect()
    sizes = sorted((int(row["count"]) for row in counted), reverse=True)
    total, last = sum(sizes), _last(sizes, cores)
    parts = cores * max(1, -(-total // (cores * _TASK_ROWS)))
    if last * cores <= _MAX_UNEVEN * total and len(sizes) <= 2 * parts and sizes[0] <= _TASK_ROWS:
        return rows
    return rows.repartition(parts, "id")


def _last(sizes: Iterable[int], cores: int) -> int:
    """Return how many rows the busiest core gets if each takes the next partition as soon as it is free."""
    busy = [0] * cores
    for size in sizes:
        heapq.heapreplace(busy, busy[0] + size)
    return max(busy)
