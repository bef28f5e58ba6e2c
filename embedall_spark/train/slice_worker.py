"""What every worker does around its training loop: load rows, run threads over chunks, report, save a checkpoint."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedall_spark import files
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.train import aligned_rows, plan, sgns, shard_io

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from embedall_spark.train.config import SkipGram
    from embedall_spark.train.plan import Plan, Shards

REPORT = "rank int, report string"
PROGRESS = "progress"
"""Folder of the workers' progress files, below the slice's."""
# Between two updates of a worker's progress file.
_UPDATE_SECONDS = 2.0


@dataclass(frozen=True)
class Slice:
    """The part of the training that one job does; small, because it is pickled with each task."""

    run_id: str
    vocabulary: str
    """Folder of the VOCABULARY."""
    folder: str
    """Folder of the slice's checkpoint."""
    resume_from: shard_io.Manifest | None
    """Manifest of the checkpoint before; None at the start."""
    plan: Plan
    config: SkipGram
    epoch: int
    index: int

    def progress(self, share: float) -> float:
        """Return the share of the whole training that is done after ``share`` of this slice."""
        epochs, slices = self.config.epochs, self.plan.slices
        return (self.epoch * slices + self.index + share) / (epochs * slices)

    @property
    def tokens(self) -> float:
        """Tokens of a slice, on average; at least 1."""
        return max(1.0, self.plan.corpus.tokens / self.plan.slices)

    @property
    def batch_size(self) -> int:
        """Contexts of a window that are trained on together."""
        return self.config.batch_size or sgns.MAX_CONTEXTS

    @property
    def kernel(self) -> Callable[..., Any]:
        """The kernel for this run's sizes."""
        return sgns.kernel(aligned_rows.padded_length(self.config.vector_size), self.config.negative, self.batch_size)


@dataclass
class WorkerStats:
    """Figures of a worker in a slice."""

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
        """Add the time since the last call to a part's seconds."""
        now = time.perf_counter()
        self.seconds[part] += now - self._since
        self._since = now

    def add(self, tokens: int, pairs: int, loss: float, loss_pairs: int) -> None:
        """Add the figures of one call of the kernel."""
        with self._lock:
            self.tokens += tokens
            self.pairs += int(pairs)
            self.loss += float(loss)
            self.loss_pairs += int(loss_pairs)

    def check(self, rows: Iterable[NDArray[np.float32]], slice_: Slice, block: str, share: float) -> None:
        """Set ``diverged`` if a value is not finite or has exploded; the slice then ends without a checkpoint."""
        greatest = max(shard_io.max_abs(matrix) for matrix in rows)
        if greatest > shard_io.EXPLODED and self.diverged is None:
            value = f"reached {greatest:.3g}" if np.isfinite(greatest) else "is not finite"
            rate = float(plan.learning_rate(slice_.config, slice_.progress(share)))
            self.diverged = f"epoch {slice_.epoch + 1}, block {block}, learning rate {rate:.6f}: a value {value}"

    def report(self, rank: int, written: dict[str, Any]) -> pa.RecordBatch:
        """Return the worker's only output: its figures and the files that it wrote."""
        figures: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("tokens", "pairs", "loss", "loss_pairs", "sent_bytes", "spool_bytes", "diverged")
        }
        figures["seconds"] = {part: round(value, 3) for part, value in self.seconds.items()}
        figures["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return pa.RecordBatch.from_arrays(
            [pa.array([rank], pa.int32()), pa.array([json.dumps({**figures, **written})])], ["rank", "report"]
        )


class ProgressFile:
    """A worker's small file in the slice's folder, from which the driver reads how far the worker is."""

    def __init__(self, slice_: Slice, rank: int, stats: WorkerStats) -> None:
        """Write nothing before the first interval has passed."""
        self._path, self._stats = f"{slice_.folder}/{PROGRESS}/{rank}.json", stats
        self._start = time.monotonic()
        self._due = self._start + _UPDATE_SECONDS
        self._lock = threading.Lock()

    def update(self, share: float) -> None:
        """Write the share of the slice that is done, where the last update is long enough ago.

        Called by all threads after each chunk; only one of them writes. A file that cannot be written is no reason to
        stop training.
        """
        if time.monotonic() < self._due or not self._lock.acquire(blocking=False):
            return
        try:
            now = time.monotonic()
            self._due = now + _UPDATE_SECONDS
            loss = self._stats.loss / max(1, self._stats.loss_pairs)
            content = {"share": share, "seconds": now - self._start, "loss": loss}
            with suppress(OSError):
                files.write_bytes(self._path, json.dumps(content).encode())
        finally:
            self._lock.release()


def read_progress(folder: str, workers: int) -> tuple[float, float, float] | None:
    """Return the workers' mean share of a slice, their longest seconds and mean loss; None before the first update."""
    updates = []
    for rank in range(workers):
        with suppress(OSError, ValueError):
            updates.append(json.loads(files.read_bytes(f"{folder}/{PROGRESS}/{rank}.json")))
    if not updates:
        return None
    share, loss = (sum(update[name] for update in updates) / workers for name in ("share", "loss"))
    return share, max(update["seconds"] for update in updates), loss * workers / len(updates)


def open_model(
    slice_: Slice, vocabulary: VocabularyIndex, rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], Shards]:
    """Return a worker's input and output rows, and the shards: from the last checkpoint, or untrained."""
    config, workers = slice_.config, slice_.plan.workers

    def shards_of(count: int) -> Shards:
        return plan.shards(vocabulary.counts, count, config.sample, vocabulary.folder)

    if slice_.resume_from is None:
        inputs, outputs = shard_io.initial_rows(shards_of(workers).ids(rank), config.vector_size, config.seed)
    else:
        inputs, outputs = shard_io.load(slice_.resume_from, rank, workers, shards_of)
    return inputs, outputs, shards_of(workers)


def save_model(slice_: Slice, rank: int, inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> dict[str, Any]:
    """Write a worker's rows into the slice's checkpoint; return the number of rows and the files' names."""
    dim = slice_.config.vector_size
    return {
        "rows": len(inputs),
        "inputs": shard_io.save(slice_.folder, f"inputs-{rank}", inputs, dim),
        "outputs": shard_io.save(slice_.folder, f"outputs-{rank}", outputs, dim),
    }


def for_each(work: Callable[[Any], None], items: Iterable[Any], threads: int) -> None:
    """Call ``work`` with every item; with one thread in their order, with several concurrently (Hogwild).

    Few items are queued at a time, so that the memory does not depend on the number of items.
    """
    if threads == 1:
        for item in items:
            work(item)
        return
    slots = threading.Semaphore(threads + 2)
    errors: list[BaseException] = []

    def guarded(item: Any) -> None:
        try:
            work(item)
        except BaseException as error:
            errors.append(error)
        finally:
            slots.release()

    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            slots.acquire()
            if errors:
                break
            pool.submit(guarded, item)
    if errors:
        raise errors[0]
