"""The trainer with one worker: no shuffle, no process group; windows are drawn as the sequences arrive."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from embedall_spark import randomness
from embedall_spark.corpus import blocks, windows
from embedall_spark.corpus.vocabulary_index import Lookup
from embedall_spark.train import plan, sgns, slice_worker, window_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.blocks import Block

# Ints of windows drawn at a time: they stay in a core's cache until the kernel has used them.
_BUFFER = 1 << 17


def run(sequences: DataFrame, slice_: slice_worker.Slice) -> DataFrame:
    """Return the job that trains one slice in one task; REPORT rows."""
    # A shuffle is paid only where the order of the blocks must not depend on Spark's partitions.
    ordered = sequences.repartition(1).sortWithinPartitions("block") if slice_.plan.threads == 1 else None
    return (ordered if ordered is not None else sequences.coalesce(1)).mapInArrow(_task(slice_), slice_worker.REPORT)


def _task(slice_: slice_worker.Slice) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def train(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tally = slice_worker.Tally()
        lookup = Lookup.open(slice_.vocabulary)
        inputs, outputs, _ = slice_worker.open_model(slice_, lookup, 0)
        tally.lap("load")
        trainer = _trainer(slice_, lookup, inputs, outputs, tally)
        tally.lap("prepare")
        slice_worker.each(trainer, _blocks(batches, slice_), slice_.plan.threads)
        tally.lap("train")
        tally.check((inputs, outputs), slice_, "(0, 0)", 1.0)
        written = {} if tally.diverged else slice_worker.save_model(slice_, 0, inputs, outputs)
        tally.lap("checkpoint")
        yield tally.report(0, written)

    return train


def _blocks(batches: Iterable[pa.RecordBatch], slice_: slice_worker.Slice) -> Iterator[Block]:
    episodes = slice_.plan.episode_of_blocks(slice_.epoch, slice_.config.seed)
    mine = slice_.plan.slice_episodes(slice_.index)
    for batch in batches:
        for block in blocks.unpack(batch):
            if int(episodes[block.number]) in mine:
                yield block


def _trainer(
    slice_: slice_worker.Slice, lookup: Lookup, inputs: np.ndarray, outputs: np.ndarray, tally: slice_worker.Tally
) -> Callable[[Block], None]:
    """Return the function that trains on one block; safe to call from several threads."""
    config, compiled = slice_.config, slice_.compiled
    source = window_chunks.windower(lookup, config, slice_.epoch, 1)
    size = int(np.clip(16 * lookup.size, 1 << 20, 1 << 22))
    table = sgns.negative_table(lookup.counts, config.ns_exponent, size, config.seed, slice_.epoch, slice_.index)
    expected = max(1.0, slice_.plan.corpus.tokens / slice_.plan.slices)
    buffers = threading.local()

    def train(block: Block) -> None:
        longest = int(np.diff(block.offsets).max())
        need = max(_BUFFER, windows.capacity(longest, min(config.window, longest)))
        if not hasattr(buffers, "streams") or buffers.streams.shape[1] < need:
            buffers.streams, buffers.fill = source._replace(capacity=need).buffers()
        stream, fill = buffers.streams, buffers.fill
        first = 0
        while first < len(block.ids):
            fill[:] = 0
            stop = source.draw(block, first, stream, fill)
            rate = plan.rate(config, slice_.progress(min(1.0, tally.tokens / expected)))
            cursor = randomness.mix(config.seed, slice_.epoch, block.number, first) % size
            _, *done = compiled(stream[0], 0, fill[0], inputs, outputs, table, cursor, rate, 1)
            tally.trained(int(block.offsets[stop] - block.offsets[first]), *done)
            first = stop

    return train
