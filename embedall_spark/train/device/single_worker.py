"""Training with one worker on a GPU: the model stays there for a slice, blocks stream to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from embedall_spark.train.device import feed, methods

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from embedall_spark.train.plan import Shards
    from embedall_spark.train.slice_state import ProgressFile, Slice, WorkerStats


def train_blocks(
    slice_: Slice,
    counts: NDArray[np.int64],
    shards: Shards,
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    blocks: Iterable[Any],
    stats: WorkerStats,
    progress: ProgressFile,
    device: str,
) -> None:
    """Train the whole model on blocks; ``inputs`` and ``outputs`` are then as a worker on the CPU would leave them.

    Args:
        slice_: the part of the training.
        counts: counts of the vocabulary, int64 [V].
        shards: the only shard.
        inputs: input rows, float32 [V, padded length]; changed.
        outputs: output rows; changed.
        blocks: what the method trains on.
        stats: figures are added to it.
        progress: told how far the training is.
        device: as torch names it.
    """
    target = torch.device(device)
    copies, figures = feed.Feed(target), feed.Figures(target, stats)
    resident_inputs, resident_outputs = (feed.load(rows, target) for rows in (inputs, outputs))
    trainer = methods.trainer(slice_, counts, shards, 0, 1, target)
    trainer.begin_part(0, 0)
    trained = 0
    for batch in trainer.batches(blocks):
        share = min(1.0, trained / slice_.tokens)
        prepared = trainer.prepare(batch, copies.put(*batch.arrays))
        done = slice_.progress(share)
        figures.add(batch.size, trainer.train(prepared, batch.number, resident_inputs, resident_outputs, done))
        copies.end_batch()
        progress.update(share)
        trained += batch.size
    figures.flush()
    feed.store(resident_inputs, inputs)
    feed.store(resident_outputs, outputs)
