"""EDGES to sorted adjacency lists over numbered vertices, in rows of bounded size; a hub spans many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import files
from embedall_spark.config import Section
from embedall_spark.corpus import token_counter, vocabulary
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.corpus.vocabulary_index import Lookup
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
        T.StructField("degrees", T.BinaryType(), False, {"comment": "neighbours of each in this row, int32"}),
        T.StructField("neighbours", T.BinaryType(), False, {"comment": "of each vertex, ascending, int32"}),
        T.StructField("weights", T.BinaryType(), False, {"comment": "float64; empty where all are `lightest`"}),
        T.StructField("lightest", T.DoubleType(), False, {"comment": "least weight in the row"}),
        T.StructField("heaviest", T.DoubleType(), False, {"comment": "greatest weight in the row"}),
    ]
)
_NAMES = [field.name for field in ADJACENCY]
# The parquet writer holds 100 rows before it first looks at their size: 80 MB.
_EDGES_PER_ROW = 1 << 16
_EDGES_PER_PART = 1 << 21
_MOST_PARTS = 8192


class GraphConfig(Section):
    """What the edges mean."""

    directed: bool = Field(False, description="an edge leads from src to dst only; else both ways")
    self_loops: bool = Field(True, description="keep edges from a vertex to itself; false: leave them out")


class GraphSize(NamedTuple):
    """Sizes of a graph."""

    vertices: int
    edges: int
    """Entries of the adjacency lists: an undirected edge has two, a self-loop one."""
    weighted: bool
    """Whether weights differ."""


def stages(run: Run, edges: DataFrame, config: GraphConfig) -> tuple[DataFrame, DataFrame, GraphSize]:
    """Return the stage "vertices" (VOCABULARY, counts are ends of edges), the stage "adjacency", and its sizes.

    Raises:
        BadData: no edge is left.
    """
    vertices = vocabulary.number(run, "vertices", ends(edges, config), VocabularyConfig(min_count=1))
    names = run.stage_path("vertices")
    lists = run.stage("adjacency", lambda: build(edges, names, vocabulary.total(vertices), config))
    return vertices, lists, measure(lists, vertices.count())


def ends(edges: DataFrame, config: GraphConfig) -> DataFrame:
    """Return token string and count bigint: the vertices of EDGES, and how many ends of edges each has.

    Raises:
        BadData: no edge is left.
    """
    kept = edges if config.self_loops else edges.where("src <> dst")
    if kept.isEmpty():
        left_out = "" if config.self_loops else " but self-loops, which graph.self_loops=false leaves out"
        raise BadData(f"there is no edge{left_out}; give a graph with edges")
    return token_counter.counted(kept.select("src", "dst"))


def build(edges: DataFrame, vertices: str, entries: int, config: GraphConfig) -> DataFrame:
    """Return EDGES as ADJACENCY, whose files in the order of their names hold the vertices in ascending order.

    Equal edges become one of their summed weight, added up from the least. A task holds runs of a fixed size and what
    is open of those of others (``edgesort``), whatever the degrees.

    Args:
        edges: EDGES without problems; a null weight is 1.
        vertices: folder of the VOCABULARY that numbers the vertices and counts the ends of edges at each.
        entries: about how many entries there will be.
        config: what the edges mean.
    """
    parts = int(np.clip(-(-entries // _EDGES_PER_PART), 1, _MOST_PARTS))
    rows = edges.select("src", "dst", F.coalesce("weight", F.lit(1.0)).alias("weight"))
    numbered = rows.mapInArrow(_number(vertices, parts, external_sort.longest(entries), config), external_sort.PIECES)
    placed = numbered.repartitionById(parts, "part").sortWithinPartitions("edge", "weight")
    return placed.mapInArrow(_rows, ADJACENCY)


def measure(adjacency: DataFrame, vertices: int) -> GraphSize:
    """Return the sizes of ADJACENCY over so many vertices."""
    entries = F.sum(F.octet_length("neighbours") / F.lit(4)).cast("bigint")
    row = adjacency.agg(entries, F.min("lightest"), F.max("heaviest")).first()
    if row is None or row[0] is None:
        return GraphSize(vertices, 0, False)
    return GraphSize(vertices, int(row[0]), row[1] != row[2])


def _number(folder: str, parts: int, longest: int, config: GraphConfig) -> Table:
    def number(batches: Batches) -> Iterator[pa.RecordBatch]:
        lookup = Lookup.open(folder)
        bounds = _bounds(lookup, parts)
        for run in external_sort.runs(_encoded(batch, lookup, config) for batch in batches):
            yield external_sort.cut(run, bounds, longest)

    return number


def _encoded(batch: pa.RecordBatch, lookup: Lookup, config: GraphConfig) -> Entries:
    """Return the entries that edges become."""
    src, dst = (lookup.ids(batch.column(name)).astype(np.int64) for name in ("src", "dst"))
    weight = batch.column("weight").to_numpy()
    if not config.self_loops:
        kept = src != dst
        src, dst, weight = src[kept], dst[kept], weight[kept]
    if not config.directed:
        # A self-loop is one entry also where edges go both ways.
        back = src != dst
        src, dst = np.concatenate([src, dst[back]]), np.concatenate([dst, src[back]])
        weight = np.concatenate([weight, weight[back]])
    return src << 32 | dst, weight


def _bounds(lookup: Lookup, parts: int) -> NDArray[np.int64]:
    """Return the first vertices of all ranges but the first, int64: ranges have about equally many edges."""
    target = lookup.folder / f"bounds-{parts}.npy"
    with files.lock(lookup.folder):
        if not target.exists():
            ends = np.cumsum(lookup.counts)
            targets = np.arange(1, parts) * (int(ends[-1]) / parts)
            with files.create(str(target)) as out:
                np.save(out, np.searchsorted(ends, targets, side="left").astype(np.int64) + 1)
    return np.asarray(np.load(target))


def _rows(pieces: Batches) -> Iterator[pa.RecordBatch]:
    """Sum equal edges and cut all into rows."""
    edges, weights = np.empty(0, np.int64), np.empty(0)
    part = 0
    for part, more, theirs in external_sort.merged(pieces):
        edges, weights = np.concatenate([edges, more]), np.concatenate([weights, theirs])
        left = external_sort.add_up(edges, weights)
        # The last edge may go on in what comes next.
        whole = (left - 1) // _EDGES_PER_ROW * _EDGES_PER_ROW if left else 0
        for start in range(0, whole, _EDGES_PER_ROW):
            stop = start + _EDGES_PER_ROW
            yield _row(part, edges[start:stop], weights[start:stop])
        edges, weights = edges[whole:left], weights[whole:left]
    if len(edges):
        yield _row(part, edges, weights)


def _row(part: int, edges: NDArray[np.int64], weights: NDArray[np.float64]) -> pa.RecordBatch:
    first = np.flatnonzero(np.diff(edges >> 32, prepend=-1))
    vertices, degrees = edges[first] >> 32, np.diff(first, append=len(edges))
    lightest, heaviest = float(weights.min()), float(weights.max())
    neighbours = (edges & 0xFFFFFFFF).astype(np.int32)
    binaries = [array.astype(np.int32).tobytes() for array in (vertices, degrees, neighbours)]
    values = [
        pa.array([part], pa.int32()),
        *[pa.array([binary], pa.binary()) for binary in binaries],
        pa.array([b"" if lightest == heaviest else weights.tobytes()], pa.binary()),
        pa.array([lightest]),
        pa.array([heaviest]),
    ]
    return pa.RecordBatch.from_arrays(values, _NAMES)
