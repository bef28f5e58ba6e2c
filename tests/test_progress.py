"""Progress in a log and in a terminal: percent, rate, time left; a resumed stage counts from where it began."""

import io
import logging
import threading
import time

import pytest
from rich.console import Console

from embedall_spark import progress
from embedall_spark.run_context import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_in_a_log(clock, monkeypatch, caplog):
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO()))
    meter = progress.Meter()
    with caplog.at_level(logging.INFO, logger="embedall_spark.progress"):
        meter.show("train", 4, 10)
        clock[0] += 60
        meter.show("train", 6, 10, "loss 2.1")
        meter.show("train", 10, 10)
    assert caplog.messages == ["train  40%", "train  60%, about 120 s left  loss 2.1", "train 100%"]


def test_a_bar_in_a_terminal_tells_the_time_left_however_slow_the_steps(clock, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=100))
    meter = progress.Meter()
    meter.show("train", 0, 4)
    clock[0] += 90
    meter.show("train", 1, 4, "loss 2.1, 5 words/s")
    meter.close()
    assert "25%" in screen.getvalue()
    assert "loss 2.1, 5 words/s, about 270 s left" in screen.getvalue()


@pytest.fixture
def lines(monkeypatch):
    """What activities say in a log, many times a second."""
    lines = []
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO()))
    monkeypatch.setattr(progress, "_LOGGED", 0.02)
    monkeypatch.setattr(progress, "_spark_tasks", lambda: ", 3 of 8 tasks")
    monkeypatch.setattr(progress.log, "info", lambda _, *values: lines.append(values[0]))
    return lines


def wait_for(lines, count):
    deadline = time.monotonic() + 10
    while len(lines) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(lines) >= count


def test_the_inner_activity_is_shown(lines):
    before = threading.active_count()
    with progress.activity("outer"):
        with progress.activity("inner"):
            wait_for(lines, 1)
        wait_for(lines, len(lines) + 2)
    assert lines[0] == "inner: 0 s, 3 of 8 tasks"
    assert lines[-1].startswith("outer: ")
    time.sleep(0.1)
    # A thread of an earlier test may have ended meanwhile.
    assert threading.active_count() <= before


def test_a_bar_hides_the_activity(lines, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=100))
    monkeypatch.setattr(progress, "_MOVING", 0.02)
    meter = progress.Meter()
    with progress.activity("outer"):
        meter.show("train", 0, 4)
        time.sleep(0.2)
        assert "outer" not in screen.getvalue()
        meter.close()
        time.sleep(0.2)
        assert "outer: 0 s, 3 of 8 tasks" in screen.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_measured_progress_is_shown_while_the_block_runs(terminal, lines, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=terminal, width=100))
    monkeypatch.setattr(progress, "_MEASURED", 0.02)
    monkeypatch.setattr(progress, "_MEASURED_LOGGED", 0.02)
    monkeypatch.setattr(progress.log, "info", lambda text, *values: lines.append(text % values))
    meter, called = progress.Meter(), threading.Event()
    measured = iter([None, OSError("no answer")])

    def measure():
        value = next(measured, Progress("train", 1.5, 4, "loss 2.1"))
        if isinstance(value, Exception):
            raise value
        if value is not None:
            called.set()
        return value

    meter.show("train", 1, 4)
    with meter.watch(measure):
        assert called.wait(10)
        time.sleep(0.1)
    count = len(lines)
    time.sleep(0.1)
    assert len(lines) == count
    meter.close()
    if terminal:
        assert "38%" in screen.getvalue() and "loss 2.1" in screen.getvalue()
    else:
        assert lines[:2] == ["train  25%", "train: 0 s, 3 of 8 tasks"]
        assert lines[2].startswith("train  38%, about ") and lines[2].endswith(" s left  loss 2.1")
