"""Random walks as Spark jobs: drawn where they are needed, the same at every call, and kept nowhere unless asked for.

The walks are numbered. Which vertex a walk starts from is a permutation that follows from the seed, and the walk itself
depends on (seed, vertex, number) alone, so that a task needs to know no more than which walks are its own.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field
from pyspark.sql import functions as F

from embedall_spark import randomness
from embedall_spark.config import MOVABLE, OutputPath, Section
from embedall_spark.corpus import blocks as blocking
from embedall_spark.corpus.blocks import BLOCKS, Block, BlockSource
from embedall_spark.corpus.vocabulary_index import Lookup
from embedall_spark.graph import csr, walks
from embedall_spark.schemas import ENCODED, SEQUENCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.graph.adjacency import GraphSize
    from embedall_spark.graph.walks import Graph

    Batches = Iterable[pa.RecordBatch]
    Table = Callable[[Batches], Iterator[pa.RecordBatch]]

# Tokens that a task holds: those that it counts at once, and those of a batch on its way to the JVM.
_COUNTED, _BATCH = 1 << 24, 1 << 20
_BLOCKS_PER_TASK = 16
_FEWEST_TASKS, _MOST_TASKS = 8, 4096


class WalksConfig(Section):
    """Random walks of node2vec (Grover and Leskovec 2016, section 3.2), under the names and defaults of its code."""

    num_walks: int = Field(10, ge=1, le=10_000, description="walks from each vertex")
    walk_length: int = Field(80, ge=2, le=10_000, description="vertices in a walk; a dead end ends it before")
    p: float = Field(1.0, ge=1e-6, le=1e6, description="return parameter: above 1 a walk seldom turns back")
    q: float = Field(
        1.0,
        ge=1e-3,
        le=1e3,
        description="in-out parameter: above 1 a walk stays near where it was; a step costs up to the greater of q and "
        "1/q trials",
    )
    table: OutputPath | None = Field(
        None,
        description="also write the walks to this table, to be inspected; unset: they are drawn and kept nowhere",
        json_schema_extra=MOVABLE,
    )
    names: bool = Field(False, description="with table: vertices by their names", json_schema_extra=MOVABLE)


@dataclass(frozen=True)
class Walks:
    """All walks over one graph; small, and pickled with each task."""

    graph: str
    """Folder of the graph's ADJACENCY."""
    facts: GraphSize
    directed: bool
    config: WalksConfig
    seed: int

    @property
    def count(self) -> int:
        """How many walks there are, those that end where they begin included."""
        return self.facts.vertices * self.config.num_walks

    def open(self) -> Graph:
        """Return the graph as this host has it; once a task is enough, since it looks at the stage's files."""
        return csr.open_graph(self.graph, self.facts, self.directed)

    def sample(self, graph: Graph, first: int, stop: int) -> WalkBatch:
        """Return the walks numbered ``first`` to ``stop`` that have two vertices or more."""
        vertices = self.facts.vertices
        places = np.arange(first, stop)
        numbers = places // vertices
        starts = np.empty(len(places), np.int64)
        for number in np.unique(numbers):
            mine = numbers == number
            starts[mine] = randomness.shuffled(places[mine] % vertices, vertices, self.seed, int(number))
        length, p, q = self.config.walk_length, self.config.p, self.config.q
        # A vertex without a way out has no walk.
        begun = graph.indptr[starts + 1] > graph.indptr[starts]
        starts, numbers = starts[begun], numbers[begun]
        tokens, lengths = walks.walk(graph, starts.astype(np.int32), numbers, length, p, q, self.seed)
        return WalkBatch(numbers * vertices + starts, lengths, tokens)


class WalkBatch(NamedTuple):
    """Some walks."""

    ids: NDArray[np.int64]
    """number * vertices + start of each walk, int64 [n]."""
    lengths: NDArray[np.int32]
    """Vertices in each walk, int32 [n]."""
    tokens: NDArray[np.int32]
    """The vertices of all walks in order, int32 [sum of lengths]."""


def feed(spark: SparkSession, walks: Walks, tokens: int, threads: int) -> BlockSource:
    """Return the walks as the trainer takes them; ``tokens`` is how many vertices they have together."""
    total = blocking.number(tokens)

    def make(wanted: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> DataFrame:
        rows = spark.range(0, total, 1, min(_MOST_TASKS, -(-total // _BLOCKS_PER_TASK)))
        return rows.mapInArrow(_blocks(walks, total, wanted, threads), BLOCKS)

    return BlockSource(tokens, total, make)


def visits(spark: SparkSession, walks: Walks) -> DataFrame:
    """Return id int and count bigint: how often the walks meet each vertex, vertices that they never meet left out."""
    most = max(1, _COUNTED // walks.config.walk_length)
    tasks = max(-(-walks.count // most), min(_FEWEST_TASKS, walks.count))
    found = spark.range(0, tasks, 1, tasks).mapInArrow(_visits(walks, tasks), "id int, count bigint")
    return found.groupBy("id").agg(F.sum("count").alias("count"))


def encoded(spark: SparkSession, walks: Walks) -> DataFrame:
    """Return the walks as ENCODED, over the vertices' numbers."""
    return _stored(spark, walks, None)


def named(spark: SparkSession, walks: Walks, vertices: str) -> DataFrame:
    """Return the walks as SEQUENCES of the names in a folder of VOCABULARY."""
    return _stored(spark, walks, vertices)


def _stored(spark: SparkSession, walks: Walks, vertices: str | None) -> DataFrame:
    each = max(1, _BATCH // walks.config.walk_length)
    total = -(-walks.count // each)
    rows = spark.range(0, total, 1, min(_MOST_TASKS, total))
    return rows.mapInArrow(_rows(walks, total, vertices), SEQUENCES if vertices else ENCODED)


def _share(walks: Walks, graph: Graph, number: int, total: int) -> WalkBatch:
    """Return one of ``total`` equal shares of the walks."""
    return walks.sample(graph, number * walks.count // total, (number + 1) * walks.count // total)


def _blocks(walks: Walks, total: int, wanted: Callable[[NDArray[np.int64]], NDArray[np.bool_]], threads: int) -> Table:
    def blocks(batches: Batches) -> Iterator[pa.RecordBatch]:
        graph = walks.open()

        def draw(number: int) -> Block:
            ids, lengths, tokens = _share(walks, graph, number, total)
            return Block(number, ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), tokens)

        with ThreadPoolExecutor(threads) as pool:
            for batch in batches:
                numbers = batch.column("id").to_numpy()
                yield from blocking.pack(pool.map(draw, numbers[wanted(numbers)].tolist()))

    return blocks


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
        graph, lookup = walks.open(), None if vertices is None else Lookup.open(vertices)
        for batch in batches:
            for number in batch.column("id").to_pylist():
                ids, lengths, tokens = _share(walks, graph, number, total)
                offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
                values = pa.array(tokens) if lookup is None else lookup.tokens(tokens)
                lists = pa.ListArray.from_arrays(pa.array(offsets), values)
                yield pa.RecordBatch.from_arrays([pa.array(ids), lists], ["id", "tokens"])

    return rows
