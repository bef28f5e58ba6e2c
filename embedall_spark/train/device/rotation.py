"""Training with several GPUs: block rotation as in train/rotation.py.

With up to eight workers the tokens of an episode come to all of them, and each draws the windows with contexts in its
input shard: four bytes a token and worker, where streams of windows have about 34 in all. With more, streams are less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from embedall_spark import devices, list_offsets
from embedall_spark.corpus import blocks
from embedall_spark.corpus.blocks import Block
from embedall_spark.corpus.cooccurrence import Cells
from embedall_spark.train import slice_state, window_chunks
from embedall_spark.train.device import feed, methods
from embedall_spark.train.device.link import Link
from embedall_spark.train.part_rotation import PartWorker
from embedall_spark.train.plan import PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from torch import Tensor

    from embedall_spark.train.device.batches import Batch
    from embedall_spark.train.plan import Shards
    from embedall_spark.train.ring import Ring
    from embedall_spark.train.spool import Spool


def token_streams(sequences: DataFrame, slice_: slice_state.Slice) -> DataFrame:
    """Return the blocks of a slice as chunks, each block at every worker."""
    return sequences.mapInArrow(_copy_blocks(slice_), window_chunks.CHUNKS).repartitionById(
        slice_.plan.workers, "worker"
    )


def _copy_blocks(slice_: slice_state.Slice) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    plan, config = slice_.plan, slice_.config
    # Cut as on the CPU: the pieces of a sequence have windows of their own.
    longest = window_chunks.max_length(plan.workers, config.window)

    def copy(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        unpacked = (block for batch in batches for block in blocks.unpack(batch))
        for episode, block in plan.select_blocks(unpacked, slice_.epoch, slice_.index, config.seed):
            stream = pack_block(window_chunks.cut(block, longest))
            for worker in range(plan.workers):
                yield window_chunks.batch([(worker, episode, 0, block.number, 0, stream)])

    return copy


def pack_block(block: Block) -> bytes:
    """Return a block as int32: number, sequences, their ids and lengths, tokens; unpack_block() is its inverse."""
    head = np.array([block.number, len(block.ids)], np.int32)
    lengths = np.diff(block.offsets).astype(np.int32)
    return np.concatenate([head, block.ids.view(np.int32), lengths, block.tokens]).tobytes()


def unpack_block(stream: NDArray[np.int32]) -> Block:
    """Return a packed block."""
    number, count = stream[:2].tolist()
    ids, lengths = stream[2 : 2 + 2 * count].copy().view(np.int64), stream[2 + 2 * count : 2 + 3 * count]
    return Block(number, ids, list_offsets.from_lengths(lengths), stream[2 + 3 * count :])


def _unpack_cells(stream: NDArray[np.int32]) -> Cells:
    size = len(stream) // 3
    return Cells(0, stream[:size], stream[size : 2 * size], stream[2 * size :].view(np.float32))


def train_slice(
    slice_: slice_state.Slice,
    ring: Ring,
    spool: Spool,
    counts: NDArray[np.int64],
    shards: Shards,
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    stats: slice_state.WorkerStats,
) -> None:
    """Train all steps of a slice; ``inputs`` and ``outputs`` are then as workers on the CPU would leave them."""
    worker = _Worker(slice_, ring, spool, counts, shards, inputs, stats)
    worker.train_slice(outputs)
    feed.store(worker.inputs, inputs)


class _Worker(PartWorker["Tensor"]):
    """A worker with a GPU."""

    def __init__(
        self,
        slice_: slice_state.Slice,
        ring: Ring,
        spool: Spool,
        counts: NDArray[np.int64],
        shards: Shards,
        inputs: NDArray[np.float32],
        stats: slice_state.WorkerStats,
    ) -> None:
        device = torch.device(devices.training_device(ring.rank))
        super().__init__(slice_, ring, spool, shards.part_sizes(), stats)
        self._link = Link(ring, device, slice_.config.timeout)
        self._feed, self._figures = feed.Feed(device), feed.Figures(device, stats)
        self._trainer = methods.trainer(slice_, counts, shards, ring.rank, PARTS, device)
        self._windows: tuple[int, list[tuple[Batch, Any]]] = (-1, [])
        self.inputs = feed.load(inputs, device)

    def train_slice(self, outputs: NDArray[np.float32]) -> None:
        """Train all steps; ``outputs`` are then as workers on the CPU would leave them."""
        device = self.inputs.device
        self._length = outputs.shape[1]
        parts = [feed.load(np.ascontiguousarray(outputs[number::PARTS]), device) for number in range(PARTS)]
        for number, part in enumerate(self.run(parts)):
            outputs[number::PARTS] = part.cpu().numpy()
        self._link.close()

    def room(self, step: int, part: int) -> Tensor:
        """Return new rows on the device."""
        return torch.empty((int(self.rows[part]), self._length), device=self.inputs.device)

    def exchange(self, outgoing: Tensor, incoming: Tensor, step: int) -> Callable[[], None]:
        """Send and receive through the link."""
        self.stats.sent_bytes += outgoing.nbytes
        return self._link.exchange(outgoing, incoming)

    def train(self, step: int, episode: int, part: int, outputs: Tensor) -> None:
        """Train on the windows of an episode with centers in a part, or on its cells."""
        self._trainer.begin_part(part, episode)
        done, total = 0, max(1, self.spool.ints(episode, self.slice.plan.chunk_key(self.slice.config, part)))
        for batch, prepared in self._prepared(episode, part):
            share = (step + min(1.0, done / total)) / self.steps
            figures = self._trainer.train(prepared, batch.number, self.inputs, outputs, self.slice.progress(share))
            self._figures.add(0, figures)
            self._feed.end_batch()
            self.progress.update(share)
            done += sum(array.nbytes for array in batch.arrays) // 4
        self._figures.flush()

    def _prepared(self, episode: int, part: int) -> Iterator[tuple[Batch, Any]]:
        """Yield batches, ready on the device; windows are drawn once in an episode and stay there for all its parts."""
        plan, config = self.slice.plan, self.slice.config
        chunks = self.spool.chunks(episode, plan.chunk_key(config, part))
        if not plan.has_tokens(config):
            yield from self._prepare(map(_unpack_cells, chunks) if config.method == "glove" else chunks)
            return
        if self._windows[0] != episode:
            self._windows = (-1, [])
            self._windows = (episode, list(self._prepare(map(unpack_block, chunks))))
        yield from self._windows[1]

    def _prepare(self, unpacked: Iterable[Any]) -> Iterator[tuple[Batch, Any]]:
        for batch in self._trainer.batches(unpacked):
            yield batch, self._trainer.prepare(batch, self._feed.put(*batch.arrays))
