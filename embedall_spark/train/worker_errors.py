"""Spark's errors of a training job as one sentence: which worker was lost, why, and what to do."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embedall_spark.errors import WorkerLost

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIED = re.compile(r"Python worker exited unexpectedly|ExecutorLostFailure|Connection (?:closed|reset) by peer")
_SILENT = re.compile(
    r"Timed out waiting \d+ ?m?s|[Ww]ait timeout after|cannot get all barrier sync requests|Socket Timeout"
)
_MAX_LENGTH = 300


@contextmanager
def translate_worker_errors(epoch: int, timeout: int) -> Iterator[None]:
    """Raise WorkerLost where a worker was lost inside the block; other errors pass unchanged.

    ``epoch`` counts from 0; ``timeout`` is train.timeout, in seconds.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        resume = "Start the run again: it resumes from its last checkpoint"
        if match := _DIED.search(text):
            raise WorkerLost(
                f"a worker died in epoch {epoch + 1} ({_line(text, match)}). Often its host is out of memory: give it "
                f"more, or raise train.workers. {resume}"
            ) from error
        if match := _SILENT.search(text):
            raise WorkerLost(
                f"a worker was silent for train.timeout={timeout} s in epoch {epoch + 1} ({_line(text, match)}). Check "
                f"its host, or raise train.timeout. {resume}"
            ) from error
        raise


def _line(text: str, match: re.Match[str]) -> str:
    """Return the line of a match."""
    start, stop = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
    return text[start : None if stop < 0 else stop].strip(" :\t")[:_MAX_LENGTH]
