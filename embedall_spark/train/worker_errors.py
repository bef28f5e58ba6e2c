"""Spark's errors of a training job as one sentence: which worker was lost, why, and what to do.

The texts are those of Spark 4.1 (DAGScheduler, TaskSetManager, YarnAllocator, ExecutorPodsLifecycleManager and the
ExecutorRunner of standalone clusters), of gloo and of torch's store.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embedall_spark.errors import ResourceError, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Iterator

_OVERHEAD = "raise spark.executor.memoryOverhead, which is the room of Python workers, or train.workers over more hosts"
# What is found in the order of this list: a text that names a cause often holds the general ones as well.
_LOST = (
    (
        r"exceeding virtual memory limits",
        f"YARN counts addresses, not memory: {_OVERHEAD}; or set yarn.nodemanager.vmem-check-enabled to false",
    ),
    (
        r"exceeding (?:physical )?memory limits|OOMKilled|possible container OOM|Exit status: (?:137|-104)\b|"
        r"exit(?:ed with)? (?:exit )?code 137\b|died from signal 9\b",
        f"Most often it needed more memory than its container or host has: {_OVERHEAD}",
    ),
    (
        r"java\.lang\.OutOfMemoryError|exit(?:ed with)? (?:exit )?code 52\b|Exit status: 52\b",
        "The JVM of its executor ran out of heap: raise spark.executor.memory",
    ),
    (
        r"was preempted|[Dd]ecommission|deleted by a user or the framework|because of a YARN event|"
        r"Exit status: -10[02]\b",
        "The cluster took its host or container away",
    ),
    (
        r"Python worker exited unexpectedly|Fatal Python error",
        "Often its host is out of memory: give it more, or raise train.workers",
    ),
    (
        r"FetchFailed|MetadataFetchFailed|Missing an output location for shuffle|TaskResultLost",
        "The host that held its windows is gone, or cannot be reached",
    ),
    (
        r"ExecutorLostFailure|heartbeat timed out|Remote RPC client disassociated|[Ww]orker lost|"
        r"Connection (?:closed|reset) by peer|Broken pipe|Did the remote server shutdown or crash|DistNetworkError",
        "Often its host is out of memory or gone: give it more, or raise train.workers",
    ),
)
_SILENT = re.compile(
    r"Timed out (?:waiting|after) \d+ ?(?:m?s|seconds)\b|[Ww]ait timeout after|cannot get all barrier sync requests|"
    r"Socket Timeout"
)
_GLOO = re.compile(r"gloo/transport/|[Gg]loo connectFullMesh failed")
# A worker that lives and says so: another try would end the same.
_NO_MEMORY = re.compile(r"\bMemoryError|_ArrayMemoryError|ArrowMemoryError|bad_alloc|can't allocate memory")
_ENDED = re.compile(r"Spark\w+ was shut down|Job \d+ cancelled")
_TRIED = re.compile(r"failed (?:[2-9]|\d\d+) times")
_MAX_LENGTH = 300


@contextmanager
def translate_worker_errors(epoch: int, timeout: int) -> Iterator[None]:
    """Raise WorkerLost where a worker was lost inside the block; other errors pass unchanged.

    ``epoch`` counts from 0; ``timeout`` is train.timeout, in seconds.

    Raises:
        ResourceError: a worker could not allocate what it needed.
        WorkerLost: a worker died or was silent.
    """
    try:
        yield
    except Exception as error:
        translated = translate(str(error), f"in epoch {epoch + 1}", timeout)
        if translated is None:
            raise
        raise translated from error


def translate(text: str, when: str, timeout: int) -> WorkerLost | ResourceError | None:
    """Return the error for a text of Spark's; None where it tells of no lost worker."""
    if _ENDED.search(text):
        return None
    if match := _NO_MEMORY.search(text):
        return ResourceError(
            f"a worker could not allocate memory {when} ({_line(text, match)}): raise "
            "spark.executor.pyspark.memory where it is set, which an executor's tasks share, else the host's memory; "
            "or raise train.workers over more hosts"
        )
    for pattern, advice in _LOST:
        if match := re.search(pattern, text):
            return WorkerLost(f"a worker died {when} ({_line(text, match)}). {advice}")
    if match := _SILENT.search(text):
        return WorkerLost(
            f"a worker was silent for train.timeout={timeout} s {when} ({_line(text, match)}). Check its host, or "
            "raise train.timeout"
        )
    if match := _GLOO.search(text):
        return WorkerLost(f"a worker lost its connection to another {when} ({_line(text, match)}). Check its host")
    return None


def was_tried_again(error: BaseException | None) -> bool:
    """Return whether Spark itself has tried a task again before it gave up, as it does outside barrier stages."""
    return error is not None and _TRIED.search(str(error)) is not None


def _line(text: str, match: re.Match[str]) -> str:
    """Return the line of a match."""
    start, stop = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
    return text[start : None if stop < 0 else stop].strip(" :\t")[:_MAX_LENGTH]
