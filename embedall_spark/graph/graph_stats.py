"""What a graph looks like, told before it is walked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

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
_HUBS = 5
_QUANTILES = (0.5, 0.9, 0.99)
# A task that looks for components holds 5 bytes a vertex.
MOST_VERTICES = 1 << 28
_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)


def describe(
    adjacency: DataFrame, vertices: DataFrame, folder: str, facts: GraphSize, directed: bool
) -> dict[str, float]:
    """Log sizes, degrees, hubs and components of a graph; return them as figures.

    Args:
        adjacency: ADJACENCY, whose files lie in ``folder``.
        vertices: VOCABULARY of the vertices' names.
        folder: path or URI.
        facts: sizes.
        directed: whether edges lead one way only; degrees are then those outwards, components the weak ones.
    """
    each = adjacency.select("vertices", "degrees").mapInArrow(_degrees, "id int, degree bigint")
    degrees = each.groupBy("id").agg(F.sum("degree").alias("degree"))
    row = degrees.agg(
        F.count("*").alias("walked"),
        F.max("degree").alias("greatest"),
        F.percentile_approx("degree", list(_QUANTILES), 10_000).alias("quantiles"),
    ).first()
    assert row is not None
    hubs = degrees.orderBy(F.desc("degree"), "id").limit(_HUBS).collect()
    named = vertices.where(F.col("id").isin([hub["id"] for hub in hubs])).select("id", "token").collect()
    names = {vertex["id"]: vertex["token"] for vertex in named}
    walked, kind = int(row["walked"]), "out-degrees" if directed else "degrees"
    log.info(
        "graph: %s vertices, %s of them without a way out; %s %s, %s",
        f"{facts.vertices:,}",
        f"{facts.vertices - walked:,}",
        f"{facts.edges:,}",
        "directed edges" if directed else "ends of undirected edges",
        "weighted" if facts.weighted else "all of one weight",
    )
    log.info(
        "graph: %s: mean %.1f, median %d, 90%% %d, 99%% %d, greatest %s (%s)",
        kind,
        facts.edges / walked,
        *row["quantiles"],
        f"{row['greatest']:,}",
        ", ".join(f"{names[hub['id']]} {hub['degree']:,}" for hub in hubs),
    )
    figures = {
        "graph/vertices": facts.vertices,
        "graph/edges": facts.edges,
        "graph/greatest_degree": row["greatest"],
    }
    return {name: float(value) for name, value in figures.items()} | _components(adjacency, folder, facts, directed)


def _components(adjacency: DataFrame, folder: str, facts: GraphSize, directed: bool) -> dict[str, float]:
    """Return number and greatest share of the (weakly) connected components, found in one task."""
    if facts.vertices > MOST_VERTICES:
        log.info("graph: over %s vertices, so its components are not counted", f"{MOST_VERTICES:,}")
        return {}
    one = adjacency.sparkSession.range(0, 1, 1, 1)
    row = one.mapInArrow(_component_sizes(folder, facts, directed), "components bigint, greatest bigint").first()
    assert row is not None
    share = row["greatest"] / facts.vertices
    what = f"{'weakly ' if directed else ''}connected component{'' if row['components'] == 1 else 's'}"
    log.info("graph: %s %s, the greatest with %.1f%% of the vertices", f"{row['components']:,}", what, 100 * share)
    return {"graph/components": float(row["components"]), "graph/greatest_component_share": share}


def _degrees(batches: Batches) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for at in range(batch.num_rows):
            vertices, degrees = (
                np.frombuffer(batch.column(name)[at].as_buffer(), np.int32) for name in ("vertices", "degrees")
            )
            columns = [pa.array(vertices), pa.array(degrees.astype(np.int64))]
            yield pa.RecordBatch.from_arrays(columns, ["id", "degree"])


def _component_sizes(folder: str, facts: GraphSize, directed: bool) -> Table:
    def sizes(batches: Batches) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            graph = csr.open_graph(folder, facts, directed)
            found = components(graph.indptr, graph.indices)
            values: list[Any] = [int((found < 0).sum()), -int(found.min())]
            yield pa.RecordBatch.from_arrays([pa.array([value]) for value in values], ["components", "greatest"])

    return sizes


@njit(int32[::1](_LONGS, _INTS), nogil=True, cache=True)
def components(indptr: NDArray[np.int64], indices: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the (weakly) connected components, int32 [n]: minus its size at one vertex of each, elsewhere another one.

    Union-find with path halving (Tarjan and van Leeuwen 1984), by size.
    """
    parent = np.full(indptr.size - 1, -1, np.int32)
    for vertex in range(parent.size):
        for at in range(indptr[vertex], indptr[vertex + 1]):
            one, other = np.int64(vertex), np.int64(indices[at])
            while parent[one] >= 0:
                if parent[parent[one]] >= 0:
                    parent[one] = parent[parent[one]]
                one = np.int64(parent[one])
            while parent[other] >= 0:
                if parent[parent[other]] >= 0:
                    parent[other] = parent[parent[other]]
                other = np.int64(parent[other])
            if one == other:
                continue
            if parent[one] > parent[other]:
                one, other = other, one
            parent[one] += parent[other]
            parent[other] = one
    return parent
