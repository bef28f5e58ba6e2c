"""How far a run is: a bar with rate and time left in a terminal, plain lines with percent in a log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.status import Status

from embedall_spark import credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedall_spark import run_context

log = logging.getLogger(__name__)

console = Console(stderr=True)

# Seconds between two looks at an activity: in a terminal, and between two lines of a log.
_MOVING, _LOGGED = 0.5, 10.0
# The same of a measured progress.
_MEASURED, _MEASURED_LOGGED = 2.0, 30.0


class Masked(logging.Formatter):
    """Writes no credentials, wherever a message has its URI from."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line, with credentials masked."""
        return credentials.mask(super().format(record))


def configure_logging() -> None:
    """Send the package's log to standard error: colored in a terminal, with dates in a file."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(
            console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S", highlighter=None
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Masked("%(message)s" if console.is_terminal else "%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("embedall_spark")
    package.handlers[:] = [handler]
    package.setLevel(logging.INFO)
    package.propagate = False


def quiet_in_terminal() -> None:
    """Log warnings only where a terminal shows activities and bars; a file keeps all lines."""
    if console.is_terminal:
        logging.getLogger("embedall_spark").setLevel(logging.WARNING)


@contextmanager
def activity(text: str) -> Iterator[None]:
    """Show that work goes on while the block runs: its name, its seconds, and how many of Spark's tasks are done.

    In a terminal that is a line that moves and vanishes, in a log a line every ten seconds. Activities may be nested:
    the inner one is shown. A Meter's bar hides it.
    """
    _spinner.begin(text)
    try:
        yield
    finally:
        _spinner.end()


class _Spinner:
    """The line of the innermost activity, drawn by a thread that lives as long as there is an activity."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._activities: list[tuple[str, float]] = []
        self._status: Status | None = None
        self._hidden = False
        self._quiet_until = 0.0
        self._stop = threading.Event()

    def begin(self, text: str) -> None:
        with self._lock:
            self._activities.append((text, time.monotonic()))
            if len(self._activities) == 1:
                self._stop = threading.Event()
                threading.Thread(target=self._watch, args=(self._stop,), daemon=True).start()

    def end(self) -> None:
        with self._lock:
            self._activities.pop()
            if not self._activities:
                self._stop.set()
                self._clear()

    def give_way(self) -> None:
        """Leave the screen to a bar until resume(), the log to its lines for a while."""
        with self._lock:
            self._hidden, self._quiet_until = console.is_terminal, time.monotonic() + _LOGGED
            self._clear()

    def resume(self) -> None:
        with self._lock:
            self._hidden = False

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(_MOVING if console.is_terminal else _LOGGED):
            tasks = _spark_tasks()
            with self._lock:
                now = time.monotonic()
                if self._activities and not self._hidden and now >= self._quiet_until and not stop.is_set():
                    text, since = self._activities[-1]
                    self._show(f"{text}: {now - since:.0f} s{tasks}")

    def _show(self, line: str) -> None:
        if not console.is_terminal:
            log.info("%s", line)
        elif self._status is None:
            self._status = Status(line, console=console)
            self._status.start()
        else:
            self._status.update(line)

    def _clear(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


_spinner = _Spinner()


def _spark_tasks() -> str:
    # Imported here: 'embedall --help' needs nothing of it.
    from embedall_spark import session

    done, total = session.running_tasks()
    return f", {done} of {total} tasks" if total > 1 else ""


class Meter:
    """The progress of one run; one stage at a time. Threads may share it."""

    def __init__(self) -> None:
        """Begin with no stage."""
        self._bar: Progress | None = None
        self._stage = ""
        self._since = self._from = 0.0
        self._lock = threading.RLock()

    def show(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Show that ``done`` of ``total`` are done; a stage ends when they are equal."""
        with self._lock:
            if stage != self._stage:
                self.close()
                # A resumed stage starts beyond zero: its rate counts from there.
                self._stage, self._since, self._from = stage, time.monotonic(), done
            _spinner.give_way()
            share = done / total if total else 1.0
            if console.is_terminal:
                # rich's own estimate forgets what is older than half a minute, and a slice may take longer.
                self._draw(stage, share, note, self._left(done, total))
            else:
                log.info("%s %3.0f%%%s%s", stage, 100 * share, self._left(done, total), f"  {note}" if note else "")
            if done >= total:
                self.close()

    @contextmanager
    def watch(self, measure: Callable[[], run_context.Progress | None]) -> Iterator[None]:
        """Show what ``measure`` returns while the block runs: every two seconds in a terminal, every 30 in a log.

        Where it returns None, a log has a line with the numbers of Spark's tasks instead.
        """
        stop, since = threading.Event(), time.monotonic()

        def show() -> None:
            while not stop.wait(_MEASURED if console.is_terminal else _MEASURED_LOGGED):
                try:
                    progress = measure()
                except Exception as error:
                    log.debug("progress cannot be measured: %s", error)
                    continue
                if progress is not None and not stop.is_set():
                    self.show(*progress)
                elif progress is None and not console.is_terminal:
                    log.info("%s: %.0f s%s", self._stage, time.monotonic() - since, _spark_tasks())

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            # Not for long: a storage that does not answer must not hold up the run.
            thread.join(1.0)

    def close(self) -> None:
        """End the stage's bar; it stays on the screen."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
            self._bar, self._stage = None, ""
            _spinner.resume()

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
