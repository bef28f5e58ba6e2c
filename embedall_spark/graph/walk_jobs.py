"""Random walks as Spark jobs: drawn where they are used, the same at every call, stored only on request.

The walks are numbered. Their starts are a permutation that the seed determines, and a walk depends on (seed, vertex,
number) alone, so that a task needs only the range of its walks.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field
from pyspark.sql import functions as F

from embedall_spark import list_offsets, randomness
from embedall_spark.config import MOVABLE, OutputPath, Section
from embedall_spark.corpus import blocks
from embedall_spark.corpus.blocks import BLOCKS, Block, BlockSource
from embedall_spark.corpus.vocabulary_index import VocabularyIndex, ids_in
from embedall_spark.graph import csr, walks
from embedall_spark.schemas import ENCODED, SEQUENCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.corpus.blocks import BlockFilter
    from embedall_spark.graph.adjacency import GraphSize
    from embedall_spark.graph.walks import Graph

    Batches = Iterable[pa.RecordBatch]
    Table = Callable[[Batches], Iterator[pa.RecordBatch]]

# Tokens in the memory of a task: those that it counts at once, and those of a batch on its way to the JVM.
_COUNTED_TOKENS, _BATCH_TOKENS = 1 << 24, 1 << 20
_BLOCKS_PER_TASK = 16
_MIN_TASKS, _MAX_TASKS = 8, 4096


class WalksConfig(Section):
    """Random walks of node2vec (Grover and Leskovec 2016, section 3.2), under the names and defaults of its code."""

    num_walks: int = Field(10, ge=1, le=10_000, description="walks from each vertex")
    walk_length: int = Field(80, ge=2, le=10_000, description="vertices in a walk; a dead end ends it early")
    p: float = Field(1.0, ge=1e-6, le=1e6, description="return parameter: above 1 a walk seldom turns back")
    q: float = Field(
        1.0,
        ge=1e-3,
        le=1e3,
        description="in-out parameter: above 1 a walk stays near where it was; a step takes up to max(q, 1/q) trials",
    )
    nodes: Literal["all", "changed"] = Field(
        "all",
        description="where walks start; changed: with train.start, at vertices that are new or whose neighbors or "
        "weights differ from those that its table was made of, as in dynnode2vec; others keep their vectors, unless "
        "such a walk visits them",
    )
    table: OutputPath | None = Field(
        None,
        description="also write the walks to this table, for inspection; unset: they are not stored",
        json_schema_extra=MOVABLE,
    )
    names: bool = Field(
        False, description="with walks.table: write the vertices' names, not their ids", json_schema_extra=MOVABLE
    )


class Starts(NamedTuple):
    """The vertices that walks start from."""

    folder: str
    """Of parquet files with their ids."""
    size: int
    """How many there are."""


class OpenGraph(NamedTuple):
    """A graph as a task walks over it."""

    graph: Graph
    starts: NDArray[np.int32] | None
    """Vertices that walks start from, int32 [n], ascending; None: all."""


@dataclass(frozen=True)
class Walks:
    """All walks over one graph; small, because it is pickled with each task."""

    graph: str
    """Folder of the graph's ADJACENCY."""
    size: GraphSize
    directed: bool
    config: WalksConfig
    seed: int
    starts: Starts | None = None
    """None: all vertices."""

    @property
    def count(self) -> int:
        """Number of walks, those that end where they begin included."""
        return self._starts * self.config.num_walks

    @property
    def _starts(self) -> int:
        return self.size.vertices if self.starts is None else self.starts.size

    def open(self) -> OpenGraph:
        """Return this host's copy of the graph; call it once per task, since it lists the stage's files."""
        graph = csr.open_graph(self.graph, self.size, self.directed)
        return OpenGraph(graph, None if self.starts is None else ids_in(self.starts.folder))

    def sample(self, opened: OpenGraph, first: int, stop: int) -> WalkBatch:
        """Return the walks numbered ``first`` to ``stop`` that have two vertices or more."""
        graph, vertices, count = opened.graph, self.size.vertices, self._starts
        indices = np.arange(first, stop)
        numbers = indices // count
        starts: NDArray[np.integer] = np.empty(len(indices), np.int64)
        for number in np.unique(numbers):
            rows = numbers == number
            starts[rows] = randomness.permuted_items(indices[rows] % count, count, self.seed, int(number))
        if opened.starts is not None:
            starts = opened.starts[starts]
        length, p, q = self.config.walk_length, self.config.p, self.config.q
        # A vertex without neighbors has no walk.
        leaves = graph.indptr[starts + 1] > graph.indptr[starts]
        starts, numbers = starts[leaves], numbers[leaves]
        tokens, lengths = walks.walk(graph, starts.astype(np.int32), numbers, length, p, q, self.seed)
        return WalkBatch(numbers * vertices + starts, lengths, tokens)


class WalkBatch(NamedTuple):
    """Walks, one after the other."""

    ids: NDArray[np.int64]
    """number * vertices + start of each walk, int64 [n]."""
    lengths: NDArray[np.int32]
    """Vertices in each walk, int32 [n]."""
    tokens: NDArray[np.int32]
    """The vertices of all walks in order, int32 [sum of lengths]."""


def block_source(spark: SparkSession, walks: Walks, tokens: int, threads: int) -> BlockSource:
    """Return the walks as blocks for the trainer; ``tokens`` is the number of vertices in all of them."""
    total = blocks.block_count(tokens)

    def select(block_filter: BlockFilter) -> DataFrame:
        rows = spark.range(0, total, 1, min(_MAX_TASKS, -(-total // _BLOCKS_PER_TASK)))
        return rows.mapInArrow(_blocks(walks, total, block_filter, threads), BLOCKS)

    return BlockSource(tokens, total, select)


def visit_counts(spark: SparkSession, walks: Walks) -> DataFrame:
    """Return id int and count bigint: the walks' visits of each vertex; vertices without visits are left out."""
    per_task = max(1, _COUNTED_TOKENS // walks.config.walk_length)
    tasks = max(1, -(-walks.count // per_task), min(_MIN_TASKS, walks.count))
    partial_counts = spark.range(0, tasks, 1, tasks).mapInArrow(_visits(walks, tasks), "id int, count bigint")
    return partial_counts.groupBy("id").agg(F.sum("count").alias("count"))


def as_encoded(spark: SparkSession, walks: Walks) -> DataFrame:
    """Return the walks as ENCODED, over the vertices' ids."""
    return _table(spark, walks, None)


def as_sequences(spark: SparkSession, walks: Walks, vertices: str) -> DataFrame:
    """Return the walks as SEQUENCES of the vertices' names, which a folder of VOCABULARY has."""
    return _table(spark, walks, vertices)


def _table(spark: SparkSession, walks: Walks, vertices: str | None) -> DataFrame:
    per_batch = max(1, _BATCH_TOKENS // walks.config.walk_length)
    total = max(1, -(-walks.count // per_batch))
    rows = spark.range(0, total, 1, min(_MAX_TASKS, total))
    return rows.mapInArrow(_rows(walks, total, vertices), SEQUENCES if vertices else ENCODED)


def _share(walks: Walks, graph: OpenGraph, number: int, total: int) -> WalkBatch:
    """Return one of ``total`` equal shares of the walks."""
    return walks.sample(graph, number * walks.count // total, (number + 1) * walks.count // total)


def _blocks(walks: Walks, total: int, block_filter: BlockFilter, threads: int) -> Table:
    def selected(batches: Batches) -> Iterator[pa.RecordBatch]:
        graph = walks.open()

        def draw(number: int) -> Block:
            ids, lengths, tokens = _share(walks, graph, number, total)
            return Block(number, ids, list_offsets.from_lengths(lengths), tokens)

        with ThreadPoolExecutor(threads) as pool:
            for batch in batches:
                numbers = batch.column("id").to_numpy()
                yield from blocks.pack(pool.map(draw, numbers[block_filter(numbers)].tolist()))

    return selected


def _visits(walks: Walks, total: int) -> Table:
    def visits(batches: Batches) -> Iterator[pa.RecordBatch]:
        graph = walks.open()
        for batch in batches:
            for number in batch.column("id").to_pylist():
                ids, counts = np.unique(_share(walks, graph, number, total).tokens, return_counts=True)
                yield pa.RecordBatch.from_arrays([pa.array(ids), pa.array(counts)], ["id", "count"])

    return visits


def _rows(walks: Walks, total: int, vertices: str | None) -> Table:
    def rows(batches: Batches) -> Iterator[pa.RecordBatch]:
        graph, names = walks.open(), None if vertices is None else VocabularyIndex.open(vertices)
        for batch in batches:
            for number in batch.column("id").to_pylist():
                ids, lengths, tokens = _share(walks, graph, number, total)
                offsets = list_offsets.from_lengths(lengths).astype(np.int32)
                values = pa.array(tokens) if names is None else names.tokens(tokens)
                lists = pa.ListArray.from_arrays(pa.array(offsets), values)
                yield pa.RecordBatch.from_arrays([pa.array(ids), lists], ["id", "tokens"])

    return rows
