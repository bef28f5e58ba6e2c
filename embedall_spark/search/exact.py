"""Exact nearest neighbours by cosine over any VECTORS table: blocks inside Spark tasks, no collect of the table."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql import types as T
from threadpoolctl import threadpool_limits

from embedall_spark.errors import ConfigError
from embedall_spark.search import spelling
from embedall_spark.search.exact_kernel import block_top_k
from embedall_spark.vectors import to_matrix as to_matrix  # for modules that still import it from here
from embedall_spark.vectors import unit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Hit = tuple[str, float]
    Block = Callable[..., tuple[NDArray[np.int64], NDArray[np.float32]]]
    Batches = Iterable[pa.RecordBatch]

MAX_IDS = 10_000
MAX_QUERY_BYTES = 64 << 20
MAX_RESULTS = 1_000_000
_MERGE_ROWS = 1_000_000  # results that a task holds before it keeps the best of them only
_FOUND = pa.schema([("query", pa.int32()), ("id", pa.string()), ("score", pa.float32())])
_RESULT = T.StructType(
    [
        T.StructField("query", T.IntegerType(), False),
        T.StructField("id", T.StringType(), False),
        T.StructField("score", T.FloatType(), False),
    ]
)


def require_vectors(vectors: DataFrame, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of a few ids, float32 [d] each.

    Raises:
        ConfigError: more than MAX_IDS ids.
        UnknownId: ids that are not in the table; names them and the nearest spellings.
    """
    found = find_vectors(vectors, ids)
    if missing := [name for name in dict.fromkeys(ids) if name not in found]:
        raise spelling.unknown(vectors, missing)
    return found


def find_vectors(vectors: DataFrame, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return the vectors, float32 [d] each, of those of a few ids that are in the table.

    Raises:
        ConfigError: more than MAX_IDS ids.
    """
    wanted = list(dict.fromkeys(ids))
    if len(wanted) > MAX_IDS:
        raise ConfigError(f"{len(wanted):,} ids asked for, at most {MAX_IDS:,} are fetched at once; join the table")
    names = vectors.sparkSession.createDataFrame(pa.table({"id": pa.array(wanted, pa.string())}))
    table = vectors.select("id", "vector").join(names, "id", "left_semi").toArrow()
    return dict(zip(table["id"].to_pylist(), to_matrix(table["vector"].combine_chunks()), strict=True))


def neighbours(vectors: DataFrame, ids: Sequence[str], k: int = 10, restrict: int | None = None) -> list[list[Hit]]:
    """Return the ``k`` ids nearest to each of a few ids of the same table, itself left out, best first.

    Raises:
        UnknownId: ids that are not in the table.
    """
    found = require_vectors(vectors, ids)
    queries = np.stack([found[name] for name in ids])
    return top_k(vectors, queries, k, exclude=[{name} for name in ids], restrict=restrict, own=True)


def top_k(
    vectors: DataFrame,
    queries: NDArray[np.float32],
    k: int,
    *,
    exclude: Sequence[Collection[str]] | None = None,
    restrict: int | None = None,
    own: bool = False,
) -> list[list[Hit]]:
    """Return the ``k`` nearest ids by cosine of each query as (id, score), best first, ties in the order of ids.

    Args:
        vectors: VECTORS; only ``id``, ``vector`` and, with ``restrict``, ``count`` are read.
        queries: float32 [q, d]; they need not be unit vectors; they travel to the tasks, so their size is limited.
        k: how many; fewer come back where the table has fewer.
        exclude: ids that each query must not return.
        restrict: look among this many most frequent ids only.
        own: the queries come from these very vectors, so that their length need not be looked up.

    Raises:
        ConfigError: the queries are not of the vectors' length, or larger than MAX_QUERY_BYTES, or the results more
            than MAX_RESULTS.
    """
    row = None if own else vectors.select(F.size("vector").alias("numbers")).first()
    if row is not None and row["numbers"] != queries.shape[1]:
        raise ConfigError(f"the queries have {queries.shape[1]} numbers, the table's vectors {row['numbers']}")
    block = partial(block_top_k, queries=unit(np.ascontiguousarray(queries, dtype=np.float32)))
    return search(vectors, block, queries, k, exclude=exclude, restrict=restrict)


def search(
    vectors: DataFrame,
    block: Block,
    queries: NDArray[np.float32],
    k: int,
    *,
    exclude: Sequence[Collection[str]] | None = None,
    restrict: int | None = None,
) -> list[list[Hit]]:
    """Return the best ``k`` ids of each query, as top_k(), scored by ``block``.

    Args:
        vectors: VECTORS.
        block: called in the tasks as ``block(matrix, k=...)`` with unit rows in the order of their ids; returns rows
            and scores as block_top_k() does. It carries the queries, and must pickle.
        queries: float32 [q, ..., d]; only their number and size are used here.
        k: how many.
        exclude: ids that each query must not return.
        restrict: look among this many most frequent ids only.
    """
    if queries.nbytes > MAX_QUERY_BYTES:
        raise ConfigError(
            f"the queries take {queries.nbytes >> 20} MiB, at most {MAX_QUERY_BYTES >> 20} MiB travel with a task; "
            "ask for fewer at once"
        )
    if k < 1 or len(queries) * k > MAX_RESULTS:
        raise ConfigError(f"{len(queries):,} queries with k = {k:,}: need k of at least 1, {MAX_RESULTS:,} in all")
    if not len(queries):
        return []
    among = vectors if restrict is None else most_frequent(vectors, restrict)
    found = among.select("id", "vector").mapInArrow(
        _searcher(block, k, list(exclude or [])),
        _RESULT,
    )
    rank = F.row_number().over(Window.partitionBy("query").orderBy(F.desc("score"), "id"))
    best = found.withColumn("rank", rank).where(F.col("rank") <= k).select("query", "id", "score").toArrow()
    best = best.sort_by([("query", "ascending"), ("score", "descending"), ("id", "ascending")])
    hits: list[list[Hit]] = [[] for _ in range(len(queries))]
    for query, name, score in zip(*(best[column].to_pylist() for column in _FOUND.names), strict=True):
        hits[query].append((name, score))
    return hits


def most_frequent(vectors: DataFrame, ids: int) -> DataFrame:
    """Return the rows of the most frequent ids, ties in the order of ids; all rows where fewer have a count."""
    rank = F.row_number().over(Window.orderBy(F.desc("count"), "id"))
    # One task sorts ids and counts, never vectors, and only where there are more ids than asked for.
    if vectors.count() <= ids:
        return vectors
    ranked = vectors.where("count is not null").select("id", "count", rank.alias("rank"))
    last = ranked.where(F.col("rank") == ids).first()
    if last is None:
        return vectors
    tie = (F.col("count") == last["count"]) & (F.col("id") <= last["id"])
    return vectors.where((F.col("count") > last["count"]) | tie)


def _searcher(block: Block, k: int, exclude: list[Collection[str]]) -> Callable[[Batches], Batches]:
    """Build the task's function: its own best ``k`` of every query over all its batches."""
    excluded_by = np.repeat(np.arange(len(exclude)), [len(names) for names in exclude])
    excluded_ids = [name for names in exclude for name in names]
    reach = k + max((len(names) for names in exclude), default=0)

    def one(batch: pa.RecordBatch) -> pa.Table:
        batch = batch.take(pc.sort_indices(batch["id"]))
        matrix = unit(to_matrix(batch["vector"]))
        found, scores = block(matrix, k=reach)
        query = np.repeat(np.arange(len(found)), found.shape[1])
        found, scores = found.ravel(), scores.ravel()
        if excluded_ids:
            here = pc.index_in(pa.array(excluded_ids), value_set=batch["id"])
            at = here.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            barred = (excluded_by * len(matrix) + at)[at >= 0]
            keep = ~np.isin(query * len(matrix) + found, barred)
            query, found, scores = query[keep], found[keep], scores[keep]
        columns = [pa.array(query, pa.int32()), batch["id"].take(pa.array(found)), pa.array(scores)]
        return pa.table(columns, schema=_FOUND)

    def searcher(batches: Batches) -> Batches:
        with threadpool_limits(1):
            held: list[pa.Table] = []
            for batch in batches:
                if batch.num_rows:
                    held.append(one(batch))
                if sum(map(len, held)) > _MERGE_ROWS:
                    held = [_best(held, k)]
            yield from _best([*held, _FOUND.empty_table()], k).to_batches()

    return searcher


def _best(tables: list[pa.Table], k: int) -> pa.Table:
    """Return the first ``k`` rows of each query by (score descending, id)."""
    order = [("query", "ascending"), ("score", "descending"), ("id", "ascending")]
    table = pa.concat_tables(tables).sort_by(order)
    query = table["query"].to_numpy()
    place = np.arange(len(query)) - np.searchsorted(query, query)
    return table.filter(pa.array(place < k))
