"""Arrays on their way to the device, copied while it computes, and the figures that come back."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from embedall_spark.train.slice_state import WorkerStats

# Batches that wait for the device at a time: enough that it never waits, and few, because each takes memory.
_IN_FLIGHT = 3
# Between two looks at the figures, each of which waits for the device.
_SECONDS = 1.0


class Feed:
    """Copies arrays to a device without waiting for it, unless it is some batches behind."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._done: deque[torch.cuda.Event] = deque()

    def put(self, *arrays: NDArray[Any]) -> tuple[Tensor, ...]:
        """Return arrays as tensors on the device, which later work there may use; the arrays must be writable."""
        tensors = tuple(map(torch.from_numpy, arrays))
        if self._copies is None:
            return tensors
        computes = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            # Only from pinned memory does the copy run beside the computation.
            copies = tuple(tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors)
        computes.wait_stream(self._copies)
        for copy in copies:
            copy.record_stream(computes)
        return copies

    def end_batch(self) -> None:
        """Mark the end of a batch's work; wait where too many batches are not done."""
        if self._copies is None:
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        self._done.append(event)
        if len(self._done) > _IN_FLIGHT:
            self._done.popleft().synchronize()


class Figures:
    """Sums of what kernels report; they stay on the device and are read about once a second."""

    def __init__(self, device: torch.device, stats: WorkerStats) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._stats, self._tokens, self._due = stats, 0, time.monotonic() + _SECONDS

    def add(self, tokens: int, figures: Tensor) -> None:
        """Add pairs, loss and pairs of the loss's sample, float32 [programs, 3], and the tokens that they come from."""
        self._sums += figures.sum(0, dtype=torch.float64)
        self._tokens += tokens
        if time.monotonic() > self._due:
            self.flush()

    def flush(self) -> None:
        """Wait for the device and add its figures to the worker's."""
        pairs, loss, sampled = self._sums.tolist()
        self._stats.add(self._tokens, round(pairs), loss, round(sampled))
        self._sums.zero_()
        self._tokens, self._due = 0, time.monotonic() + _SECONDS


def load(rows: NDArray[np.float32], device: torch.device) -> Tensor:
    """Return rows of the model on the device; on the CPU they share their memory."""
    return torch.from_numpy(rows).to(device)


def store(tensor: Tensor, rows: NDArray[np.float32]) -> None:
    """Copy rows of the model back from the device, where they lie there."""
    if tensor.is_cuda:
        torch.from_numpy(rows).copy_(tensor)
