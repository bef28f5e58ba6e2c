"""How workers exchange parts of the model: by nccl where each has a GPU of its own, else by gloo through the host."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import torch

from embedall_spark import devices

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from embedall_spark.train.ring import Ring


class Link:
    """Sends to the worker before this one and receives from the worker after it."""

    def __init__(self, ring: Ring, device: torch.device, timeout: int) -> None:
        """Find out how; ``timeout`` is in seconds."""
        self._rank, self._size, self._group = ring.rank, ring.size, ring.group
        self.backend = "gloo"
        # The name alone would be the same for all GPUs of a host without identifiers.
        name = devices.memory(str(device)).name if device.type == "cuda" else ""
        names = ring.share(name)
        if all(names) and len(set(names)) == self._size and torch.distributed.is_nccl_available():
            self.backend, self._group = "nccl", _nccl(ring, device, timeout)
        self._through_host = self.backend == "gloo" and device.type == "cuda"

    def exchange(self, outgoing: Tensor, incoming: Tensor) -> Callable[[], None]:
        """Begin to send and to receive rows; return the function that waits until ``incoming`` is there."""
        sent = outgoing.cpu() if self._through_host else outgoing
        received = torch.empty(incoming.shape, pin_memory=incoming.is_cuda) if self._through_host else incoming
        sends, receives = [0] * self._size, [0] * self._size
        sends[(self._rank - 1) % self._size] = sent.numel()
        receives[(self._rank + 1) % self._size] = received.numel()
        # One operation for both, which cannot wait for itself.
        work: Any = self._group.alltoall_base(received.view(-1), sent.view(-1), receives, sends)

        def wait() -> None:
            work.wait()
            if self._through_host:
                incoming.copy_(received)

        return wait

    def close(self) -> None:
        """End nccl's communicators; gloo's belong to the ring."""
        if self.backend == "nccl":
            self._group.shutdown()


def _nccl(ring: Ring, device: torch.device, timeout: int) -> Any:
    """Return a process group of nccl; no global state, as that of the ring."""
    dist: Any = torch.distributed
    torch.cuda.set_device(device)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = datetime.timedelta(seconds=timeout)
    return dist.ProcessGroupNCCL(dist.PrefixStore("nccl", ring.store), ring.rank, ring.size, options)
