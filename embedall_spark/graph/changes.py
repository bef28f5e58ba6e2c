"""Vertices that are new or have other neighbors or weights than in an earlier graph: dynnode2vec's evolving nodes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.graph.walk_jobs import Starts
from embedall_spark.randomness import mix_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run

    Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)

_NO_NEIGHBORS = "0"


def build_stages(
    run: Run, vertices: DataFrame, adjacency: DataFrame, before: DataFrame | None
) -> tuple[DataFrame, Starts | None]:
    """Return vertices beside those of an earlier graph, and the changed ones: the stages "compared" and "changed".

    The digest of a vertex is a hash of its neighbors, by their names, and of the weights of the edges to them. It
    depends neither on ids nor on how rows are divided.

    Args:
        run: where the stages go.
        vertices: VOCABULARY, the stage "vertices".
        adjacency: ADJACENCY over it.
        before: VECTORS of the earlier graph's vertices, with digests; None: there is none.

    Returns:
        id int, token string, count bigint, digest string and changed boolean of each vertex, where ``count`` is the
        earlier one, 0 for a new vertex; and the changed ones, None if there is no earlier graph.
    """
    folder = run.stage_path("vertices")
    rows = run.stage("compared", lambda: _compare(vertices, folder, adjacency, before))
    if before is None:
        return rows, None
    changed = run.stage("changed", lambda: rows.where("changed").select("id"))
    starts = Starts(run.stage_path("changed"), changed.count())
    log.info(
        "graph: %s of %s vertices are new or have other neighbors or weights than before; walks start at these",
        f"{starts.size:,}", f"{rows.count():,}",
    )  # fmt: skip
    run.metric("graph/changed", float(starts.size))
    return rows, starts


def _compare(vertices: DataFrame, folder: str, adjacency: DataFrame, before: DataFrame | None) -> DataFrame:
    lists = adjacency.select("vertices", "degrees", "neighbours", "weights", "lightest")
    # The lists of a hub span rows, each of which has a part of its digest.
    parts = lists.mapInArrow(_partial_digests(folder), "id int, part bigint")
    hashed = parts.groupBy("id").agg(F.hex(F.bit_xor("part")).alias("digest"))
    digest = F.coalesce("digest", F.lit(_NO_NEIGHBORS)).alias("digest")
    rows = vertices.select("id", "token").join(hashed, "id", "left").select("id", "token", digest)
    if before is None:
        return rows.withColumns({"count": F.lit(0).cast("long"), "changed": F.lit(True)})
    # Rows with count 0 are of vertices that had vanished.
    earlier = before.where("count > 0").select(F.col("id").alias("token"), "count", F.col("digest").alias("before"))
    changed = (~F.col("digest").eqNullSafe(F.col("before"))).alias("changed")
    count = F.coalesce("count", F.lit(0)).alias("count")
    return rows.join(earlier, "token", "left").select("id", "token", count, "digest", changed)


def _partial_digests(folder: str) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    def partial_digests(batches: Batches) -> Iterator[pa.RecordBatch]:
        index = VocabularyIndex.open(folder)
        for batch in batches:
            for row in range(batch.num_rows):
                yield partial_digest(batch.slice(row, 1), index)

    return partial_digests


def partial_digest(row: pa.RecordBatch, index: VocabularyIndex) -> pa.RecordBatch:
    """Return the vertices of a row of ADJACENCY, and what it has of the digest of each: the exclusive or of its edges.

    Neighbors are distinct, so that none cancels another.
    """
    vertices, degrees, neighbors = (
        np.frombuffer(row.column(name)[0].as_buffer(), np.int32) for name in ("vertices", "degrees", "neighbours")
    )
    weights = np.frombuffer(row.column("weights")[0].as_buffer(), np.float64)
    if not len(weights):
        weights = np.full(len(neighbors), row.column("lightest")[0].as_py())
    edges = mix_arrays(index.hashes(neighbors), weights.view(np.int64))
    first = np.cumsum(degrees, dtype=np.int64) - degrees
    return pa.RecordBatch.from_arrays(
        [pa.array(vertices), pa.array(np.bitwise_xor.reduceat(edges, first))], ["id", "part"]
    )
