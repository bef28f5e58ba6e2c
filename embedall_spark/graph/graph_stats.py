"""Sizes, degrees, hubs and components of a graph, logged before it is walked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numba import int32, int64, njit, types
from pyspark.sql import functions as F

from embedall_spark.graph import csr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.graph.adjacency import GraphSize

    Batches = Iterable[pa.RecordBatch]
    Table = Callable[[Batches], Iterator[pa.RecordBatch]]

log = logging.getLogger(__name__)


class HasAlgorithms(Protocol):
    """A GraphFrame, whose algorithms run in its JVM side."""

    @property
    def degrees(self) -> DataFrame:
        """The number of edges at each vertex: id, degree."""

    @property
    def outDegrees(self) -> DataFrame:
        """The number of edges that begin at each vertex: id, outDegree."""

    def connectedComponents(self, *, use_local_checkpoints: bool) -> DataFrame:
        """Return the vertices and the (weak) component of each: id, component."""


_HUBS = 5
_QUANTILES = (0.5, 0.9, 0.99)
# The task that finds the components needs 5 bytes per vertex.
MAX_VERTICES = 1 << 28
_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)


def describe(
    adjacency: DataFrame, vertices: DataFrame, folder: str, size: GraphSize, directed: bool, components: bool = True
) -> dict[str, float]:
    """Log sizes, degrees, hubs and components of a graph; return them as figures.

    Args:
        adjacency: ADJACENCY, whose files are in ``folder``.
        vertices: VOCABULARY with the vertices' names.
        folder: path or URI.
        size: vertices and edges.
        directed: whether edges lead one way only; degrees are then out-degrees, and components weak ones.
        components: whether to count components.
    """
    row_degrees = adjacency.select("vertices", "degrees").mapInArrow(_degrees, "id int, degree bigint")
    degrees = row_degrees.groupBy("id").agg(F.sum("degree").alias("degree"))
    row = degrees.agg(
        F.count("*").alias("vertices"),
        F.max("degree").alias("greatest"),
        F.percentile_approx("degree", list(_QUANTILES), 10_000).alias("quantiles"),
    ).first()
    assert row is not None
    hubs = degrees.orderBy(F.desc("degree"), "id").limit(_HUBS).collect()
    named = vertices.where(F.col("id").isin([hub["id"] for hub in hubs])).select("id", "token").collect()
    names = {vertex["id"]: vertex["token"] for vertex in named}
    with_edges = int(row["vertices"])
    log.info(
        "graph: %s vertices, %s of them without an edge to leave by; %s %s, %s",
        f"{size.vertices:,}",
        f"{size.vertices - with_edges:,}",
        f"{size.edges:,}",
        "directed edges" if directed else "ends of undirected edges",
        "weighted" if size.weighted else "all of equal weight",
    )
    log.info(
        "graph: %s: mean %.1f, median %d, 90th percentile %d, 99th %d, greatest %s (%s)",
        "out-degrees" if directed else "degrees",
        size.edges / with_edges,
        *row["quantiles"],
        f"{row['greatest']:,}",
        ", ".join(f"{names[hub['id']]} {hub['degree']:,}" for hub in hubs),
    )
    figures = {
        "graph/vertices": size.vertices,
        "graph/edges": size.edges,
        "graph/greatest_degree": row["greatest"],
    }
    counted = _components(adjacency, folder, size, directed) if components else {}
    return {name: float(value) for name, value in figures.items()} | counted


def describe_frame(graph: HasAlgorithms, directed: bool) -> dict[str, float]:
    """Log what GraphFrames' own algorithms say of a graph as it is; return figures that replace those of describe().

    Degrees count parallel edges and loops; vertices without an edge are components.
    """
    degrees = graph.outDegrees.withColumnRenamed("outDegree", "degree") if directed else graph.degrees
    greatest = degrees.agg(F.max("degree")).first()
    # The other kind of checkpoints needs a folder, which Spark Connect cannot set.
    sizes = graph.connectedComponents(use_local_checkpoints=True).groupBy("component").count()
    row = sizes.agg(
        F.count("*").alias("components"), F.max("count").alias("largest"), F.sum("count").alias("all")
    ).first()
    assert greatest is not None and row is not None
    if not row["components"]:
        return {}
    share = row["largest"] / row["all"]
    log.info("graph: by GraphFrames: greatest degree %s; %s components, the largest has %.1f%% of the vertices",
             f"{greatest[0] or 0:,}", f"{row['components']:,}", 100 * share)  # fmt: skip
    return {
        "graph/greatest_degree": float(greatest[0] or 0),
        "graph/components": float(row["components"]),
        "graph/greatest_component_share": share,
    }


def _components(adjacency: DataFrame, folder: str, size: GraphSize, directed: bool) -> dict[str, float]:
    """Return the number of (weakly) connected components, and the largest one's share of the vertices; in one task."""
    if size.vertices > MAX_VERTICES:
        log.info("graph: more than %s vertices, so components are not counted", f"{MAX_VERTICES:,}")
        return {}
    one_row = adjacency.sparkSession.range(0, 1, 1, 1)
    row = one_row.mapInArrow(_component_sizes(folder, size, directed), "components bigint, greatest bigint").first()
    assert row is not None
    share = row["greatest"] / size.vertices
    what = f"{'weakly ' if directed else ''}connected component{'' if row['components'] == 1 else 's'}"
    log.info("graph: %s %s, the largest has %.1f%% of the vertices", f"{row['components']:,}", what, 100 * share)
    return {"graph/components": float(row["components"]), "graph/greatest_component_share": share}


def _degrees(batches: Batches) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in range(batch.num_rows):
            vertices, degrees = (
                np.frombuffer(batch.column(name)[row].as_buffer(), np.int32) for name in ("vertices", "degrees")
            )
            columns = [pa.array(vertices), pa.array(degrees.astype(np.int64))]
            yield pa.RecordBatch.from_arrays(columns, ["id", "degree"])


def _component_sizes(folder: str, size: GraphSize, directed: bool) -> Table:
    def sizes(batches: Batches) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            graph = csr.open_graph(folder, size, directed)
            sizes_or_parents = components(graph.indptr, graph.indices)
            values: list[Any] = [int((sizes_or_parents < 0).sum()), -int(sizes_or_parents.min())]
            yield pa.RecordBatch.from_arrays([pa.array([value]) for value in values], ["components", "greatest"])

    return sizes


@njit(int32[::1](_LONGS, _INTS), nogil=True, cache=True)
def components(indptr: NDArray[np.int64], indices: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the (weakly) connected components, int32 [n]: at one vertex of each minus its size, elsewhere the parent.

    Union-find with path halving (Tarjan and van Leeuwen 1984), by size.
    """
    parent = np.full(indptr.size - 1, -1, np.int32)
    for vertex in range(parent.size):
        for edge in range(indptr[vertex], indptr[vertex + 1]):
            root, other = np.int64(vertex), np.int64(indices[edge])
            while parent[root] >= 0:
                if parent[parent[root]] >= 0:
                    parent[root] = parent[parent[root]]
                root = np.int64(parent[root])
            while parent[other] >= 0:
                if parent[parent[other]] >= 0:
                    parent[other] = parent[parent[other]]
                other = np.int64(parent[other])
            if root == other:
                continue
            if parent[root] > parent[other]:
                root, other = other, root
            parent[root] += parent[other]
            parent[other] = root
    return parent
