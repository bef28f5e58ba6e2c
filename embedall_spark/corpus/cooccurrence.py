"""CELLS: how often tokens occur near each other, counted over BLOCKS; the input of GloVe.

Each task counts in tables of fixed size (cooccurrence_counter.py) and hands on what they hold in pieces, one for each
block of cells. The block of a cell and its place there depend on the cell alone, never on Spark's partitions, and are
random: the order in which GloVe needs its cells, which its authors' program makes by shuffling a file.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import cluster_slots, list_offsets
from embedall_spark.config import MOVABLE, OutputPath, Section
from embedall_spark.corpus import blocks
from embedall_spark.corpus.blocks import BlockSource
from embedall_spark.corpus.cooccurrence_counter import UNIT, CooccurrenceCounter
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.errors import BadData
from embedall_spark.randomness import mix_arrays
from embedall_spark.schemas import COOCCURRENCES, NAMED_COOCCURRENCES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.encoded_pages import Batches, Table
    from embedall_spark.run_context import Run

CELLS = T.StructType(
    [
        T.StructField("block", T.IntegerType(), False, {"comment": "number of the block of cells"}),
        T.StructField("rows", T.BinaryType(), False, {"comment": "ids in VOCABULARY, int32"}),
        T.StructField("columns", T.BinaryType(), False, {"comment": "ids in VOCABULARY, int32"}),
        T.StructField("counts", T.BinaryType(), False, {"comment": "counts of these pairs, float32"}),
        T.StructField("count", T.LongType(), False, {"comment": "cells in the block"}),
    ]
)
_PIECES = "block int, keys binary, counts binary"
# Tokens that one task counts at least, so that the dense counts are handed on a few times only.
_TASK_TOKENS = 1 << 25
# Pairs in a block, before equal ones are added up, and numbers of blocks.
_BLOCK_PAIRS, _MIN_BLOCK_PAIRS, _FEW, _MAX_BLOCKS = 1 << 20, 1 << 12, 64, 1 << 16
_BATCH_BYTES = 8 << 20


class CooccurrenceConfig(Section):
    """How pairs of tokens are counted, by the rules of the ``cooccur`` program of GloVe's authors."""

    symmetric: bool = Field(
        True, description="count a pair for both orders; false: rows are left tokens, columns are right tokens"
    )
    distance_weighting: bool = Field(True, description="a pair at distance d counts 1/d; false: 1")
    min_count: float = Field(0.0, ge=0, description="pairs with a smaller count are left out")
    table: OutputPath | None = Field(
        None,
        description="also write the counts to this table, for inspection; unset: they stay in the run's folder",
        json_schema_extra=MOVABLE,
    )
    names: bool = Field(False, description="with table: write the tokens, not their ids", json_schema_extra=MOVABLE)


class Cells(NamedTuple):
    """A block of cells of the co-occurrence matrix, or a part of one."""

    number: int
    rows: NDArray[np.int32]
    """Vocabulary ids, int32 [n]."""
    columns: NDArray[np.int32]
    """Vocabulary ids, int32 [n]."""
    counts: NDArray[np.float32]
    """Counts, float32 [n]."""


def build(
    run: Run, sequences: DataFrame | BlockSource, vocabulary: str, window: int, config: CooccurrenceConfig
) -> DataFrame:
    """Return the co-occurrences of BLOCKS as CELLS, the stage "cooccurrence"; write ``config.table`` where it is given.

    Args:
        run: where the stage and the table go.
        sequences: BLOCKS, or their source.
        vocabulary: the folder of the VOCABULARY's parquet files.
        window: greatest distance of a pair.
        config: how pairs are counted.

    Raises:
        BadData: no pair is left.
    """
    cells = run.stage("cooccurrence", lambda: count(sequences, vocabulary, window, config))
    if cells.isEmpty():
        raise BadData(
            "no two tokens (words, items) of the vocabulary occur near each other often enough; lower "
            "vocabulary.min_count or train.glove.cooccurrence.min_count, or give more input"
        )
    if config.table is not None:
        schema = NAMED_COOCCURRENCES if config.names else COOCCURRENCES
        rows = cells.mapInArrow(_unpacked(vocabulary if config.names else None, config.symmetric), schema)
        run.write_table(config.table, rows, schema, f"Co-occurrences within {window} tokens")
    return cells


def count(sequences: DataFrame | BlockSource, vocabulary: str, window: int, config: CooccurrenceConfig) -> DataFrame:
    """Return the co-occurrences of BLOCKS as CELLS; of symmetric counts those with row <= column, both orders added."""
    if isinstance(sequences, BlockSource):
        tokens, table = sequences.tokens, sequences.select(lambda numbers: np.ones(len(numbers), np.bool_))
    else:
        table = sequences
        tokens, _ = blocks.total_size(table)
    tasks = max(cluster_slots.total(table.sparkSession), tokens // _TASK_TOKENS)
    number = block_count(tokens * window)
    pieces = table.coalesce(tasks).mapInArrow(_count(vocabulary, window, config, number), _PIECES)
    ordered = pieces.repartition(F.col("block")).sortWithinPartitions("block")
    return ordered.mapInArrow(_merge(config.min_count), CELLS)


def block_count(pairs: int) -> int:
    """Return the number of blocks for so many pairs, which are more than there will be cells."""
    return min(_MAX_BLOCKS, max(1, min(_FEW, pairs // _MIN_BLOCK_PAIRS), pairs // _BLOCK_PAIRS))


def unpack(batch: pa.RecordBatch, symmetric: bool) -> Iterator[Cells]:
    """Yield the blocks in a batch of CELLS; of symmetric counts, each cell in both orders."""
    for row in range(batch.num_rows):
        number = batch.column("block")[row].as_py()
        rows, columns = (np.frombuffer(batch.column(name)[row].as_buffer(), np.int32) for name in ("rows", "columns"))
        counts = np.frombuffer(batch.column("counts")[row].as_buffer(), np.float32)
        if symmetric:
            others = np.flatnonzero(rows != columns)
            yield Cells(
                number,
                np.concatenate([rows, columns[others]]),
                np.concatenate([columns, rows[others]]),
                np.concatenate([counts, counts[others]]),
            )
        else:
            yield Cells(number, rows, columns, counts)


def _count(folder: str, window: int, config: CooccurrenceConfig, number: int) -> Table:
    def count(batches: Batches) -> Batches:
        counter = CooccurrenceCounter(
            VocabularyIndex.open(folder).size,
            window,
            symmetric=config.symmetric,
            distance_weighting=config.distance_weighting,
        )
        for batch in batches:
            for block in blocks.unpack(batch):
                for keys, counts in counter.add(block):
                    yield from _cut(keys, counts, number)
        for keys, counts in counter.drain():
            yield from _cut(keys, counts, number)

    return count


def _cut(keys: NDArray[np.int64], counts: NDArray[np.int64], number: int) -> Batches:
    """Yield keys and counts as pieces of the blocks that they belong to."""
    block = (mix_arrays(keys).view(np.uint64) % np.uint64(number)).astype(np.uint16)
    order = np.argsort(block, kind="stable")
    keys, counts, block = keys[order], counts[order], block[order]
    bounds = list_offsets.from_runs(block)
    starts, ends = bounds[:-1], bounds[1:]
    step = max(1, _BATCH_BYTES * len(starts) // max(1, 16 * len(block)))
    for first in range(0, len(starts), step):
        parts = [slice(start, end) for start, end in zip(starts[first : first + step], ends[first:], strict=False)]
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(block[starts[first : first + step]].astype(np.int32)),
                pa.array([keys[part].tobytes() for part in parts], pa.binary()),
                pa.array([counts[part].tobytes() for part in parts], pa.binary()),
            ],
            ["block", "keys", "counts"],
        )


def _merge(min_count: float) -> Table:
    def merge(batches: Batches) -> Batches:
        pieces = (piece for batch in batches for piece in zip(*(batch.column(i) for i in range(3)), strict=True))
        for block, group in groupby(pieces, key=lambda piece: piece[0].as_py()):
            keys, counts = (
                np.concatenate(arrays)
                for arrays in zip(
                    *([np.frombuffer(part.as_buffer(), np.int64) for part in parts] for _, *parts in group), strict=True
                )
            )
            yield from _add_up(block, keys, counts, min_count)

    return merge


def _add_up(block: int, keys: NDArray[np.int64], counts: NDArray[np.int64], min_count: float) -> Batches:
    """Yield a block of CELLS from its pieces, in the random order of the keys' hashes; nothing if no cell is left."""
    hashes = mix_arrays(keys)
    order = np.argsort(hashes)
    starts = list_offsets.from_runs(hashes[order])[:-1]
    sums = np.add.reduceat(counts[order], starts) / UNIT
    cells = keys[order[starts]]
    if min_count > 0:
        cells, sums = cells[sums >= min_count], sums[sums >= min_count]
    if len(cells):
        columns = [(cells >> 32).astype(np.int32), (cells & 0xFFFFFFFF).astype(np.int32), sums.astype(np.float32)]
        arrays = [pa.array([block], pa.int32()), *(pa.array([column.tobytes()], pa.binary()) for column in columns)]
        yield pa.RecordBatch.from_arrays([*arrays, pa.array([len(cells)])], CELLS.names)


def _unpacked(folder: str | None, symmetric: bool) -> Table:
    """Build the task's function: a row per cell, with the tokens of a VOCABULARY where its folder is given."""

    def unpacked(batches: Batches) -> Batches:
        index = VocabularyIndex.open(folder) if folder is not None else None
        for batch in batches:
            for cells in unpack(batch, symmetric):
                for first in range(0, len(cells.counts), 1 << 16):
                    part = slice(first, first + (1 << 16))
                    sides = [cells.rows[part], cells.columns[part]]
                    arrays = [pa.array(side) if index is None else index.tokens(side) for side in sides]
                    counts = pa.array(cells.counts[part].astype(np.float64))
                    yield pa.RecordBatch.from_arrays([*arrays, counts], COOCCURRENCES.names)

    return unpacked
