"""The Spark job of a slice: run, watched, and tried again where a worker is lost in it."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from embedall_spark import files
from embedall_spark.run_context import Progress
from embedall_spark.train import methods, preflight, retries, slice_state, worker_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run

Reports = list[dict[str, Any]]


def collect(run: Run, job: Callable[[], DataFrame], slice_: slice_state.Slice) -> tuple[Reports, float]:
    """Return the workers' reports on a slice, by rank, and the seconds that it took; ``job`` is called for each try.

    Raises:
        ResourceError: a lost worker was not replaced in time.
        WorkerLost: a worker was lost in the last try, too.
    """
    return retries.call(
        lambda: _try(run, job, slice_),
        lambda: preflight.check(run.spark, slice_.plan.corpus, slice_.config),
        slice_.config,
    )


def _try(run: Run, job: Callable[[], DataFrame], slice_: slice_state.Slice) -> tuple[Reports, float]:
    """Return what collect() does, from one try; what an earlier one left in the slice's folder is deleted."""
    run.check_ownership()
    files.delete(slice_.folder)
    since = time.perf_counter()
    with (
        worker_errors.translate_worker_errors(slice_.epoch, slice_.config.timeout),
        run.watch(partial(_progress, slice_)),
    ):
        # A new query: Spark keeps the failed stages of an old one, and would only report them again.
        rows = job().collect()
    files.delete(f"{slice_.folder}/{slice_state.PROGRESS}")
    reports = [json.loads(row.report) for row in sorted(rows, key=lambda row: int(row.rank))]
    return reports, time.perf_counter() - since


def _progress(slice_: slice_state.Slice) -> Progress | None:
    """Return how far the training is by what the workers of a slice have written; None before they write."""
    update = slice_state.read_progress(slice_.folder, slice_.plan.workers)
    if update is None:
        return None
    share, seconds, loss = update
    note = f"loss {loss:.4f}, {share * slice_.tokens / max(seconds, 1e-3):,.0f} {methods.of(slice_.config).UNIT}/s"
    epochs = slice_.config.epochs
    return Progress("train", slice_.progress(share) * epochs, epochs, note)
