"""A slice of the training, and what its workers report: figures, and their progress while they train."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedall_spark import files
from embedall_spark.train import plan, shard_io

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.plan import Plan

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
    config: TrainConfig
    epoch: int
    index: int
    new_ids: str | None = None
    """Folder of the stage with the only ids whose rows change; None: all rows do."""

    def progress(self, share: float) -> float:
        """Return the share of the whole training that is done after ``share`` of this slice.

        What is trained before the first epoch counts by itself.
        """
        epochs, slices = self.config.epochs, self.plan.slices
        return (max(0, self.epoch) * slices + self.index + share) / (epochs * slices)

    @property
    def tokens(self) -> float:
        """Tokens of a slice, on average; at least 1."""
        return max(1.0, self.plan.corpus.tokens / self.plan.slices)


@dataclass
class WorkerStats:
    """Figures of a worker in a slice."""

    tokens: int = 0
    pairs: int = 0
    loss: float = 0.0
    loss_pairs: float = 0.0
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

    def add(self, tokens: int, pairs: int, loss: float, loss_pairs: float) -> None:
        """Add the figures of one call of the kernel."""
        with self._lock:
            self.tokens += tokens
            self.pairs += int(pairs)
            self.loss += float(loss)
            self.loss_pairs += float(loss_pairs)

    def check(self, rows: Iterable[NDArray[np.float32] | Tensor], slice_: Slice, block: str, share: float) -> None:
        """Set ``diverged`` if a value is not finite or has exploded; the slice then ends without a checkpoint.

        ``rows`` are the parts of the model's rows that must stay small, see ``Method.weights``.
        """
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
