"""What every worker does around its training loop: rows in, threads over chunks, a sound checkpoint out."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedall_spark.corpus.vocabulary_index import Lookup
from embedall_spark.train import plan, sgns, shard_io

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from embedall_spark.train.config import SkipGram
    from embedall_spark.train.plan import Plan, Shards

REPORT = "rank int, report string"


@dataclass(frozen=True)
class Slice:
    """One job's share of the training: what a worker must know; small, and pickled with the task."""

    run_id: str
    vocabulary: str
    folder: str
    """Where the slice's checkpoint goes."""
    before: shard_io.Saved | None
    """Manifest of the checkpoint to go on from; None at the start."""
    plan: Plan
    config: SkipGram
    epoch: int
    index: int

    def progress(self, share: float) -> float:
        """Return the share of the whole training that is done when ``share`` of this slice is."""
        epochs, slices = self.config.epochs, self.plan.slices
        return (self.epoch * slices + self.index + share) / (epochs * slices)

    @property
    def batch_size(self) -> int:
        """How many contexts of a window are trained on at once."""
        return self.config.batch_size or sgns.MOST_CONTEXTS

    @property
    def compiled(self) -> Callable[..., Any]:
        """The kernel for this run's sizes."""
        return sgns.kernel(sgns.pad(self.config.vector_size), self.config.negative, self.batch_size)


@dataclass
class Tally:
    """Figures of one worker in one slice."""

    tokens: int = 0
    pairs: int = 0
    loss: float = 0.0
    loss_pairs: int = 0
    sent_bytes: int = 0
    spool_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    diverged: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        """Add the time since the last lap to a part."""
        now = time.perf_counter()
        self.seconds[part] += now - self._since
        self._since = now

    def trained(self, tokens: int, pairs: int, loss: float, loss_pairs: int) -> None:
        """Add what one call of the kernel did."""
        with self._lock:
            self.tokens += tokens
            self.pairs += int(pairs)
            self.loss += float(loss)
            self.loss_pairs += int(loss_pairs)

    def check(self, rows: Iterable[NDArray[np.float32]], slice_: Slice, block: str, share: float) -> None:
        """Note a shard that is not finite or has exploded; the slice then ends without a checkpoint."""
        greatest = max(shard_io.greatest(matrix) for matrix in rows)
        if greatest > shard_io.EXPLODED and self.diverged is None:
            value = f"reached {greatest:.3g}" if np.isfinite(greatest) else "is not finite"
            rate = float(plan.rate(slice_.config, slice_.progress(share)))
            self.diverged = f"epoch {slice_.epoch + 1}, block {block}, learning rate {rate:.6f}: a value {value}"

    def report(self, rank: int, written: dict[str, Any]) -> pa.RecordBatch:
        """Return the worker's only output: its figures and what it wrote."""
        figures: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("tokens", "pairs", "loss", "loss_pairs", "sent_bytes", "spool_bytes", "diverged")
        }
        figures["seconds"] = {part: round(value, 3) for part, value in self.seconds.items()}
        figures["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return pa.RecordBatch.from_arrays(
            [pa.array([rank], pa.int32()), pa.array([json.dumps({**figures, **written})])], ["rank", "report"]
        )


def open_model(slice_: Slice, lookup: Lookup, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32], Shards]:
    """Return a worker's input and output rows and the shards: from the last checkpoint, or untrained."""
    config, workers = slice_.config, slice_.plan.workers

    def shards_of(count: int) -> Shards:
        return plan.shards(lookup.counts, count, config.sample, lookup.folder)

    if slice_.before is None:
        inputs, outputs = shard_io.start(shards_of(workers).ids(rank), config.vector_size, config.seed)
    else:
        inputs, outputs = shard_io.load(slice_.before, rank, workers, shards_of)
    return inputs, outputs, shards_of(workers)


def save_model(slice_: Slice, rank: int, inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> dict[str, Any]:
    """Write a worker's rows into the slice's checkpoint; return the files' names by matrix, and the number of rows."""
    dim = slice_.config.vector_size
    return {
        "rows": len(inputs),
        "inputs": shard_io.save(slice_.folder, f"inputs-{rank}", inputs, dim),
        "outputs": shard_io.save(slice_.folder, f"outputs-{rank}", outputs, dim),
    }


def each(work: Callable[[Any], None], items: Iterable[Any], threads: int) -> None:
    """Do ``work`` on every item; with one thread in their order, with several as they come (Hogwild).

    At most a few items wait at a time, so that a stream of any length passes in bounded memory.
    """
    if threads == 1:
        for item in items:
            work(item)
        return
    slots = threading.Semaphore(threads + 2)
    failed: list[BaseException] = []

    def guarded(item: Any) -> None:
        try:
            work(item)
        except BaseException as error:
            failed.append(error)
        finally:
            slots.release()

    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            slots.acquire()
            if failed:
                break
            pool.submit(guarded, item)
    if failed:
        raise failed[0]
