"""Progress in a log and in a terminal: percent, rate, time left; a resumed stage counts from where it began."""

import io
import logging
import threading
import time

import pytest
from rich.console import Console

from embedall_spark import progress


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


def test_an_activity_shows_the_inner_one_and_hides_behind_a_bar(monkeypatch):
    shown, lines = threading.Event(), []
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO()))
    monkeypatch.setattr(progress, "_LOGGED", 0.01)
    monkeypatch.setattr(progress, "_spark_tasks", lambda: ", 3 of 8 tasks")
    monkeypatch.setattr(progress.log, "info", lambda _, *args: (lines.append(args[0]), shown.set()))
    before = threading.active_count()
    meter = progress.Meter()
    with progress.activity("outer"):
        with progress.activity("inner"):
            assert shown.wait(10)
        meter.show("train", 0, 4)
        hidden = len(lines)
        time.sleep(0.1)
        assert lines[hidden:] == []
        meter.close()
        shown.clear()
        assert shown.wait(10)
    assert lines[0] == "inner: 0 s, 3 of 8 tasks"
    assert lines[-1].startswith("outer: ")
    time.sleep(0.1)
    assert threading.active_count() == before
