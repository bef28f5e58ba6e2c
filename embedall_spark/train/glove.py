"""GloVe as a method of the trainer: what a worker does with blocks or chunks of co-occurrence counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from pyspark.sql import functions as F

from embedall_spark import randomness
from embedall_spark.corpus import cooccurrence
from embedall_spark.corpus.cooccurrence import Cells
from embedall_spark.corpus.ngrams import NO_NGRAMS
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.train import glove_kernel, plan, shard_io, window_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from torch import Tensor

    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.slice_state import ProgressFile, Slice, WorkerStats

    Matrix = TypeVar("Matrix", NDArray[np.float32], Tensor)

UNIT, RATE = "cells", "train.glove.eta"
# Cells between two updates of the progress.
_STEP = 1 << 17


def saved_lengths(config: TrainConfig) -> tuple[int, int]:
    """Return the floats of rows in a checkpoint: vector, bias and the sums of squared gradients."""
    return (2 * glove_kernel.half_length(config.vector_size),) * 2


def initial_rows(
    ids: NDArray[np.int64], config: TrainConfig, buckets: NDArray[np.int32] = NO_NGRAMS.buckets
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return untrained rows of both sides, see glove_kernel.initial_rows(); GloVe has no n-grams."""
    dim = config.vector_size
    inputs, outputs = (shard_io.random_rows(ids, dim + 1, dim, randomness.mix(config.seed, side)) for side in range(2))
    return glove_kernel.initial_rows(inputs, outputs, dim)


def start_inputs(
    vectors: NDArray[np.float32], contexts: NDArray[np.float32], config: TrainConfig
) -> NDArray[np.float32]:
    """Return the input vectors of a table, whose vectors may be the sums of both sides.

    The sums of squared gradients stay at 1. Those of vectors hardly leave it in any training, since the learning rate's
    square is in them.
    """
    return vectors - contexts if config.glove.vector == "sum" else vectors


def start_columns(config: TrainConfig) -> NDArray[np.int64]:
    """Return the columns of a row that a start from a table gives: the vector and its squares, not the bias."""
    vector = np.arange(config.vector_size)
    return np.concatenate([vector, glove_kernel.half_length(config.vector_size) + vector])


def weights(rows: Matrix, config: TrainConfig) -> Matrix:
    """Return the part of rows that must stay small: vectors and biases, not the sums of squared gradients."""
    return rows[:, : glove_kernel.half_length(config.vector_size)]


def shuffle(cells: DataFrame, slice_: Slice) -> DataFrame:
    """Return a slice's blocks in one partition and in a random order; of symmetric counts, each block twice.

    Column ``side`` then tells which order of its pairs is meant. With both orders of a pair at one place, or with one
    order of blocks in all epochs, analogies are a point worse: see docs/log.md, 2026-11-30.
    """
    plan, config = slice_.plan, slice_.config
    if plan.slices > 1:
        in_slice = plan.block_filter(slice_.epoch, slice_.index, config.seed)(np.arange(plan.corpus.blocks))
        cells = cells.where(F.col("block").isin(np.flatnonzero(in_slice).tolist()))
    cells, keys = cells.repartition(1), ["block"]
    if config.glove.cooccurrence.symmetric:
        # After the shuffle, which moves each block once.
        cells, keys = cells.withColumn("side", F.explode(F.array(F.lit(0), F.lit(1)))), ["block", "side"]
    return cells.sortWithinPartitions(F.xxhash64(*keys, F.lit(config.seed), F.lit(slice_.epoch)), *keys)


def unpack(batch: pa.RecordBatch, config: TrainConfig) -> Iterator[Cells]:
    """Yield the blocks in a batch of CELLS; of symmetric counts each cell in both orders, or in one after shuffle()."""
    if "side" not in batch.schema.names:
        yield from cooccurrence.unpack(batch, config.glove.cooccurrence.symmetric)
        return
    for side, cells in zip(batch.column("side").to_pylist(), cooccurrence.unpack(batch, False), strict=True):
        # Row is the more frequent token in about half of the cells of each side.
        swapped = (cells.rows ^ cells.columns) & 1 != side
        rows, columns = np.where(swapped, cells.columns, cells.rows), np.where(swapped, cells.rows, cells.columns)
        kept = np.flatnonzero(rows != columns) if side else slice(None)
        yield Cells(cells.number, rows[kept], columns[kept], cells.counts[kept])


def streams(cells: DataFrame, slice_: Slice) -> DataFrame:
    """Return the chunks of a slice's cells, each at the worker that has their rows.

    A chunk has the cells of one block, of one shard of inputs and one part of the outputs: rows and columns as indices
    there, int32, then the counts, float32.
    """
    return cells.mapInArrow(_divide(slice_), window_chunks.CHUNKS).repartitionById(slice_.plan.workers, "worker")


def block_trainer(
    slice_: Slice,
    vocabulary: VocabularyIndex,
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    stats: WorkerStats,
    progress: ProgressFile,
) -> Callable[[Cells], None]:
    """Return the function that trains the whole model on one block of cells; safe to call from several threads."""
    train_cells = _trainer(slice_.config, inputs, outputs)

    def train(cells: Cells) -> None:
        for first in range(0, len(cells.counts), _STEP):
            stop = min(first + _STEP, len(cells.counts))
            loss = train_cells(cells.rows, cells.columns, cells.counts, first, stop)
            stats.add(stop - first, stop - first, loss, stop - first)
            progress.update(min(1.0, stats.tokens / slice_.tokens))

    return train


def chunk_trainer(
    slice_: Slice,
    counts: NDArray[np.int64],
    ints: int,
    key: tuple[int, int],
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
) -> Callable[[int, NDArray[np.int32], float], tuple[int, float, float]]:
    """Return the function that trains two shards on one chunk of cells; see word2vec.chunk_trainer()."""
    train_cells = _trainer(slice_.config, inputs, outputs)

    def train(number: int, stream: NDArray[np.int32], progress: float) -> tuple[int, float, float]:
        size = len(stream) // 3
        loss = train_cells(stream[:size], stream[size : 2 * size], stream[2 * size :].view(np.float32), 0, size)
        return size, loss, size

    return train


def _trainer(config: TrainConfig, inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> Callable[..., float]:
    """Return the kernel with this run's model and options: of rows, columns, counts, start and stop."""
    kernel, options = glove_kernel.kernel(config.vector_size), config.glove
    constants = [np.float32(value) for value in (options.x_max, options.alpha, options.eta, options.grad_clip)]

    def train(*cells: object) -> float:
        return kernel(*cells, inputs, outputs, *constants)

    return train


def _divide(slice_: Slice) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Build the task's function: cells of whole blocks to chunks by pairs of shards."""
    config, workers = slice_.config, slice_.plan.workers

    def divide(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        vocabulary = VocabularyIndex.open(slice_.vocabulary)
        shards = plan.shards(vocabulary.counts, workers, config.sample, vocabulary.folder)
        blocks = (cells for batch in batches for cells in unpack(batch, config))
        for episode, cells in slice_.plan.select_blocks(blocks, slice_.epoch, slice_.index, config.seed):
            rows = [
                (worker, episode, part, cells.number, 0, stream)
                for worker, part, stream in _chunks(cells, shards, workers)
            ]
            yield window_chunks.batch(rows)

    return divide


def _chunks(cells: Cells, shards: plan.Shards, workers: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the shard of the rows, the part of the columns, and the chunk's bytes."""
    parts = workers * plan.PARTS
    rows, columns, counts = shards.local[cells.rows], shards.local[cells.columns], cells.counts.view(np.int32)
    column_parts = shards.shard[cells.columns] * plan.PARTS + columns % plan.PARTS
    # At most 128 workers: the key fits, and numpy sorts 16 bits in linear time.
    keys = (shards.shard[cells.rows] * parts + column_parts).astype(np.uint16)
    order = np.argsort(keys, kind="stable")
    bounds = np.searchsorted(keys[order], np.arange(workers * parts + 1))
    columns = columns // plan.PARTS
    for key in np.flatnonzero(np.diff(bounds)).tolist():
        chunk = order[bounds[key] : bounds[key + 1]]
        yield *divmod(key, parts), np.concatenate([rows[chunk], columns[chunk], counts[chunk]]).tobytes()
