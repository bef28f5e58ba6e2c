"""How a command fails: what it logs, and its exit code."""

from __future__ import annotations

import logging

from embedall_spark.errors import EmbedallError, SetupError, Terminated

log = logging.getLogger(__name__)

_INTERRUPTED = 130  # as a shell's for a command that Ctrl-C has ended
_TERMINATED = 143  # likewise for SIGTERM

_NOT_INSTALLED = (
    "the Python of Spark's tasks lacks embedall_spark: install the package on every host, or ship it (see "
    "docs/guide/clusters.md), and set spark.pyspark.python to that Python"
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
    if "No module named 'embedall_spark'" in str(error):
        log.error("%s", _NOT_INSTALLED)
        return SetupError.exit_code
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return 1
