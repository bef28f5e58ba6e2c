"""The nearest neighbours of many queries at once, as one Spark job: exact, by cosine."""

from __future__ import annotations

import heapq
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import cluster_slots, files
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.schemas import NEIGHBOURS, conform
from embedall_spark.search import csls, mapped_vectors
from embedall_spark.search.faiss_exact import QUERIES, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.search.mapped_vectors import Packed, Source

    Batches = Iterable[pa.RecordBatch]

MAX_K = 10_000
_MANY = 4096  # queries whose products cost more than to spread the vectors evenly
_UNEVEN = 1.05  # how much longer than the mean the last core may work before rows are spread
_TASK_ROWS = 4_000_000  # whose ids a task holds
FOUND = T.StructType(
    [
        T.StructField("number", T.IntegerType(), False),
        T.StructField("query", T.StringType(), False),
        T.StructField("id", T.StringType(), False),
        T.StructField("score", T.FloatType(), False),
    ]
)
_FOUND = pa.schema(
    [("number", pa.int32()), ("query", pa.string()), ("id", pa.string()), ("score", pa.float32())],
)


def top_k(
    vectors: DataFrame,
    queries: DataFrame,
    k: int,
    *,
    folder: str,
    exclude_same_id: bool = False,
    hubs: DataFrame | None = None,
) -> DataFrame:
    """Return the ``k`` nearest rows of each query by cosine, as NEIGHBOURS; fewer where the table has fewer.

    Each task keeps its vectors in a file of its own and goes through the queries, which it maps from its host's copy of
    ``folder``: neither has to fit in memory, and neither passes through the driver. Scores and the order of ties are
    those of exact.top_k(), whatever the partitioning.

    Args:
        vectors: VECTORS, all of one length; only ``id`` and ``vector`` are read.
        queries: any table with ``id`` and ``vector``; each row is asked for, also where ids are the same.
        k: how many.
        folder: where the queries are kept meanwhile (path or URI that all hosts share); it must stay until the result
            has been computed.
        exclude_same_id: leave out of a query's neighbours the row that has its id.
        hubs: similarity() of the vectors: rank by CSLS; a row that it lacks counts as near to nothing.

    Raises:
        ConfigError: ``k`` is out of range, or queries and vectors differ in length.
        BadData: there are no queries, or no vectors.
    """
    d = _length(vectors, "vectors")
    check(queries, d, k)
    asked = mapped_vectors.store(queries, folder)
    rows = _with_hubs(vectors, hubs)
    if asked >= _MANY:
        rows = _spread(rows)
    task = _searcher(partial(mapped_vectors.stored, folder, d), d, k, exclude_same_id, hubs is not None)
    return best(rows.mapInArrow(task, FOUND), k)


def search(
    vectors: DataFrame, source: Source, k: int, *, exclude_same_id: bool = False, hubs: DataFrame | None = None
) -> DataFrame:
    """Return what top_k() does, of a few queries.

    Args:
        vectors: VECTORS.
        source: returns the queries in a task, such as ``ann.given()``.
        k: how many.
        exclude_same_id: as in top_k().
        hubs: as in top_k().

    Raises:
        ConfigError: queries and vectors differ in length.
        BadData: there are no vectors.
    """
    d, numbers = _length(vectors, "vectors"), source().matrix.shape[1]
    if numbers != d:
        raise ConfigError(f"the queries have {numbers} numbers, the table's vectors {d}")
    task = _searcher(source, d, k, exclude_same_id, hubs is not None)
    return best(_with_hubs(vectors, hubs).mapInArrow(task, FOUND), k)


def mean_similarity(
    vectors: DataFrame, others: DataFrame, near: int, *, folder: str, exclude_same_id: bool = False
) -> DataFrame:
    """Compute how near each row is on average to the nearest of the queries' side: id, similarity (float).

    Args:
        vectors: VECTORS.
        others: the queries' side, VECTORS of the same length.
        near: how many of them, the K of CSLS; all where there are fewer.
        folder: as in top_k(); rows and result are kept there.
        exclude_same_id: a row's own id among the others does not count.
    """
    found = top_k(others, vectors, near, folder=f"{folder}/rows", exclude_same_id=exclude_same_id)
    scores = found.groupBy("query").agg(F.array_sort(F.collect_list("score")).alias("scores"))
    # In the order of their values, so that the sum does not depend on how rows meet.
    total = F.aggregate("scores", F.lit(0.0).cast("double"), lambda some, one: some + one)
    means = scores.select(F.col("query").alias("id"), (total / F.size("scores")).cast("float").alias("similarity"))
    # What uses it may read it more than once.
    means.write.mode("overwrite").parquet(f"{folder}/similarity")
    return vectors.sparkSession.read.parquet(files.spark_path(f"{folder}/similarity"))


def check(queries: DataFrame, d: int, k: int) -> None:
    """Refuse queries that vectors of ``d`` numbers cannot answer.

    Raises:
        ConfigError: ``k`` is out of range, or queries and vectors differ in length.
        BadData: there are no queries.
    """
    if not 1 <= k <= MAX_K:
        raise ConfigError(f"k = {k:,}: need 1 to {MAX_K:,} neighbours of each query")
    if (found := _length(queries, "queries")) != d:
        raise ConfigError(f"the queries have {found} numbers, the table's vectors {d}")


def best(found: DataFrame, k: int) -> DataFrame:
    """Return the first ``k`` rows of each query number of FOUND by (score descending, id), as NEIGHBOURS."""
    rank = F.row_number().over(Window.partitionBy("number").orderBy(F.desc("score"), "id"))
    return conform(found.withColumn("rank", rank).where(F.col("rank") <= k), NEIGHBOURS)


def own_rows(queries: Packed, rows: Packed) -> NDArray[np.int64]:
    """Return at which row each query's id stands, int64 [q]; -1: nowhere."""
    at: NDArray[np.int64] = pc.index_in(queries.ids, value_set=rows.ids).fill_null(-1).to_numpy().astype(np.int64)
    return at


def found_batch(
    queries: Packed, start: int, ids: pa.Array, rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> pa.RecordBatch:
    """Return the rows found for the queries from ``start`` on as a batch of FOUND; row -1 is none."""
    at, place = np.nonzero(rows >= 0)
    number = pa.array(at + start, pa.int32())
    columns = [number, queries.ids.take(number), ids.take(pa.array(rows[at, place])), pa.array(scores[at, place])]
    return pa.record_batch(columns, schema=_FOUND)


def _with_hubs(vectors: DataFrame, hubs: DataFrame | None) -> DataFrame:
    """Return id, vector and, where they are given, similarity."""
    rows = vectors.select("id", "vector")
    if hubs is None:
        return rows
    return rows.join(hubs, "id", "left").select(
        "id", "vector", F.coalesce("similarity", F.lit(0.0).cast("float")).alias("similarity")
    )


def _length(table: DataFrame, what: str) -> int:
    row = table.select(F.size("vector").alias("numbers")).first()
    if row is None:
        raise BadData(f"the table of {what} is empty, or the condition leaves none of its rows")
    return int(row["numbers"])


def _searcher(source: Source, d: int, k: int, exclude_same_id: bool, hubs: bool) -> Callable[[Batches], Batches]:
    """Build the task's function: the best ``k`` of every query among its rows."""

    def searcher(batches: Batches) -> Iterator[pa.RecordBatch]:
        with mapped_vectors.task_threads(), mapped_vectors.ordered(batches, d, hubs=hubs) as rows:
            if not len(rows.ids):
                return
            queries = source()
            own = own_rows(queries, rows) if exclude_same_id else None
            for start in range(0, len(queries.ids), QUERIES):
                some = slice(start, start + QUERIES)
                asked, barred = queries.matrix[some], None if own is None else own[some]
                if hubs:
                    hits, scores = nearest(rows.matrix, csls.queries(asked), k, barred, csls.LENGTHS)
                else:
                    hits, scores = nearest(rows.matrix, asked, k, barred)
                yield found_batch(queries, start, rows.ids, hits, scores)

    return searcher


def _spread(rows: DataFrame) -> DataFrame:
    """Return rows in partitions with which all cores end at about the same time."""
    cores = cluster_slots.total(rows.sparkSession)
    counted = rows.groupBy(F.spark_partition_id().alias("part")).count().collect()
    sizes = sorted((int(row["count"]) for row in counted), reverse=True)
    total, last = sum(sizes), _last(sizes, cores)
    parts = cores * max(1, -(-total // (cores * _TASK_ROWS)))
    if last * cores <= _UNEVEN * total and len(sizes) <= 2 * parts and sizes[0] <= _TASK_ROWS:
        return rows
    return rows.repartition(parts, "id")


def _last(sizes: Iterable[int], cores: int) -> int:
    """Return how many rows the busiest core gets where each takes the next partition as soon as it is free."""
    busy = [0] * cores
    for size in sizes:
        heapq.heapreplace(busy, busy[0] + size)
    return max(busy)
