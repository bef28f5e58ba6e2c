"""Training with several GPUs: block rotation as in train/rotation.py, of halves of the output shards.

While a worker trains on one half, the half before is on its way to the next worker, and the one after arrives. With up
to eight workers the tokens of an episode come to all of them, and each draws the windows with contexts in its input
shard: four bytes a token and worker, where streams of windows have about 34 in all. With more, streams are less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from embedall_spark import devices
from embedall_spark.corpus import blocks
from embedall_spark.corpus.blocks import Block
from embedall_spark.corpus.cooccurrence import Cells
from embedall_spark.train import slice_state, slice_worker, window_chunks
from embedall_spark.train.device import feed, methods
from embedall_spark.train.device.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from torch import Tensor

    from embedall_spark.train.device.batches import Batch
    from embedall_spark.train.plan import Shards
    from embedall_spark.train.ring import Ring
    from embedall_spark.train.spool import Spool

_PARTS = 2  # of an output shard; its rows take turns, so that both have equally much work


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
    return Block(number, ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), stream[2 + 3 * count :])


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
    parts = worker.run(outputs)
    feed.store(worker.inputs, inputs)
    for number, part in enumerate(parts):
        outputs[number::_PARTS] = part.cpu().numpy()


class _Worker:
    """One worker of W, in its slice."""

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
        self._slice, self._ring, self._spool, self._stats = slice_, ring, spool, stats
        self._rows = np.bincount(shards.shard, minlength=ring.size)
        self._link = Link(ring, device, slice_.config.timeout)
        self._feed, self._figures = feed.Feed(device), feed.Figures(device, stats)
        self._trainer = methods.trainer(slice_, counts, shards, ring.rank, _PARTS, device)
        self._progress = slice_state.ProgressFile(slice_, ring.rank, stats)
        self._windows: tuple[int, list[tuple[Batch, Any]]] = (-1, [])
        self.inputs = feed.load(inputs, device)

    def run(self, outputs: NDArray[np.float32]) -> list[Tensor]:
        """Train all steps; return the parts of this worker's output shard, which have come back to it."""
        device, around = self.inputs.device, _PARTS * self._ring.size
        now, later = (feed.load(np.ascontiguousarray(outputs[part::_PARTS]), device) for part in range(_PARTS))
        before: Tensor | None = None
        episodes = self._slice.plan.slice_episodes(self._slice.index)
        for step in range(len(episodes) * around):
            part = (_PARTS * self._ring.rank + step) % around
            if before is not None:
                later = self._part(part + 1, now)
                arrive = self._link.exchange(before, later)
            self._train(episodes[step // around], part, now, (step, len(episodes) * around))
            self._stats.lap("train")
            if before is not None:
                arrive()
                self._stats.sent_bytes += before.nbytes
                self._stats.lap("exchange")
            if self._diverged(now, part, (step + 1) / (len(episodes) * around)):
                return [now, later] if part % _PARTS == 0 else [later, now]
            before, now = now, later
        assert before is not None
        last = self._part(_PARTS * self._ring.rank + 1, now)
        self._link.exchange(before, last)()
        self._link.close()
        return [now, last]

    def _part(self, part: int, like: Tensor) -> Tensor:
        """Return room for a part, counted round the ring."""
        shard, number = divmod(part % (_PARTS * self._ring.size), _PARTS)
        rows = (int(self._rows[shard]) + _PARTS - 1 - number) // _PARTS
        return torch.empty((rows, like.shape[1]), device=like.device)

    def _train(self, episode: int, part: int, outputs: Tensor, step_of: tuple[int, int]) -> None:
        """Train on the windows of an episode with centers in a part, or on its cells."""
        step, steps = step_of
        self._trainer.begin_part(part, episode)
        done, total = 0, max(1, self._spool.ints(episode, self._key(part)))
        for batch, prepared in self._prepared(episode, part):
            share = (step + min(1.0, done / total)) / steps
            self._figures.add(
                0, self._trainer.train(prepared, batch.number, self.inputs, outputs, self._slice.progress(share))
            )
            self._feed.end_batch()
            self._progress.update(share)
            done += sum(array.nbytes for array in batch.arrays) // 4
        self._figures.flush()

    def _key(self, part: int) -> int:
        """Return under which shard of the spool a part's chunks are: tokens are there once for all."""
        return 0 if self._slice.plan.has_tokens(self._slice.config) else part // _PARTS

    def _prepared(self, episode: int, part: int) -> Iterator[tuple[Batch, Any]]:
        """Yield batches, ready on the device; windows are drawn once in an episode and stay there for all its parts."""
        chunks = self._spool.chunks(episode, self._key(part))
        if not self._slice.plan.has_tokens(self._slice.config):
            is_glove = self._slice.config.method == "glove"
            yield from self._prepare(map(_unpack_cells, chunks) if is_glove else chunks)
            return
        if self._windows[0] != episode:
            self._windows = (-1, [])
            self._windows = (episode, list(self._prepare(map(unpack_block, chunks))))
        yield from self._windows[1]

    def _prepare(self, unpacked: Iterable[Any]) -> Iterator[tuple[Batch, Any]]:
        for batch in self._trainer.batches(unpacked):
            yield batch, self._trainer.prepare(batch, self._feed.put(*batch.arrays))

    def _diverged(self, outputs: Tensor, part: int, share: float) -> bool:
        """Return whether some worker's rows are not finite or too large; all workers then stop."""
        block = f"({self._ring.rank}, {part // _PARTS})"
        slice_worker.check_model(self._slice, self._stats, self.inputs, outputs, block, share)
        if not self._ring.max_status(int(self._stats.diverged is not None)):
            return False
        self._stats.diverged = self._stats.diverged or "another worker's shard diverged"
        return True
