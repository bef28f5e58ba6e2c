"""What an epoch costs a worker, in seconds for each part, from rates that were measured; docs/scaling.md shows both."""

from __future__ import annotations

from typing import NamedTuple


class Rates(NamedTuple):
    """What a host does in a second."""

    kernel: float = 1e8
    """Tokens times dimensions that a thread trains on; with one worker it draws their windows, too."""
    windows: float = 1.6e6
    """Tokens whose windows a core draws, shuffles and stores in the spool, where there are several workers."""
    network: float = 1e9
    """Bytes that a worker sends to the next one, and receives, at the same time."""
    storage: float = 3e8
    """Bytes of a checkpoint that a worker writes."""
    start: float = 0.5
    """Seconds, not a rate: until the tasks of a slice have started."""
    rendezvous: float = 2.5
    """Seconds, not a rate: until several workers have read their windows and found each other."""


MEASURED = Rates()


class Epoch(NamedTuple):
    """Sizes of an epoch of training."""

    tokens: int
    """That all workers together train on, before subsampling; for GloVe cells."""
    dim: int
    model_bytes: int
    """Of one side's rows, all shards together."""
    workers: int
    threads: int
    """Of each worker."""
    episodes: int
    slices: int


def seconds(epoch: Epoch, rates: Rates = MEASURED) -> dict[str, float]:
    """Return the seconds of an epoch by part; their sum is its time.

    Parts of shards are sent while others are trained, so that the exchange counts only where it takes longer.
    """
    cores = epoch.workers * epoch.threads
    parts = {
        "train": epoch.tokens * epoch.dim / (rates.kernel * cores),
        "start": rates.start * epoch.slices,
        "checkpoint": epoch.slices * 2 * epoch.model_bytes / epoch.workers / rates.storage,
    }
    if epoch.workers > 1:
        parts["rendezvous"] = rates.rendezvous * epoch.slices
        parts["windows"] = epoch.tokens / (rates.windows * cores)
        parts["exchange"] = max(0.0, epoch.episodes * exchange(epoch.model_bytes, rates) - parts["train"])
    return parts


def exchange(model_bytes: int, rates: Rates = MEASURED) -> float:
    """Return the seconds in which all shards go once round the ring: each worker sends every shard once."""
    return model_bytes / rates.network


def affordable_episodes(epoch: Epoch, share: float = 0.5, rates: Rates = MEASURED) -> int:
    """Return how many episodes an epoch may have for the exchange to take at most a share of the time of training."""
    train = seconds(epoch, rates)["train"]
    return int(share * train / max(1e-9, exchange(epoch.model_bytes, rates)))
