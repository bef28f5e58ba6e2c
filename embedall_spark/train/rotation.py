"""Training with several workers: block rotation.

Worker i keeps input shard i; output shards travel around the ring in two parts each. In step s of an episode it trains
on input shard i and part (2 i + s) mod 2 W: no two workers ever change the same row, so nothing has to be averaged. The
idea is that of PyTorch-BigGraph's buckets (Lerer et al. 2019, section 4) and GraphVite's episodes (Zhu et al. 2019,
section 3.2).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from embedall_spark import devices
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.train import aligned_rows, methods, plan, slice_state, slice_worker
from embedall_spark.train.part_rotation import PartWorker
from embedall_spark.train.plan import PARTS
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
                outputs = _Worker(slice_, ring, spool, vocabulary, inputs, stats).train_slice(outputs)
        written = {} if stats.diverged else slice_worker.save_model(slice_, rank, inputs, outputs)
        stats.lap("checkpoint")
        # A worker that leaves early would close sockets that others still read from.
        ring.max_status(0)
        yield stats.report(rank, written)

    return train


class _Worker(PartWorker["NDArray[np.float32]"]):
    """A worker on the CPU."""

    def __init__(
        self,
        slice_: slice_state.Slice,
        ring: Ring,
        spool: Spool,
        vocabulary: VocabularyIndex,
        inputs: NDArray[np.float32],
        stats: slice_state.WorkerStats,
    ) -> None:
        self._shards = plan.output_shards(vocabulary.counts, ring.size, slice_.config, vocabulary.folder)
        super().__init__(slice_, ring, spool, self._shards.part_sizes(), stats)
        self._vocabulary, self.inputs = vocabulary, inputs
        # One part is trained, one leaves and one arrives.
        self._buffers = [aligned_rows.zeros(int(self.rows.max()), inputs.shape[1]) for _ in range(3)]

    def train_slice(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Train all steps; return the worker's output shard."""
        first = PARTS * self.ring.rank
        parts = [self.room(step - 1, first + step) for step in range(PARTS)]
        for number, part in enumerate(parts):
            part[:] = outputs[number::PARTS]
        for number, part in enumerate(self.run(parts)):
            outputs[number::PARTS] = part
        return outputs

    def room(self, step: int, part: int) -> NDArray[np.float32]:
        """Return rows in the buffer whose part has left."""
        return self._buffers[(step + 1) % 3][: self.rows[part]]

    def exchange(self, outgoing: NDArray[np.float32], incoming: NDArray[np.float32], step: int) -> Callable[[], None]:
        """Send and receive through gloo."""
        self.stats.sent_bytes += outgoing.nbytes
        return self.ring.exchange(outgoing, incoming, step)

    def train(self, step: int, episode: int, part: int, outputs: NDArray[np.float32]) -> None:
        """Train on the chunks of an episode in the order of their numbers."""
        slice_, key = self.slice, self.slice.plan.chunk_key(self.slice.config, part)
        total = self.spool.ints(episode, key)
        counts = np.asarray(self._vocabulary.counts[self._shards.part_ids(part)])
        train_chunk = methods.of(slice_.config).chunk_trainer(
            slice_, counts, total, (episode, part), self.inputs, outputs
        )
        done, lock = 0, threading.Lock()

        def train(chunk: tuple[int, NDArray[np.int32]]) -> None:
            nonlocal done
            number, stream = chunk
            share = (step + done / max(1, total)) / self.steps
            self.stats.add(0, *train_chunk(number, stream, slice_.progress(share)))
            self.progress.update(share)
            with lock:
                done += len(stream)

        slice_worker.for_each(train, enumerate(self.spool.chunks(episode, key)), slice_.plan.threads)
