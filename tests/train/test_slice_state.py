"""How the driver sees how far the workers of a slice are."""

import json
import threading
from types import SimpleNamespace

import pytest

from embedall_spark.train import slice_job, slice_state
from embedall_spark.train.config import TrainConfig
from embedall_spark.train.plan import Corpus, Plan


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(slice_state, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0]))
    return now


def slice_of(folder, workers=2):
    """Return the second slice of three, in the first epoch of two, over 3,000 tokens."""
    plan = Plan(Corpus(50, 3000, 2000.0, 12), workers, 1, 6, 3)
    config = TrainConfig(workers=workers, epochs=2, vector_size=16)
    return slice_state.Slice("run", "vocabulary", str(folder), None, plan, config, 0, 1)


def test_progress_of_all_workers(tmp_path, clock):
    slice_ = slice_of(tmp_path)
    stats = slice_state.WorkerStats(loss=6.0, loss_pairs=2)
    first, second = (slice_state.ProgressFile(slice_, rank, stats) for rank in range(2))
    first.update(0.1)
    assert slice_job._progress(slice_) is None
    clock[0] += 10
    first.update(0.5)
    # The other worker has not written yet.
    assert slice_job._progress(slice_) == ("train", pytest.approx((1 + 0.25) / 3), 2, "loss 3.0000, 25 words/s")
    second.update(0.7)
    clock[0] += 1
    first.update(0.9)
    assert slice_state.read_progress(str(tmp_path), 2) == (pytest.approx(0.6), 10.0, 3.0)
    clock[0] += 2
    first.update(0.9)
    assert slice_state.read_progress(str(tmp_path), 2)[0] == pytest.approx(0.8)


def test_one_thread_writes_and_a_failure_stops_nothing(tmp_path, clock, monkeypatch):
    progress = slice_state.ProgressFile(slice_of(tmp_path), 0, slice_state.WorkerStats())
    clock[0] += 10
    inside, leave, written = threading.Event(), threading.Event(), []

    def write(path, content):
        written.append(json.loads(content)["share"])
        inside.set()
        assert leave.wait(10)
        raise OSError("disk full")

    monkeypatch.setattr(slice_state.files, "write_bytes", write)
    thread = threading.Thread(target=progress.update, args=(0.1,))
    thread.start()
    assert inside.wait(10)
    progress.update(0.2)
    leave.set()
    thread.join(10)
    clock[0] += 10
    progress.update(0.3)
    assert written == [0.1, 0.3]
