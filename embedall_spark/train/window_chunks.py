"""Windows as a Spark job: sequence blocks -> chunks of (center, contexts) groups, shuffled to the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from embedall_spark import randomness
from embedall_spark.corpus import blocks, windows
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.train import plan as plans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.blocks import Block
    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.plan import Plan, Shards

CHUNKS = "worker int, episode int, part int, block int, number int, stream binary"
# In bytes: all buffers of a task together, one buffer at most and at least, and a batch on its way to the JVM.
_BUFFERS, _MAX_BUFFER, _MIN_BUFFER, _BATCH = 256 << 20, 1 << 20, 8 << 10, 8 << 20


class Windower(NamedTuple):
    """Draws windows from blocks; the same in every task."""

    keep: NDArray[np.uint32]
    shards: Shards
    workers: int
    window: int
    shrink: bool
    parts: int
    """Of a shard of outputs."""
    by_center: bool
    """Windows go to the worker that has the center's row, and name contexts by vocabulary ids."""
    seed: int
    capacity: int
    """Ints in a buffer."""

    def prepare(self, block: Block) -> Block:
        """Return the block with those sequences cut that would not fit into a buffer."""
        return cut(block, windows.max_length(self.capacity, self.window))

    def buffers(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return empty streams, int32 [streams, capacity], and the ints in use of each, int64 [streams]."""
        count = self.workers if self.by_center else self.workers**2 * self.parts
        return np.empty((count, self.capacity), np.int32), np.zeros(count, np.int64)

    def destination(self, stream: int) -> tuple[int, int]:
        """Return a stream's worker, and the part of all outputs that its windows are for; 0 if they are for all."""
        return (stream, 0) if self.by_center else divmod(stream, self.workers * self.parts)

    def draw(self, block: Block, first: int, streams: NDArray[np.int32], fill: NDArray[np.int64]) -> int:
        """Append the windows of the block's sequences from ``first`` on; return the sequence to go on with."""
        return int(
            windows.draw_windows(
                block.tokens,
                block.offsets,
                block.ids,
                first,
                self.keep,
                self.shards.shard,
                self.shards.local,
                self.workers,
                self.window,
                self.shrink,
                self.parts,
                self.by_center,
                np.uint64(self.seed),
                streams,
                fill,
            )
        )


def cut(block: Block, max_length: int) -> Block:
    """Return the block with sequences of more than ``max_length`` tokens cut into several, each with its own id.

    This happens only with many workers and long sequences.
    """
    lengths = np.diff(block.offsets)
    if not len(lengths) or lengths.max() <= max_length:
        return block
    pieces = -(-lengths // max_length)
    owner = np.repeat(np.arange(len(lengths)), pieces)
    piece = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    offsets = np.append(block.offsets[owner] + piece * max_length, block.offsets[-1])
    # The first piece has the sequence's id; an odd multiplier gives each other piece a different one.
    ids = block.ids[owner] + piece * np.int64(0x5851F42D4C957F2D)
    return block._replace(ids=ids, offsets=offsets)


def make_windower(vocabulary: VocabularyIndex, config: TrainConfig, epoch: int, workers: int) -> Windower:
    """Return what draws an epoch's windows; each epoch draws new ones."""
    return Windower(
        windows.keep_thresholds(vocabulary.counts, config.sample),
        plans.shards(vocabulary.counts, workers, config.sample, vocabulary.folder),
        workers,
        config.window,
        config.shrink_windows,
        plans.PARTS if workers > 1 else 1,
        bool(config.hs) and workers > 1,
        randomness.mix(config.seed, epoch),
        _capacity(workers),
    )


def max_length(workers: int, window: int) -> int:
    """Return the number of tokens after which a sequence is cut; with one worker none is cut."""
    return windows.max_length(_capacity(workers), window)


def _capacity(workers: int) -> int:
    return min(_MAX_BUFFER, max(_MIN_BUFFER, _BUFFERS // (plans.PARTS * workers**2))) // 4


def streams(
    sequences: DataFrame, vocabulary: str, plan: Plan, config: TrainConfig, epoch: int, index: int
) -> DataFrame:
    """Return a slice's chunks, each in the partition of the worker that has its input rows.

    Chunks are numbered within their sequence block, and blocks depend on sequence ids alone, so that a worker that
    sorts them sees the same chunks for any partitioning.
    """
    chunks = sequences.mapInArrow(_draw(vocabulary, plan, config, epoch, index), CHUNKS)
    return chunks.repartitionById(plan.workers, "worker")


def _draw(
    vocabulary: str, plan: Plan, config: TrainConfig, epoch: int, index: int
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        windower = make_windower(VocabularyIndex.open(vocabulary), config, epoch, plan.workers)
        rows: list[tuple[int, int, int, int, int, bytes]] = []
        size = 0
        buffers, fill = windower.buffers()
        unpacked = (block for sequences in batches for block in blocks.unpack(sequences))
        for episode, block in plan.select_blocks(unpacked, epoch, index, config.seed):
            for key, number, stream in _chunks(windower, block, buffers, fill):
                worker, part = windower.destination(key)
                rows.append((worker, episode, part, block.number, number, stream))
                size += len(stream)
                if size >= _BATCH:
                    yield batch(rows)
                    rows, size = [], 0
        if rows:
            yield batch(rows)

    return run


def _chunks(
    windower: Windower, block: Block, buffers: NDArray[np.int32], fill: NDArray[np.int64]
) -> Iterator[tuple[int, int, bytes]]:
    """Yield (stream, number of the chunk within the block, bytes); all buffers are empty afterwards."""
    block = windower.prepare(block)
    first = number = 0
    while first < len(block.ids):
        first = windower.draw(block, first, buffers, fill)
        for key in np.flatnonzero(fill):
            yield int(key), number, buffers[key, : fill[key]].tobytes()
        fill[:] = 0
        number += 1


def batch(rows: list[tuple[int, int, int, int, int, bytes]]) -> pa.RecordBatch:
    """Return rows of CHUNKS as a batch."""
    types = [pa.int32()] * 5 + [pa.binary()]
    columns = [pa.array(values, type_) for values, type_ in zip(zip(*rows, strict=True), types, strict=True)]
    return pa.RecordBatch.from_arrays(columns, [field.split()[0] for field in CHUNKS.split(", ")])
