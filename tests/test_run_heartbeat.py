"""A second start of a run tells whether the first one lives, and does what output.if_running says. Without Spark."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from embedall_spark import run_heartbeat
from embedall_spark.errors import AlreadyRunning


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("SECONDS", 0.02), ("SILENCE", 0.5), ("_POLL_SECONDS", 0.02)):
        monkeypatch.setattr(run_heartbeat, name, seconds)


@pytest.fixture
def living(tmp_path):
    heartbeat = run_heartbeat.Heartbeat(str(tmp_path), "token")
    heartbeat.start()
    yield heartbeat
    heartbeat.stop()


def test_a_living_driver_is_known_until_it_ends(tmp_path, living):
    time.sleep(0.6)  # longer than the silence of the dead
    assert run_heartbeat.driver(str(tmp_path), "token").startswith(f"process {os.getpid()} on ")
    assert run_heartbeat.driver(str(tmp_path), "of another driver") is None
    living.stop()
    assert run_heartbeat.driver(str(tmp_path), "token") is None
    assert list(tmp_path.iterdir()) == []


def test_a_killed_driver_of_this_host_is_dead_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(run_heartbeat, "SILENCE", 60)
    beat = f"from embedall_spark import run_heartbeat as h; h.Heartbeat({str(tmp_path)!r}, 'token').start()"
    kill = "; import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", beat + kill], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    since = time.monotonic()
    assert run_heartbeat.driver(str(tmp_path), "token") is None
    assert time.monotonic() - since < 1


@pytest.mark.parametrize("lives", [True, False])
def test_a_driver_of_another_host_is_watched(tmp_path, lives):
    file, ended = tmp_path / "heartbeat-token.json", threading.Event()

    def beat():
        part = tmp_path / "part"
        part.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "7", "time": time.time()}))
        part.replace(file)

    def go_on():
        while not ended.wait(0.05):
            beat()

    beat()
    thread = threading.Thread(target=go_on if lives else bool)
    thread.start()
    assert run_heartbeat.driver(str(tmp_path), "token") == ("process 1 on elsewhere" if lives else None)
    ended.set()
    thread.join()


def test_what_a_second_start_does(tmp_path, living):
    with pytest.raises(AlreadyRunning, match=r"run night-7 is running already, in process \d+ on .*if_running: wait"):
        run_heartbeat.settle(str(tmp_path), "night-7", "token", "stop")
    timer = threading.Timer(0.3, living.stop)
    timer.start()
    since = time.monotonic()
    run_heartbeat.settle(str(tmp_path), "night-7", "token", "wait")
    assert time.monotonic() - since > 0.2
    timer.join()


def test_a_run_is_taken_over_from_a_dead_driver_or_if_it_is_to_be(tmp_path, living):
    left = tmp_path / "heartbeat-of the dead.json"
    left.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "7", "time": time.time() - 60}))
    run_heartbeat.settle(str(tmp_path), "night-7", "of the dead", "stop")
    assert not left.exists()
    run_heartbeat.settle(str(tmp_path), "night-7", "token", "replace")
