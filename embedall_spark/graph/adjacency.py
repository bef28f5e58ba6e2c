"""EDGES to sorted adjacency lists over the ids of vertices, in rows of bounded size; a hub spans many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import files, list_offsets
from embedall_spark.config import Section
from embedall_spark.corpus import token_counter, vocabulary
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.errors import BadData
from embedall_spark.graph import external_sort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.graph.external_sort import Entries
    from embedall_spark.run_context import Run

    Batches = Iterable[pa.RecordBatch]
    Table = Callable[[Batches], Iterator[pa.RecordBatch]]

ADJACENCY = T.StructType(
    [
        T.StructField("part", T.IntegerType(), False, {"comment": "range of vertices that the row belongs to"}),
        T.StructField("vertices", T.BinaryType(), False, {"comment": "vertices in the row, ascending, int32"}),
        T.StructField("degrees", T.BinaryType(), False, {"comment": "neighbors of each in this row, int32"}),
        T.StructField("neighbours", T.BinaryType(), False, {"comment": "of each vertex, ascending, int32"}),
        T.StructField("weights", T.BinaryType(), False, {"comment": "float64; empty where all are `lightest`"}),
        T.StructField("lightest", T.DoubleType(), False, {"comment": "least weight in the row"}),
        T.StructField("heaviest", T.DoubleType(), False, {"comment": "greatest weight in the row"}),
    ]
)
_NAMES = [field.name for field in ADJACENCY]
# The parquet writer buffers 100 rows before it first looks at their size: 80 MB.
_EDGES_PER_ROW = 1 << 16
_EDGES_PER_PART = 1 << 21
_MAX_PARTS = 8192


class GraphConfig(Section):
    """How edges are read as a graph."""

    directed: bool = Field(False, description="true: an edge leads from src to dst only; false: both ways")
    self_loops: bool = Field(True, description="keep edges from a vertex to itself; false: leave them out")


class GraphSize(NamedTuple):
    """Sizes of a graph."""

    vertices: int
    edges: int
    """Entries of the adjacency lists: an undirected edge has two, a self-loop one."""
    weighted: bool
    """Whether weights differ from each other."""


def build_stages(run: Run, edges: DataFrame, config: GraphConfig) -> tuple[DataFrame, DataFrame, GraphSize]:
    """Return the stage "vertices" (VOCABULARY; counts are ends of edges), the stage "adjacency", and the graph's size.

    Raises:
        BadData: no edge is left.
    """
    vertices = vocabulary.assign_ids(
        run, "vertices", edge_ends(edges, config), VocabularyConfig(min_count=1), what="vertices"
    )
    names = run.stage_path("vertices")
    lists = run.stage("adjacency", lambda: build(edges, names, vocabulary.total_tokens(vertices), config))
    return vertices, lists, measure(lists, vertices.count())


def edge_ends(edges: DataFrame, config: GraphConfig) -> DataFrame:
    """Return token string and count bigint: the vertices of EDGES, and the number of ends of edges at each.

    Raises:
        BadData: no edge is left.
    """
    used = edges if config.self_loops else edges.where("src <> dst")
    if used.isEmpty():
        loops = "" if config.self_loops else " but self-loops, which graph.self_loops=false leaves out"
        raise BadData(f"there is no edge{loops}; give a graph with edges")
    return token_counter.count_texts(used.select("src", "dst"))


def build(edges: DataFrame, vertices: str, entries: int, config: GraphConfig) -> DataFrame:
    """Return EDGES as ADJACENCY, whose files, in the order of their names, have the vertices in ascending order.

    Equal edges become one, whose weight is their sum from the least weight on. The memory of a task does not depend on
    the degrees: see ``external_sort``.

    Args:
        edges: EDGES without problems; a null weight is 1.
        vertices: folder of the VOCABULARY with the vertices' ids, and the number of ends of edges at each.
        entries: estimated number of entries of the adjacency lists.
        config: how edges are read.
    """
    parts = int(np.clip(-(-entries // _EDGES_PER_PART), 1, _MAX_PARTS))
    rows = edges.select("src", "dst", F.coalesce("weight", F.lit(1.0)).alias("weight"))
    numbered = rows.mapInArrow(_number(vertices, parts, external_sort.max_piece(entries), config), external_sort.PIECES)
    pieces = numbered.repartitionById(parts, "part").sortWithinPartitions("edge", "weight")
    return pieces.mapInArrow(_rows, ADJACENCY)


def measure(adjacency: DataFrame, vertices: int) -> GraphSize:
    """Return the size of the graph that ADJACENCY over so many vertices is."""
    entries = F.sum(F.octet_length("neighbours") / F.lit(4)).cast("bigint")
    row = adjacency.agg(entries, F.min("lightest"), F.max("heaviest")).first()
    if row is None or row[0] is None:
        return GraphSize(vertices, 0, False)
    return GraphSize(vertices, int(row[0]), row[1] != row[2])


def _number(folder: str, parts: int, max_piece: int, config: GraphConfig) -> Table:
    def number(batches: Batches) -> Iterator[pa.RecordBatch]:
        index = VocabularyIndex.open(folder)
        bounds = _part_bounds(index, parts)
        for run in external_sort.sorted_runs(_entries(batch, index, config) for batch in batches):
            yield external_sort.cut_run(run, bounds, max_piece)

    return number


def _entries(batch: pa.RecordBatch, index: VocabularyIndex, config: GraphConfig) -> Entries:
    """Return the entries of the adjacency lists that a batch of edges makes."""
    src, dst = (index.ids(batch.column(name)).astype(np.int64) for name in ("src", "dst"))
    weight = batch.column("weight").to_numpy()
    if not config.self_loops:
        proper = src != dst
        src, dst, weight = src[proper], dst[proper], weight[proper]
    if not config.directed:
        # A self-loop is a single entry also where edges go both ways.
        back = src != dst
        src, dst = np.concatenate([src, dst[back]]), np.concatenate([dst, src[back]])
        weight = np.concatenate([weight, weight[back]])
    return src << 32 | dst, weight


def _part_bounds(index: VocabularyIndex, parts: int) -> NDArray[np.int64]:
    """Return the first vertex of each part but the first, int64; parts have about equal numbers of edges."""
    target = index.folder / f"bounds-{parts}.npy"
    with files.lock(index.folder):
        if not target.exists():
            ends = np.cumsum(index.counts)
            targets = np.arange(1, parts) * (int(ends[-1]) / parts)
            with files.create(str(target)) as out:
                np.save(out, np.searchsorted(ends, targets, side="left").astype(np.int64) + 1)
    return np.asarray(np.load(target))


def _rows(pieces: Batches) -> Iterator[pa.RecordBatch]:
    """Yield ADJACENCY rows of sorted pieces, the weights of equal edges summed."""
    edges, weights = np.empty(0, np.int64), np.empty(0)
    part = 0
    for part, more_edges, more_weights in external_sort.merge(pieces):
        edges, weights = np.concatenate([edges, more_edges]), np.concatenate([weights, more_weights])
        distinct = external_sort.sum_equal_edges(edges, weights)
        # The last edge may continue in the next entries.
        whole = (distinct - 1) // _EDGES_PER_ROW * _EDGES_PER_ROW if distinct else 0
        for start in range(0, whole, _EDGES_PER_ROW):
            stop = start + _EDGES_PER_ROW
            yield _row(part, edges[start:stop], weights[start:stop])
        edges, weights = edges[whole:distinct], weights[whole:distinct]
    if len(edges):
        yield _row(part, edges, weights)


def _row(part: int, edges: NDArray[np.int64], weights: NDArray[np.float64]) -> pa.RecordBatch:
    bounds = list_offsets.from_runs(edges >> 32)
    vertices, degrees = edges[bounds[:-1]] >> 32, np.diff(bounds)
    lightest, heaviest = float(weights.min()), float(weights.max())
    neighbors = (edges & 0xFFFFFFFF).astype(np.int32)
    binaries = [array.astype(np.int32).tobytes() for array in (vertices, degrees, neighbors)]
    values = [
        pa.array([part], pa.int32()),
        *[pa.array([binary], pa.binary()) for binary in binaries],
        pa.array([b"" if lightest == heaviest else weights.tobytes()], pa.binary()),
        pa.array([lightest]),
        pa.array([heaviest]),
    ]
    return pa.RecordBatch.from_arrays(values, _NAMES)
