"""Training with several workers: block rotation.

Worker i keeps input shard i; output shards travel around the ring. In step s of an episode it trains on block
(i, (i + s) mod W): no two workers ever change the same row, so nothing has to be averaged. The idea is that of
PyTorch-BigGraph's buckets (Lerer et al. 2019, section 4) and GraphVite's episodes (Zhu et al. 2019, section 3.2).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from embedall_spark import devices
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.train import aligned_rows, methods, plan, slice_state, slice_worker
from embedall_spark.train.ring import Ring
from embedall_spark.train.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame


def run(sequences: DataFrame, slice_: slice_state.Slice) -> DataFrame:
    """Return the job that trains a slice in a barrier stage of W tasks; REPORT rows."""
    profile = devices.training_profile(sequences.sparkSession, slice_.plan.device)
    return _streams(sequences, slice_).mapInArrow(_task(slice_), slice_state.REPORT, barrier=True, profile=profile)


def _streams(sequences: DataFrame, slice_: slice_state.Slice) -> DataFrame:
    if slice_.plan.has_tokens(slice_.config):
        from embedall_spark.train.device import rotation as on_device

        return on_device.token_streams(sequences, slice_)
    return methods.of(slice_.config).streams(sequences, slice_)


def _task(slice_: slice_state.Slice) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def train(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import BarrierTaskContext

        context = BarrierTaskContext.get()
        rank, stats = context.partitionId(), slice_state.WorkerStats()
        if len(context.getTaskInfos()) != slice_.plan.workers:
            raise RuntimeError(f"need {slice_.plan.workers} barrier tasks, Spark started {len(context.getTaskInfos())}")
        with Spool.of(slice_.run_id) as spool:
            for batch in batches:
                spool.add(batch)
            stats.spool_bytes = spool.size
            stats.lap("spool")
            ring = Ring(context, slice_.config.timeout)
            stats.lap("rendezvous")
            vocabulary = VocabularyIndex.open(slice_.vocabulary)
            inputs, outputs, shards = slice_worker.open_model(slice_, vocabulary, rank)
            stats.lap("load")
            if slice_.plan.device == "cuda":
                from embedall_spark.train.device import rotation as on_device

                on_device.train_slice(slice_, ring, spool, vocabulary.counts, shards, inputs, outputs, stats)
            else:
                counts = _Counts(vocabulary, shards)
                # Output shards arrive and leave in two buffers of the largest one's size.
                buffers = [aligned_rows.zeros(int(counts.rows.max()), inputs.shape[1]) for _ in range(2)]
                buffers[0][: len(outputs)] = outputs
                del outputs
                outputs = _episodes(slice_, ring, spool, counts, inputs, buffers, stats)
        written = {} if stats.diverged else slice_worker.save_model(slice_, rank, inputs, outputs)
        stats.lap("checkpoint")
        # A worker that leaves early would close sockets that others still read from.
        ring.max_status(0)
        yield stats.report(rank, written)

    return train


class _Counts:
    """Counts of the tokens of each shard, read on demand."""

    def __init__(self, vocabulary: VocabularyIndex, shards: plan.Shards) -> None:
        self._counts = vocabulary.counts
        self._shards = shards
        self.rows = np.bincount(shards.shard)

    def of(self, shard: int) -> NDArray[np.int64]:
        """Return the counts of a shard's rows, int64."""
        return np.asarray(self._counts[self._shards.ids(shard)])


def _episodes(
    slice_: slice_state.Slice,
    ring: Ring,
    spool: Spool,
    counts: _Counts,
    inputs: NDArray[np.float32],
    buffers: list[NDArray[np.float32]],
    stats: slice_state.WorkerStats,
) -> NDArray[np.float32]:
    """Train all steps of the slice; return this worker's output shard, which has come back to it."""
    size, episodes = ring.size, slice_.plan.slice_episodes(slice_.index)
    steps = len(episodes) * size
    progress = slice_state.ProgressFile(slice_, ring.rank, stats)
    for step in range(steps):
        episode, shard = episodes[step // size], (ring.rank + step) % size
        outputs = buffers[step % 2][: counts.rows[shard]]
        _train_block(slice_, spool, episode, shard, counts.of(shard), inputs, outputs, (step, steps), stats, progress)
        stats.lap("train")
        slice_worker.check_model(slice_, stats, inputs, outputs, f"({ring.rank}, {shard})", (step + 1) / steps)
        if ring.max_status(int(stats.diverged is not None)):
            # The other workers stop too, and report that it was not theirs.
            stats.diverged = stats.diverged or "another worker's shard diverged"
            return outputs
        stats.lap("wait")
        arriving = buffers[1 - step % 2][: counts.rows[(shard + 1) % size]]
        ring.rotate(outputs, arriving, step)
        stats.sent_bytes += outputs.nbytes
        stats.lap("exchange")
    return buffers[steps % 2][: counts.rows[ring.rank]]


def _train_block(
    slice_: slice_state.Slice,
    spool: Spool,
    episode: int,
    shard: int,
    counts: NDArray[np.int64],
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    step_of: tuple[int, int],
    stats: slice_state.WorkerStats,
    progress: slice_state.ProgressFile,
) -> None:
    """Train on the chunks of a block in the order of their numbers."""
    total = spool.ints(episode, shard)
    train_chunk = methods.of(slice_.config).chunk_trainer(slice_, counts, total, (episode, shard), inputs, outputs)
    step, steps = step_of
    done, lock = 0, threading.Lock()

    def train(chunk: tuple[int, NDArray[np.int32]]) -> None:
        nonlocal done
        number, stream = chunk
        slice_share = (step + done / max(1, total)) / steps
        stats.add(0, *train_chunk(number, stream, slice_.progress(slice_share)))
        progress.update(slice_share)
        with lock:
            done += len(stream)

    slice_worker.for_each(train, enumerate(spool.chunks(episode, shard)), slice_.plan.threads)
