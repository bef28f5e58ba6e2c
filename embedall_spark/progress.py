"""How far a run is: a bar with rate and time left in a terminal, plain lines with percent in a log."""

from __future__ import annotations

import logging
import sys
import time

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

log = logging.getLogger(__name__)

console = Console(stderr=True)


def configure_logging() -> None:
    """Send the package's log to standard error: coloured in a terminal, with dates in a file."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(
            console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S", highlighter=None
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("embedall_spark")
    package.handlers[:] = [handler]
    package.setLevel(logging.INFO)
    package.propagate = False


class Meter:
    """The progress of one run; one stage at a time."""

    def __init__(self) -> None:
        """Begin with no stage."""
        self._bar: Progress | None = None
        self._stage = ""
        self._since = self._from = 0.0

    def show(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Tell that ``done`` of ``total`` are done; a stage ends when they are equal."""
        if stage != self._stage:
            self.close()
            # A resumed stage starts beyond zero: its rate counts from there.
            self._stage, self._since, self._from = stage, time.monotonic(), done
        share = done / total if total else 1.0
        if console.is_terminal:
            # rich's own estimate forgets what is older than half a minute, and a slice may take longer.
            self._draw(stage, share, note, self._left(done, total))
        else:
            log.info("%s %3.0f%%%s%s", stage, 100 * share, self._left(done, total), f"  {note}" if note else "")
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the stage's bar; it stays on the screen."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._stage = None, ""

    def _draw(self, stage: str, share: float, note: str, left: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TextColumn("{task.fields[note]}{task.fields[left]}"),
                TimeElapsedColumn(),
                console=console,
            )
            self._bar.add_task(stage, total=1.0, note="", left="")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=share, note=note, left=left)

    def _left(self, done: float, total: float) -> str:
        spent = time.monotonic() - self._since
        if done <= self._from or done >= total:
            return ""
        return f", about {spent * (total - done) / (done - self._from):.0f} s left"
