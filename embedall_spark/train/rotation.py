"""The trainer with many workers: block rotation.

Worker i holds input shard i for good; output shards travel round the ring. In sub-step s of an episode it trains on
block (i, (i + s) mod W): no two workers ever touch the same row, so that there is nothing to average. The idea is that
of PyTorch-BigGraph's buckets (Lerer et al. 2019, section 4) and GraphVite's episodes (Zhu et al. 2019, section 3.2).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from embedall_spark import randomness
from embedall_spark.corpus.vocabulary_index import Lookup
from embedall_spark.train import plan, sgns, slice_worker, window_chunks
from embedall_spark.train.ring import Ring
from embedall_spark.train.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

# Negatives are shared by neighbouring groups until so many pairs have used them; measured to cost no quality.
_SHARE = 6


def run(sequences: DataFrame, slice_: slice_worker.Slice) -> DataFrame:
    """Return the job that trains one slice in a barrier stage of W tasks; REPORT rows."""
    chunks = window_chunks.streams(sequences, slice_.vocabulary, slice_.plan, slice_.config, slice_.epoch, slice_.index)
    return chunks.mapInArrow(_task(slice_), slice_worker.REPORT, barrier=True)


def _task(slice_: slice_worker.Slice) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def train(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import BarrierTaskContext

        context = BarrierTaskContext.get()
        rank, tally = context.partitionId(), slice_worker.Tally()
        if len(context.getTaskInfos()) != slice_.plan.workers:
            raise RuntimeError(f"need {slice_.plan.workers} barrier tasks, Spark made {len(context.getTaskInfos())}")
        with Spool.of(slice_.run_id) as spool:
            for batch in batches:
                spool.add(batch)
            tally.spool_bytes = spool.size
            tally.lap("spool")
            ring = Ring(context, slice_.config.timeout)
            tally.lap("rendezvous")
            lookup = Lookup.open(slice_.vocabulary)
            inputs, outputs, shards = slice_worker.open_model(slice_, lookup, rank)
            tally.lap("load")
            counts = _Counts(lookup, shards)
            # Output shards come and go in two rooms of the greatest one's size.
            room = [sgns.aligned(int(counts.rows.max()), inputs.shape[1]) for _ in range(2)]
            room[0][: len(outputs)] = outputs
            del outputs
            outputs = _episodes(slice_, ring, spool, counts, inputs, room, tally)
        written = {} if tally.diverged else slice_worker.save_model(slice_, rank, inputs, outputs)
        tally.lap("checkpoint")
        # A worker that leaves early would close the sockets that others still read from.
        ring.worst(0)
        yield tally.report(rank, written)

    return train


class _Counts:
    """Counts of the tokens of each shard, read when asked for."""

    def __init__(self, lookup: Lookup, shards: plan.Shards) -> None:
        self._counts = lookup.counts
        self._shards = shards
        self.rows = np.bincount(shards.shard)

    def of(self, shard: int) -> NDArray[np.int64]:
        """Return the counts of a shard's rows, int64."""
        return np.asarray(self._counts[self._shards.ids(shard)])


def _episodes(
    slice_: slice_worker.Slice,
    ring: Ring,
    spool: Spool,
    counts: _Counts,
    inputs: NDArray[np.float32],
    room: list[NDArray[np.float32]],
    tally: slice_worker.Tally,
) -> NDArray[np.float32]:
    """Train all sub-steps of the slice; return this worker's output shard, which has come home."""
    size, mine = ring.size, slice_.plan.slice_episodes(slice_.index)
    steps = len(mine) * size
    for step in range(steps):
        episode, shard = mine[step // size], (ring.rank + step) % size
        held = room[step % 2][: counts.rows[shard]]
        _block(slice_, spool, episode, shard, counts.of(shard), inputs, held, (step, steps), tally)
        tally.lap("train")
        tally.check((inputs, held), slice_, f"({ring.rank}, {shard})", (step + 1) / steps)
        if ring.worst(int(tally.diverged is not None)):
            # The others stop too, and say that it was not they.
            tally.diverged = tally.diverged or "another worker's shard diverged"
            return held
        tally.lap("wait")
        arriving = room[1 - step % 2][: counts.rows[(shard + 1) % size]]
        ring.pass_on(held, arriving, step)
        tally.sent_bytes += held.nbytes
        tally.lap("exchange")
    return room[steps % 2][: counts.rows[ring.rank]]


def _block(
    slice_: slice_worker.Slice,
    spool: Spool,
    episode: int,
    shard: int,
    counts: NDArray[np.int64],
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    at: tuple[int, int],
    tally: slice_worker.Tally,
) -> None:
    """Train on the windows of one block in the order of their numbers."""
    config, compiled = slice_.config, slice_.compiled
    total = spool.ints(episode, shard)
    share = min(_SHARE, slice_.batch_size)
    # A group is at least three ints long and shares its negatives: a table of this size is used about once.
    size = int(np.clip(total * config.negative // share, 1 << 14, 1 << 22))
    table = sgns.negative_table(counts, config.ns_exponent, size, config.seed, slice_.epoch, episode, shard)
    step, steps = at
    done, lock = 0, threading.Lock()

    def train(chunk: tuple[int, NDArray[np.int32]]) -> None:
        nonlocal done
        number, stream = chunk
        rate = plan.rate(config, slice_.progress((step + done / max(1, total)) / steps))
        cursor = randomness.mix(config.seed, slice_.epoch, episode, shard, number) % size
        _, *result = compiled(stream, 0, len(stream), inputs, outputs, table, cursor, rate, share)
        tally.trained(0, *result)
        with lock:
            done += len(stream)

    slice_worker.each(train, enumerate(spool.chunks(episode, shard)), slice_.plan.threads)
