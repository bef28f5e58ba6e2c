"""Windows as a Spark job: sequence blocks -> chunks of (center, contexts) groups, on their way to the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from embedall_spark import randomness
from embedall_spark.corpus import blocks, windows
from embedall_spark.corpus.vocabulary_index import Lookup
from embedall_spark.train import plan as plans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.blocks import Block
    from embedall_spark.train.config import SkipGram
    from embedall_spark.train.plan import Plan, Shards

_CHUNKS = "worker int, episode int, shard int, block int, number int, stream binary"
# All the buffers of a task together, one buffer at most and at least, and one batch on its way to the JVM, in bytes.
_BUFFERS, _LARGEST, _SMALLEST, _BATCH = 256 << 20, 1 << 20, 16 << 10, 8 << 20


class Windower(NamedTuple):
    """What it takes to draw windows from a block; the same in every task."""

    keep: NDArray[np.uint32]
    shards: Shards
    workers: int
    window: int
    shrink: bool
    seed: int
    capacity: int
    """Ints in a buffer."""

    def prepare(self, block: Block) -> Block:
        """Return the block with sequences cut that would not fit into a buffer."""
        return cut(block, windows.longest(self.capacity, self.window))

    def buffers(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return empty streams, int32 [workers², capacity], and how far each is filled, int64 [workers²]."""
        return np.empty((self.workers**2, self.capacity), np.int32), np.zeros(self.workers**2, np.int64)

    def draw(self, block: Block, first: int, streams: NDArray[np.int32], fill: NDArray[np.int64]) -> int:
        """Append the windows of the block's sequences from ``first`` on; return the next one to do."""
        return int(
            windows.draw(
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
                np.uint64(self.seed),
                streams,
                fill,
            )
        )


def cut(block: Block, longest: int) -> Block:
    """Return the block with sequences of more than ``longest`` tokens cut into several, each with an id of its own.

    Only with many workers and long sequences is there anything to cut.
    """
    lengths = np.diff(block.offsets)
    if not len(lengths) or lengths.max() <= longest:
        return block
    pieces = -(-lengths // longest)
    owner = np.repeat(np.arange(len(lengths)), pieces)
    piece = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    offsets = np.append(block.offsets[owner] + piece * longest, block.offsets[-1])
    # An odd multiplier gives each piece another id, and the first piece its sequence's.
    ids = block.ids[owner] + piece * np.int64(0x5851F42D4C957F2D)
    return block._replace(ids=ids, offsets=offsets)


def windower(lookup: Lookup, config: SkipGram, epoch: int, workers: int) -> Windower:
    """Return the way to draw one epoch's windows; each epoch draws its own."""
    return Windower(
        windows.keep_thresholds(lookup.counts, config.sample),
        plans.shards(lookup.counts, workers, config.sample, lookup.folder),
        workers,
        config.window,
        config.shrink_windows,
        randomness.mix(config.seed, epoch),
        _capacity(workers),
    )


def longest(workers: int, window: int) -> int:
    """Return after how many tokens a sequence is cut; with one worker none is."""
    return windows.longest(_capacity(workers), window)


def _capacity(workers: int) -> int:
    return min(_LARGEST, max(_SMALLEST, _BUFFERS // workers**2)) // 4


def streams(sequences: DataFrame, vocabulary: str, plan: Plan, config: SkipGram, epoch: int, index: int) -> DataFrame:
    """Return one slice's chunks, each on the partition of the worker that holds its contexts.

    Chunks are numbered inside their sequence block, and blocks come from sequence ids, so that a worker that sorts
    them sees the same whatever Spark's partitions were.
    """
    chunks = sequences.mapInArrow(_draw(vocabulary, plan, config, epoch, index), _CHUNKS)
    return chunks.repartitionById(plan.workers, "worker")


def _draw(
    vocabulary: str, plan: Plan, config: SkipGram, epoch: int, index: int
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        source = windower(Lookup.open(vocabulary), config, epoch, plan.workers)
        episodes, mine = plan.episode_of_blocks(epoch, config.seed), plan.slice_episodes(index)
        rows: list[tuple[int, int, int, int, int, bytes]] = []
        size = 0
        buffers, fill = source.buffers()
        for batch in batches:
            for block in blocks.unpack(batch):
                episode = int(episodes[block.number])
                if episode not in mine:
                    continue
                for key, number, stream in _chunks(source, block, buffers, fill):
                    rows.append((key // plan.workers, episode, key % plan.workers, block.number, number, stream))
                    size += len(stream)
                    if size >= _BATCH:
                        yield _batch(rows)
                        rows, size = [], 0
        if rows:
            yield _batch(rows)

    return run


def _chunks(
    source: Windower, block: Block, buffers: NDArray[np.int32], fill: NDArray[np.int64]
) -> Iterator[tuple[int, int, bytes]]:
    """Yield (stream, number of the chunk in the block, bytes); all buffers are empty afterwards."""
    block = source.prepare(block)
    first = number = 0
    while first < len(block.ids):
        first = source.draw(block, first, buffers, fill)
        for key in np.flatnonzero(fill):
            yield int(key), number, buffers[key, : fill[key]].tobytes()
        fill[:] = 0
        number += 1


def _batch(rows: list[tuple[int, int, int, int, int, bytes]]) -> pa.RecordBatch:
    kinds = [pa.int32()] * 5 + [pa.binary()]
    columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    return pa.RecordBatch.from_arrays(columns, [field.split()[0] for field in _CHUNKS.split(", ")])
