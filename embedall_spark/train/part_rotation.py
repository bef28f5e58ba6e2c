"""The way of the output shards round the ring of workers, in parts, which is the same on CPUs and on GPUs.

Worker i keeps input shard i. While it trains on one part of the outputs, the part before is on its way to the next
worker, and the one after arrives, so that sending costs time only where it takes longer than training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from embedall_spark.train import slice_worker
from embedall_spark.train.plan import PARTS
from embedall_spark.train.slice_state import ProgressFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from embedall_spark.train.ring import Ring
    from embedall_spark.train.slice_state import Slice, WorkerStats
    from embedall_spark.train.spool import Spool

Rows = TypeVar("Rows")
"""Rows of the model: a numpy array, or a tensor on a GPU."""


class PartWorker(ABC, Generic[Rows]):
    """One worker of W in its slice; what depends on where the rows are is left to subclasses."""

    inputs: Rows

    def __init__(self, slice_: Slice, ring: Ring, spool: Spool, rows: NDArray[np.int64], stats: WorkerStats) -> None:
        """Keep what all steps need; ``rows`` has the number of rows of each part, int64 [W * PARTS]."""
        self.slice, self.ring, self.spool, self.rows, self.stats = slice_, ring, spool, rows, stats
        self.progress = ProgressFile(slice_, ring.rank, stats)
        self.episodes = slice_.plan.slice_episodes(slice_.index)
        self.steps = len(self.episodes) * len(rows)

    @abstractmethod
    def room(self, step: int, part: int) -> Rows:
        """Return rows for a part that arrives in a step."""

    @abstractmethod
    def exchange(self, outgoing: Rows, incoming: Rows, step: int) -> Callable[[], None]:
        """Begin to send a part and to receive one; return the function that waits until both are done."""

    @abstractmethod
    def train(self, step: int, episode: int, part: int, outputs: Rows) -> None:
        """Train on all windows or cells of an episode with outputs in a part."""

    def run(self, parts: Sequence[Rows]) -> list[Rows]:
        """Train all steps; ``parts`` are those of the worker's own shard of outputs, and so is what is returned."""
        around, home = len(self.rows), PARTS * self.ring.rank
        before: Rows | None = None
        now, later = parts
        for step in range(self.steps):
            part = (home + step) % around
            if before is not None:
                later = self.room(step, (part + 1) % around)
                arrive = self.exchange(before, later, step)
            self.train(step, self.episodes[step // around], part, now)
            self.stats.lap("train")
            if before is not None:
                arrive()
                self.stats.lap("exchange")
            if self._diverged(step, part, now):
                return [now, later]
            self.stats.lap("wait")
            before, now = now, later
        assert before is not None
        later = self.room(self.steps, home + 1)
        self.exchange(before, later, self.steps)()
        self.stats.lap("exchange")
        return [now, later]

    def _diverged(self, step: int, part: int, outputs: Rows) -> bool:
        """Return whether some worker's rows are not finite or too large; all workers then stop, and save nothing."""
        block, share = f"({self.ring.rank}, {part // PARTS})", (step + 1) / self.steps
        slice_worker.check_model(self.slice, self.stats, self.inputs, outputs, block, share)  # type: ignore[type-var]
        if not self.ring.max_status(int(self.stats.diverged is not None)):
            return False
        self.stats.diverged = self.stats.diverged or "another worker's shard diverged"
        return True
