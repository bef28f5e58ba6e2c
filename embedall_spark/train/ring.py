"""A ring of barrier tasks: they find each other through Spark and exchange shards through gloo."""

from __future__ import annotations

import datetime
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embedall_spark.train import addresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from pyspark import BarrierTaskContext

T = TypeVar("T")


class Ring:
    """A private process group; no global state, so that a reused Python worker can join one ring per job."""

    def __init__(self, context: BarrierTaskContext, timeout: int) -> None:
        """Connect to the other tasks of the barrier stage; ``timeout``, in seconds, holds for every later wait too."""
        # torch takes seconds to import, and a run with one worker does not need it.
        import torch.distributed

        # torch's type stubs lack what is below its public functions.
        dist: Any = torch.distributed
        patience = datetime.timedelta(seconds=timeout)
        hosts = addresses.hosts(context)
        self.rank, self.size = context.partitionId(), len(hosts)
        own = addresses.own(hosts, self.rank)
        store: Any = None
        if self.rank == 0:
            store = dist.TCPStore(own, 0, self.size, True, patience, wait_for_workers=False)
            messages = _gather(context, f"{own} {store.port}", timeout)
        else:
            messages = _gather(context, "", timeout)
        if store is None:
            address, port = messages[0].split()
            # It connects within its timeout, but then waits for an answer without one.
            store = _within(
                timeout,
                lambda: dist.TCPStore(address, int(port), self.size, False, patience),
                "the first worker to answer",
            )
        options = dist.ProcessGroupGloo._Options()
        options._timeout = patience
        # By default gloo uses the interface of the host's name, which is often the loopback one.
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=own)]
        self.store, self._timeout = store, timeout
        # Every question to the store is without a timeout once it is sent.
        self.group: Any = _within(
            timeout,
            lambda: dist.ProcessGroupGloo(store, self.rank, self.size, options),
            "all workers to connect to each other",
        )

    def share(self, text: str) -> list[str]:
        """Return the texts of all workers by rank; called once."""

        def ask() -> list[str]:
            self.store.set(f"share/{self.rank}", text)
            return [self.store.get(f"share/{rank}").decode() for rank in range(self.size)]

        return _within(self._timeout, ask, "all workers to say where their rows are")

    def max_status(self, status: int) -> int:
        """Return the greatest status of all workers; also a barrier."""
        import torch
        import torch.distributed as dist

        flag = torch.tensor([status], dtype=torch.int64)
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MAX
        self.group.allreduce([flag], options).wait()
        return int(flag.item())

    def exchange(self, outgoing: NDArray[np.float32], incoming: NDArray[np.float32], tag: int) -> Callable[[], None]:
        """Begin to send rows to the worker before this one and to receive some from the worker after it.

        Returns the function that waits until both are done.
        """
        import torch

        waits = [
            self.group.send([torch.from_numpy(outgoing)], (self.rank - 1) % self.size, tag),
            self.group.recv([torch.from_numpy(incoming)], (self.rank + 1) % self.size, tag),
        ]

        def wait_for_all() -> None:
            for wait in waits:
                wait.wait()

        return wait_for_all


def _gather(context: BarrierTaskContext, message: str, timeout: int) -> list[str]:
    """Return all tasks' messages by rank; Spark's own timeout (spark.barrier.sync.timeout) is one for all jobs."""
    return _within(timeout, lambda: context.allGather(message), "all workers to have read their windows")


def _within(timeout: int, call: Callable[[], T], what: str) -> T:
    """Return what a call returns; raise TimeoutError if that takes longer than ``timeout`` seconds."""
    results: list[T] = []
    errors: list[Exception] = []

    def collect() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)

    waiting = threading.Thread(target=collect, daemon=True)
    waiting.start()
    waiting.join(timeout)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"Timed out waiting {timeout} s for {what}")
    return results[0]
