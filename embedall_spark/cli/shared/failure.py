"""How a command fails: what it logs, and its exit code."""

from __future__ import annotations

import logging
import re

from embedall_spark.errors import EmbedallError, SetupError, Terminated

log = logging.getLogger(__name__)

_INTERRUPTED = 130  # as a shell's for a command that Ctrl-C has ended
_TERMINATED = 143  # likewise for SIGTERM

_NOT_INSTALLED = (
    "the Python of Spark's tasks lacks %s: install it on every host, or ship it with the job (see "
    "docs/guide/packaging.md), and set spark.pyspark.python to that Python"
)


def explain(error: BaseException) -> int:
    """Log an error, with a stack only where it is none that a user can act on; return the command's exit code."""
    if isinstance(error, EmbedallError):
        log.error("%s", error)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        by = "SIGTERM" if isinstance(error, Terminated) else "the user"
        log.error("stopped by %s; the same command resumes from the last finished stage or checkpoint", by)
        return _TERMINATED if isinstance(error, Terminated) else _INTERRUPTED
    missing = re.search(r"No module named '(\w+)", str(error))
    # Spark's, with the stack of a task.
    if missing is not None and not isinstance(error, ImportError):
        log.error(_NOT_INSTALLED, missing[1])
        return SetupError.exit_code
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return 1
