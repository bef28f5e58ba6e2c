"""Training with one worker: no shuffle, no process group; windows are drawn as the sequences arrive."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from embedall_spark import randomness
from embedall_spark.corpus import blocks, windows
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.train import aligned_rows, plan, slice_worker, window_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.blocks import Block

# Ints of windows drawn at a time: few enough to stay in a core's cache until the kernel has used them.
_BUFFER = 1 << 17


def run(sequences: DataFrame, slice_: slice_worker.Slice) -> DataFrame:
    """Return the job that trains a slice in one task; REPORT rows."""
    if slice_.plan.threads == 1:
        # Repeatable: the order of the blocks must not depend on Spark's partitions, which costs a shuffle.
        blocks_ = sequences.repartition(1).sortWithinPartitions("block")
    else:
        blocks_ = sequences.coalesce(1)
    return blocks_.mapInArrow(_task(slice_), slice_worker.REPORT)


def _task(slice_: slice_worker.Slice) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def train(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stats = slice_worker.WorkerStats()
        vocabulary = VocabularyIndex.open(slice_.vocabulary)
        inputs, outputs, _ = slice_worker.open_model(slice_, vocabulary, 0)
        stats.lap("load")
        train_block = _trainer(slice_, vocabulary, inputs, outputs, stats)
        stats.lap("prepare")
        slice_worker.for_each(train_block, _blocks(batches, slice_), slice_.plan.threads)
        stats.lap("train")
        stats.check((inputs, outputs), slice_, "(0, 0)", 1.0)
        written = {} if stats.diverged else slice_worker.save_model(slice_, 0, inputs, outputs)
        stats.lap("checkpoint")
        yield stats.report(0, written)

    return train


def _blocks(batches: Iterable[pa.RecordBatch], slice_: slice_worker.Slice) -> Iterator[Block]:
    episodes = slice_.plan.episode_of_blocks(slice_.epoch, slice_.config.seed)
    of_slice = slice_.plan.slice_episodes(slice_.index)
    for batch in batches:
        for block in blocks.unpack(batch):
            if int(episodes[block.number]) in of_slice:
                yield block


def _trainer(
    slice_: slice_worker.Slice,
    vocabulary: VocabularyIndex,
    inputs: np.ndarray,
    outputs: np.ndarray,
    stats: slice_worker.WorkerStats,
) -> Callable[[Block], None]:
    """Return the function that trains on one block; safe to call from several threads."""
    config, kernel = slice_.config, slice_.kernel
    windower = window_chunks.make_windower(vocabulary, config, slice_.epoch, 1)
    size = int(np.clip(16 * vocabulary.size, 1 << 20, 1 << 22))
    keys = (config.seed, slice_.epoch, slice_.index)
    table = aligned_rows.negative_table(vocabulary.counts, config.ns_exponent, size, *keys)
    progress = slice_worker.ProgressFile(slice_, 0, stats)
    buffers = threading.local()

    def train(block: Block) -> None:
        max_length = int(np.diff(block.offsets).max())
        need = max(_BUFFER, windows.capacity(max_length, min(config.window, max_length)))
        if not hasattr(buffers, "streams") or buffers.streams.shape[1] < need:
            buffers.streams, buffers.fill = windower._replace(capacity=need).buffers()
        stream, fill = buffers.streams, buffers.fill
        first = 0
        while first < len(block.ids):
            fill[:] = 0
            stop = windower.draw(block, first, stream, fill)
            share = min(1.0, stats.tokens / slice_.tokens)
            rate = plan.learning_rate(config, slice_.progress(share))
            cursor = randomness.mix(config.seed, slice_.epoch, block.number, first) % size
            _, *figures = kernel(stream[0], 0, fill[0], inputs, outputs, table, cursor, rate, 1)
            stats.add(int(block.offsets[stop] - block.offsets[first]), *figures)
            progress.update(share)
            first = stop

    return train
