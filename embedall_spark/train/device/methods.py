"""What a GPU does with a batch of each method: word2vec with blocks of tokens, GloVe with co-occurrence counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embedall_spark import randomness
from embedall_spark.train import aligned_rows, plan, sgns
from embedall_spark.train.device import batches, glove_kernel, sgns_kernel, windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from embedall_spark.corpus.cooccurrence import Cells
    from embedall_spark.train.device.batches import Batch
    from embedall_spark.train.plan import Shards
    from embedall_spark.train.slice_state import Slice

# A short training still has so many batches, because the learning rate falls with them.
_BATCHES = 200
_MAX_TABLE = 1 << 22


class Trainer(Protocol):
    """A method on a device, for one worker of W; a shard of outputs has ``parts`` parts."""

    def batches(self, blocks: Iterable[Any]) -> Iterator[Batch]:
        """Join blocks to batches."""

    def prepare(self, batch: Batch, tensors: tuple[Tensor, ...]) -> Any:
        """Return what train() needs of a batch on the device, with contexts or rows in this worker's input shard."""

    def begin_part(self, part: int, key: int) -> None:
        """Get ready for a part of the outputs, counted through all shards; ``key`` tells its visits apart."""

    def train(self, prepared: Any, number: int, inputs: Tensor, outputs: Tensor, progress: float) -> Tensor:
        """Train the input shard and the part on a batch; return the kernel's figures, float32 [programs, 3]."""


class SgnsTrainer:
    """Skip-gram with negative sampling; see Trainer."""

    def __init__(
        self, slice_: Slice, counts: NDArray[np.int64], shards: Shards, rank: int, parts: int, device: torch.device
    ) -> None:
        config, self._workers = slice_.config, slice_.plan.workers
        self._slice, self._counts, self._shards, self._rank, self._parts = slice_, counts, shards, rank, parts
        self._device = device
        self._batch_size = config.batch_size or sgns.MAX_CONTEXTS
        seed = randomness.mix(config.seed, slice_.epoch)
        self._windower = windows.make(
            counts, shards.shard, shards.local, config.sample, config.window, config.shrink_windows, seed, device
        )
        dim = aligned_rows.padded_length(config.vector_size)
        rows = len(counts) // (self._workers * parts)
        hottest = windows.hottest_row(counts, config.sample, config.ns_exponent, config.negative, self._workers * parts)
        self._programs = sgns_kernel.count_programs(device, rows, dim, config.negative, hottest)

    def batches(self, blocks: Iterable[Any]) -> Iterator[Batch]:
        """Join blocks of sequences to batches of about a million tokens."""
        return batches.of_blocks(blocks, _batch_size(self._slice))

    def prepare(self, batch: Batch, tensors: tuple[Tensor, ...]) -> sgns_kernel.Groups:
        """Draw the windows, sorted by their centers' parts."""
        return self._windower.draw(windows.Tokens(*tensors), self._rank, self._workers, self._parts)

    def begin_part(self, part: int, key: int) -> None:
        """Draw the table of negatives."""
        import torch

        config = self._slice.config
        counts = self._counts
        if self._workers > 1:
            counts = counts[self._shards.part_ids(part)]
        size = int(np.clip(16 * len(counts), 1 << 16, _MAX_TABLE))
        keys = (config.seed, self._slice.epoch, self._slice.index, part, key)
        table = aligned_rows.negative_table(counts, config.ns_exponent, size, *keys)
        self._part, self._keys, self._table = part, keys, torch.from_numpy(table).to(self._device)

    def train(
        self, prepared: sgns_kernel.Groups, number: int, inputs: Tensor, outputs: Tensor, progress: float
    ) -> Tensor:
        """Call the kernel."""
        config = self._slice.config
        cursor = randomness.mix(*self._keys, number) % len(self._table)
        rate = float(plan.learning_rate(config, progress))
        return sgns_kernel.train(
            prepared, self._part, inputs, outputs, self._table, cursor, rate, config.negative, self._batch_size,
            config.window, self._programs,
        )  # fmt: skip


class StreamTrainer(SgnsTrainer):
    """Skip-gram on streams of windows that CPUs have drawn."""

    def batches(self, blocks: Iterable[Any]) -> Iterator[Batch]:
        """Return a batch for each chunk."""
        return batches.of_streams(blocks)

    def prepare(self, batch: Batch, tensors: tuple[Tensor, ...]) -> sgns_kernel.Groups:
        """Return the windows of a chunk, whose centers are all in one part."""
        return windows.of_stream(*tensors)

    def begin_part(self, part: int, key: int) -> None:
        """Draw the table of negatives; a chunk has windows of this part alone."""
        super().begin_part(part, key)
        self._part = 0


class GloveTrainer:
    """GloVe; see Trainer. Its rows and columns are numbers in their shards."""

    def __init__(
        self, slice_: Slice, counts: NDArray[np.int64], shards: Shards, rank: int, parts: int, device: torch.device
    ) -> None:
        options = slice_.config.glove
        self._slice, self._dim = slice_, slice_.config.vector_size
        self._constants = glove_kernel.Constants(options.x_max, options.alpha, options.eta, options.grad_clip)
        rows = len(counts) // (slice_.plan.workers * parts)
        self._programs = sgns_kernel.count_programs(
            device, rows, aligned_rows.padded_length(self._dim + 2), glove_kernel.ROWS - 1
        )

    def batches(self, blocks: Iterable[Cells]) -> Iterator[Batch]:
        """Cut blocks of cells to batches."""
        return batches.of_cells(blocks, _batch_size(self._slice))

    def prepare(self, batch: Batch, tensors: tuple[Tensor, ...]) -> glove_kernel.CellBatch:
        """Name the tensors."""
        return glove_kernel.CellBatch(*tensors)

    def begin_part(self, part: int, key: int) -> None:
        """Do nothing: there are no negatives, and a chunk has cells of this part alone."""

    def train(
        self, prepared: glove_kernel.CellBatch, number: int, inputs: Tensor, outputs: Tensor, progress: float
    ) -> Tensor:
        """Call the kernel."""
        return glove_kernel.train(prepared, inputs, outputs, self._dim, self._constants, self._programs)


def trainer(
    slice_: Slice, counts: NDArray[np.int64], shards: Shards, rank: int, parts: int, device: torch.device
) -> Trainer:
    """Return the configured method.

    Args:
        slice_: the part of the training.
        counts: counts of the vocabulary, int64 [V].
        shards: which rows each worker has.
        rank: number of the worker.
        parts: parts of a shard of outputs.
        device: where it trains.
    """
    method: type[GloveTrainer | SgnsTrainer] = SgnsTrainer
    if slice_.config.method == "glove":
        method = GloveTrainer
    elif slice_.plan.workers > plan.MOST_TOKEN_COPIES:
        method = StreamTrainer
    return method(slice_, counts, shards, rank, parts, device)


def _batch_size(slice_: Slice) -> int:
    return int(np.clip(slice_.tokens * slice_.plan.slices * slice_.config.epochs / _BATCHES, 1 << 10, batches.SIZE))
