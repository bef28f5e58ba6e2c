"""Checks of GPUs before a long training starts; each error says what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from embedall_spark import devices
from embedall_spark.errors import ResourceError
from embedall_spark.train import aligned_rows, methods, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.plan import Corpus

# Of a process: CUDA's own part, a batch of tokens while its windows are drawn, and a table of negatives.
_BASE = 1200 << 20
# Tables of the vocabulary: thresholds of subsampling, shard and row of each token.
_TOKEN = 16
# A token whose window waits on the device for the parts of its episode.
_WINDOW = 24
_MOST_WORKERS = 128


class Report(NamedTuple):
    """What a task has found out about its device."""

    host: str
    device: str
    problem: str
    """Why it cannot train there; empty where it can."""
    name: str
    free: int


def report(host: str, rank: int) -> Report:
    """Return what this task's device is; called in the task."""
    device = devices.training_device(rank)
    problem = devices.problem(device)
    if problem is not None:
        return Report(host, device, problem, "", 0)
    memory = devices.memory(device)
    return Report(host, device, "", memory.name, memory.free)


def check(reports: Sequence[Report], corpus: Corpus, config: TrainConfig) -> None:
    """Check that all workers have a device on which the plan fits.

    Raises:
        ResourceError: a GPU cannot be used, or has too little memory; the error then names the workers that would do.
    """
    for row in reports:
        if row.problem:
            raise ResourceError(f"train.device=cuda: on host {row.host} {row.problem}")
    need, least = memory_bytes(corpus, config), min(reports, key=lambda row: row.free)
    if need <= least.free:
        return
    fits = enough_workers(corpus, config, least.free)
    advice = f"set train.workers={fits}, each with a GPU" if fits else "no number of workers is enough"
    raise ResourceError(
        f"{least.device} of host {least.host} has {least.free / 2**30:.1f} GiB of free memory; a worker needs "
        f"{need / 2**30:.1f} GiB for {corpus.vocabulary:,} tokens x {config.vector_size}: {advice}, or raise "
        "vocabulary.min_count, or lower train.vector_size"
    )


def memory_bytes(corpus: Corpus, config: TrainConfig) -> int:
    """Return the estimated device memory of a worker in bytes."""
    inputs, outputs = map(aligned_rows.padded_length, methods.of(config).saved_lengths(config))
    # Of the outputs, a half is trained while another one arrives and a third one leaves.
    row = inputs + (1.5 if config.workers > 1 else 1) * outputs
    has_tokens = 1 < config.workers <= plan.MOST_TOKEN_COPIES and config.method == "sgns"
    windows = min(corpus.tokens, config.slice_tokens) if has_tokens else 0
    return int(
        _BASE + -(-corpus.vocabulary // config.workers) * 4 * row + _TOKEN * corpus.vocabulary + _WINDOW * windows
    )


def enough_workers(corpus: Corpus, config: TrainConfig, free: int) -> int | None:
    """Return the smallest number of workers for which ``free`` bytes are enough; None: none is."""
    for workers in range(1, _MOST_WORKERS + 1):
        if memory_bytes(corpus, config.model_copy(update={"workers": workers})) <= free:
            return workers
    return None
