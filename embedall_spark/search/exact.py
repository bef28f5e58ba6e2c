"""Exact nearest neighbors by cosine in any VECTORS table: matrix products in Spark tasks, no collect of the table."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Window
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark.errors import BadData, ConfigError, NeedsSpark
from embedall_spark.schemas import from_arrow
from embedall_spark.search import spelling
from embedall_spark.search.exact_kernel import block_top_k
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import dimension, to_matrix, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.search.local_table import Block, Hit, Vectors

    Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)

MAX_IDS = 10_000
MAX_QUERY_BYTES = 64 << 20
MAX_RESULTS = 1_000_000
_MERGE_ROWS = 1_000_000  # results that a task buffers before it drops all but the best
_HITS = pa.schema([("query", pa.int32()), ("id", pa.string()), ("score", pa.float32())])


def require_vectors(vectors: Vectors, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of a few ids, float32 [d] each.

    Raises:
        ConfigError: more than MAX_IDS ids.
        UnknownId: some ids are not in the table; names them and the nearest spellings.
    """
    by_id = find_vectors(vectors, ids)
    if missing := [name for name in dict.fromkeys(ids) if name not in by_id]:
        raise spelling.unknown(vectors, missing)
    return by_id


def find_vectors(vectors: Vectors, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return the vectors, float32 [d] each, of those of a few ids that are in the table.

    Raises:
        ConfigError: more than MAX_IDS ids.
    """
    wanted = list(dict.fromkeys(ids))
    if len(wanted) > MAX_IDS:
        raise ConfigError(f"{len(wanted):,} ids: need {MAX_IDS:,} ids or fewer; join the table in Spark")
    if isinstance(vectors, LocalTable):
        return vectors.find(wanted)
    names = from_arrow(vectors.sparkSession, pa.table({"id": pa.array(wanted, pa.string())}))
    table = vectors.select("id", "vector").join(names, "id", "left_semi").toArrow()
    rows = zip(table["id"].to_pylist(), to_matrix(table["vector"]), strict=True)
    # Of an id that the table has twice, the same row whatever the order in which rows arrive.
    return dict(sorted(rows, key=lambda row: (row[0], row[1].tobytes())))


def in_spark(vectors: Vectors) -> DataFrame:
    """Return a table that must be in Spark; raises NeedsSpark for one on the driver."""
    if isinstance(vectors, LocalTable):
        raise NeedsSpark("a part of this question is for Spark")
    return vectors


def kind_of(vectors: Vectors, name: str) -> str | None:
    """Return the kind of an id; None if it is not in the table."""
    if isinstance(vectors, LocalTable):
        kind = vectors.value(name, "kind")
        return None if kind is None else str(kind)
    row = vectors.where(F.col("id") == name).select("kind").first()
    return None if row is None else str(row["kind"])


def norm_of(vectors: Vectors, name: str) -> float:
    """Return the norm in the row of an id that is in the table."""
    if isinstance(vectors, LocalTable):
        return float(vectors.value(name, "norm"))  # type: ignore[arg-type]
    row = vectors.where(F.col("id") == name).select("norm").first()
    assert row is not None
    return float(row["norm"])


def of_kind(vectors: Vectors, kind: str) -> Vectors:
    """Return the rows of a kind."""
    return vectors.of_kind(kind) if isinstance(vectors, LocalTable) else vectors.where(F.col("kind") == kind)


def is_empty(vectors: Vectors) -> bool:
    """Return whether there are no rows."""
    return not len(vectors) if isinstance(vectors, LocalTable) else vectors.isEmpty()


def has_direction(vector: NDArray[np.float32]) -> bool:
    """Return whether a vector, float32 [d], has a cosine to others: it is finite and not all zeros."""
    return bool(unit(vector[None]).any())


def require_directions(vectors: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise BadData for vectors, by id, that have no cosine to others."""
    if bad := [name for name, vector in vectors.items() if not has_direction(vector)]:
        raise BadData(
            f"the vector of {', '.join(map(repr, bad))} is all zeros or not finite: it has no direction, and so no "
            "nearest neighbors by cosine; search by another id"
        )


def check_dimension(queries: int, vectors: int) -> None:
    """Raise ConfigError if queries and vectors differ in dimension."""
    if queries != vectors:
        raise ConfigError(f"the queries have {queries} dimensions, the table's vectors {vectors}; need the same")


def neighbors(vectors: Vectors, ids: Sequence[str], k: int = 10, restrict: int | None = None) -> list[list[Hit]]:
    """Return the ``k`` ids nearest to each of a few ids of the same table, itself left out, best first.

    Raises:
        UnknownId: some ids are not in the table.
    """
    by_id = require_vectors(vectors, ids)
    queries = np.stack([by_id[name] for name in ids])
    return top_k(vectors, queries, k, exclude=[{name} for name in ids], restrict=restrict, same_table=True)


def top_k(
    vectors: Vectors,
    queries: NDArray[np.float32],
    k: int,
    *,
    exclude: Sequence[Collection[str]] | None = None,
    restrict: int | None = None,
    same_table: bool = False,
) -> list[list[Hit]]:
    """Return the ``k`` nearest ids by cosine of each query as (id, score), best first, ties in the order of ids.

    Args:
        vectors: VECTORS, in Spark or on the driver; only ``id``, ``vector`` and, with ``restrict``, ``count`` are read.
        queries: float32 [q, d]; they need not be unit vectors; they travel to the tasks, so their size is limited.
        k: how many; fewer come back if the table has fewer.
        exclude: ids that each query must not return.
        restrict: search this many most frequent ids only.
        same_table: the queries are vectors of this table, so that their dimension need not be checked.

    Raises:
        ConfigError: queries and vectors differ in dimension, or the queries take more than MAX_QUERY_BYTES, or there
            are more than MAX_RESULTS results.
    """
    d = None if same_table else vectors.dimension if isinstance(vectors, LocalTable) else dimension(vectors)
    if d is not None:
        check_dimension(queries.shape[1], d)
    block = partial(block_top_k, queries=unit(np.ascontiguousarray(queries, dtype=np.float32)))
    return search(vectors, block, queries, k, exclude=exclude, restrict=restrict)


def search(
    vectors: Vectors,
    block: Block,
    queries: NDArray[np.float32],
    k: int,
    *,
    exclude: Sequence[Collection[str]] | None = None,
    restrict: int | None = None,
) -> list[list[Hit]]:
    """Return the best ``k`` ids of each query, as top_k() does, scored by ``block``.

    An id that the table has several times is found once, by one of its rows; a warning says so.

    Args:
        vectors: VECTORS.
        block: called in the tasks as ``block(matrix, k=...)`` with unit rows in the order of their ids; returns rows
            and scores as block_top_k() does. It carries the queries, and must pickle.
        queries: float32 [q, ..., d]; only their number and size are used here.
        k: how many.
        exclude: ids that each query must not return.
        restrict: search this many most frequent ids only.
    """
    if queries.nbytes > MAX_QUERY_BYTES:
        raise ConfigError(
            f"the queries take {queries.nbytes >> 20} MiB, at most {MAX_QUERY_BYTES >> 20} MiB travel with a task; "
            "search by fewer at once"
        )
    if k < 1 or len(queries) * k > MAX_RESULTS:
        raise ConfigError(f"{len(queries):,} queries with k = {k:,}: need k of at least 1, {MAX_RESULTS:,} in all")
    if not len(queries):
        return []
    subset = vectors if restrict is None else most_frequent(vectors, restrict)
    if isinstance(subset, LocalTable):
        return subset.search(block, len(queries), k, exclude or ())
    candidates = subset.select("id", "vector")
    hits = _search(candidates, block, len(queries), k, list(exclude or []))
    if twice := next((name for ranking in hits for name in _repeated(ranking)), None):
        log.warning(
            "the table has several rows of some ids, such as %r, and one row of each is used; to have each id once, "
            "write the table again with output.mode merge or overwrite",
            twice,
        )
        candidates = candidates.groupBy("id").agg(F.min_by("vector", F.xxhash64("vector")).alias("vector"))
        hits = _search(candidates, block, len(queries), k, list(exclude or []))
    return hits


def _search(rows: DataFrame, block: Block, queries: int, k: int, exclude: list[Collection[str]]) -> list[list[Hit]]:
    """Return the best ``k`` rows of id and vector of each query."""
    rank = F.row_number().over(Window.partitionBy("query").orderBy(F.desc("score"), "id"))
    best = (
        rows.mapInArrow(_searcher(block, k, exclude), "query int, id string, score float")
        .withColumn("rank", rank)
        .where(F.col("rank") <= k)
    )
    table = best.select("query", "id", "score").toArrow()
    table = table.sort_by([("query", "ascending"), ("score", "descending"), ("id", "ascending")])
    hits: list[list[Hit]] = [[] for _ in range(queries)]
    for query, name, score in zip(*(table[column].to_pylist() for column in _HITS.names), strict=True):
        hits[query].append((name, score))
    return hits


def _repeated(hits: list[Hit]) -> list[str]:
    """Return the ids that were found more than once."""
    return [name for name, times in Counter(name for name, _ in hits).items() if times > 1]


def most_frequent(vectors: Vectors, ids: int) -> Vectors:
    """Return the rows of the most frequent ids, ties in the order of ids; all rows where fewer have a count."""
    if isinstance(vectors, LocalTable):
        return vectors.most_frequent(ids)
    rank = F.row_number().over(Window.orderBy(F.desc("count"), "id"))
    # One task sorts ids and counts, never vectors, and only if the table has more ids than that.
    if vectors.count() <= ids:
        return vectors
    ranked = vectors.where("count is not null").select("id", "count", rank.alias("rank"))
    last = ranked.where(F.col("rank") == ids).first()
    if last is None:
        return vectors
    tie = (F.col("count") == last["count"]) & (F.col("id") <= last["id"])
    return vectors.where((F.col("count") > last["count"]) | tie)


def _searcher(block: Block, k: int, exclude: list[Collection[str]]) -> Callable[[Batches], Batches]:
    """Build the task's function: the best ``k`` of every query among all rows of its batches."""
    excluded_ids = sorted({name for names in exclude for name in names})
    code_of = {name: code for code, name in enumerate(excluded_ids)}
    excluded = [query * len(code_of) + code_of[name] for query, names in enumerate(exclude) for name in names]
    reach = k + max((len(names) for names in exclude), default=0)

    def best_of(batch: pa.RecordBatch) -> pa.Table:
        batch = batch.take(pc.sort_indices(batch["id"]))
        matrix = unit(to_matrix(batch["vector"]))
        rows, scores = block(matrix, k=reach)
        query = np.repeat(np.arange(len(rows)), rows.shape[1])
        rows, scores = rows.ravel(), scores.ravel()
        if excluded_ids:
            # By row, not by id: an id may have several rows here.
            codes = pc.index_in(batch["id"], value_set=pa.array(excluded_ids, pa.string()))
            code = codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)[rows]
            keep = (code < 0) | ~np.isin(query * len(code_of) + code, excluded)
            query, rows, scores = query[keep], rows[keep], scores[keep]
        columns = [pa.array(query, pa.int32()), batch["id"].take(pa.array(rows)), pa.array(scores)]
        return pa.table(columns, schema=_HITS)

    def searcher(batches: Batches) -> Batches:
        with threadpool_limits(1):
            buffer: list[pa.Table] = []
            for batch in batches:
                if batch.num_rows:
                    buffer.append(best_of(batch))
                if sum(map(len, buffer)) > _MERGE_ROWS:
                    buffer = [_best(buffer, k)]
            yield from _best([*buffer, _HITS.empty_table()], k).to_batches()

    return searcher


def _best(tables: list[pa.Table], k: int) -> pa.Table:
    """Return the first ``k`` rows of each query by (score descending, id)."""
    order = [("query", "ascending"), ("score", "descending"), ("id", "ascending")]
    table = pa.concat_tables(tables).sort_by(order)
    query = table["query"].to_numpy()
    place = np.arange(len(query)) - np.searchsorted(query, query)
    return table.filter(pa.array(place < k))
