"""What the end of a slice's job means: a worker that is gone, in one sentence, and not Spark's stack of causes."""

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
_LONGEST = 300


@contextmanager
def translate_worker_errors(epoch: int, timeout: int) -> Iterator[None]:
    """Raise WorkerLost where a worker was lost inside the block; other errors pass.

    ``epoch`` counts from 0; ``timeout`` is train.timeout, in seconds.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        went_on = "Start the run again: it goes on from its last checkpoint"
        if found := _DIED.search(text):
            raise WorkerLost(
                f"a worker died in epoch {epoch + 1} ({_line(text, found)}). Often its host was out of memory: give it "
                f"more, or raise train.workers. {went_on}"
            ) from error
        if found := _SILENT.search(text):
            raise WorkerLost(
                f"a worker was silent for train.timeout={timeout} s in epoch {epoch + 1} ({_line(text, found)}). Look "
                f"at its host, or raise train.timeout. {went_on}"
            ) from error
        raise


def _line(text: str, found: re.Match[str]) -> str:
    """Return the line in which something was found."""
    start, stop = text.rfind("\n", 0, found.start()) + 1, text.find("\n", found.end())
    return text[start : None if stop < 0 else stop].strip(" :\t")[:_LONGEST]
