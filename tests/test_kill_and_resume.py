"""Runs that are killed, hang or are overtaken: each ends in a stated time, tells why, and its rerun ends the same.

The trainer is slowed down by many dimensions and wide windows. Vectors are compared to the last bit.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from cli_runner import embedall
from conftest import QUICK_JAVA
from processes import alive, busiest_worker, wait_for
from toy_corpus import TOPIC_OF, configure, documents, write
from vector_tables import bits

from embedall_spark import config, run_manifest, tables
from embedall_spark.kinds import words
from embedall_spark.train import single_worker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]

TIMEOUT = 15
SLOW = {
    "vector_size": 256,
    "window": 40,
    "negative": 10,
    "shrink_windows": False,
    "alpha": 0.005,
    "epochs": 2,
    "slice_tokens": 40_000,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write(tmp_path_factory.mktemp("slow") / "corpus", documents(900, words=100))


class Scene:
    """A configuration in a folder of its own, and what its runs leave there."""

    def __init__(self, spark, folder, corpus, **train):
        self.spark, self.table = spark, f"{folder}/output/words"
        self.file = configure(folder, corpus, train=SLOW | train)
        self.root = folder / "output" / ".runs"
        self.spools = Path(spark.conf.get("spark.local.dir"))

    def manifest(self):
        (folder,) = self.root.iterdir()
        return json.loads((folder / "manifest.json").read_text())

    def saved(self, name):
        return list(self.root.glob(f"*/checkpoints/{name}/manifest.json"))

    def spooling(self):
        """Return the processes that fill spools of this run; a spool's name begins with its process's number."""
        paths = self.spools.glob(f"blockmgr-*/embedall-*/spool/{self.manifest()['run_id']}/*")
        return [int(path.name.split("-")[0]) for path in paths]

    def two_workers(self, before):
        """Return the processes of a training by two workers that have their windows, once both are other ones."""
        pids = {pid for pid in self.spooling() if alive(pid)} - before
        return len(pids) == 2 and pids

    def again(self, attempt):
        """The same command again: it goes on where the run stood, and ends well."""
        result = embedall("words", "--config", self.file)
        assert result.code == 0, result.log
        assert "train   0%" not in result.log
        assert self.manifest()["attempt"] == attempt
        assert tables.version(self.spark, self.table) == 0
        return bits(tables.read(self.spark, self.table))


class Running:
    """A run in the background, whose end the block waits for."""

    def __init__(self, scene, *arguments):
        self.result, self._training = None, threading.Event()
        self._thread = threading.Thread(target=self._run, args=["--config", scene.file, *arguments])

    def _run(self, *arguments):
        train = single_worker.run

        def noted(*slice_):
            self._training.set()
            return train(*slice_)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(single_worker, "run", noted)
            self.result = embedall("words", *arguments)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join()

    def trains(self):
        """Tell whether one worker's training has begun, beside which no other stage has a worker."""
        return self._training.is_set()

    def goes_on(self):
        return self._thread.is_alive()

    def when(self, what):
        """Return what ``what()`` returns once that is true."""
        value = wait_for(lambda: what() or (not self.goes_on() and "ended"))
        assert value != "ended", self.result.log
        return value


@pytest.fixture(scope="module")
def undisturbed(spark, corpus, tmp_path_factory):
    """The vectors of runs that nothing befalls, by their options."""
    results = {}

    def vectors(**train):
        key = json.dumps(train)
        if key not in results:
            scene = Scene(spark, tmp_path_factory.mktemp("undisturbed"), corpus, **train)
            result = embedall("words", "--config", scene.file)
            assert result.code == 0, result.log
            results[key] = bits(tables.read(spark, scene.table))
            assert len(results[key]) == len(TOPIC_OF)
        return results[key]

    return vectors


def assert_lost(result, message):
    assert result.code == 1, result.log
    assert result.summary["error"] == "WorkerLost"
    assert message in result.log and "Start the run again: it resumes from its last checkpoint" in result.log
    assert "Traceback" not in result.log


@pytest.fixture(scope="module")
def killed(spark, own_store, corpus, tmp_path_factory):
    """A run whose driver, a process as a user starts it, is killed as soon as an epoch's checkpoint is there.

    What else befalls this run follows in the fixtures below, each where the one before has left it.
    """
    folder = tmp_path_factory.mktemp("killed")
    scene = Scene(spark, folder, corpus)
    command = [Path(sys.executable).with_name("embedall"), "words", "--config", scene.file, "--master", "local[2]"]
    environment = {**os.environ, "JAVA_TOOL_OPTIONS": QUICK_JAVA}
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: scene.saved("0000-0001") or first.poll() is not None)
    finally:
        first.kill()
    assert first.wait() == -signal.SIGKILL, (folder / "first.log").read_text()
    assert scene.manifest()["status"] == "running"
    return scene


@pytest.fixture(scope="module")
def bereft(killed):
    """The second attempt, whose worker is killed in mid-epoch: its result and what its manifest says."""
    with Running(killed, "--set", "train.retries=0") as running:
        running.when(running.trains)
        while running.goes_on():
            if pid := busiest_worker(os.getpid()):
                os.kill(pid, signal.SIGKILL)
    assert not tables.exists(killed.spark, killed.table)
    return running.result, killed.manifest()


@pytest.fixture(scope="module")
def overtaken(killed, bereft):
    """The third attempt, while which another driver takes over: its result, and the manifest of the other."""
    with Running(killed) as running:
        running.when(running.trains)
        settings = config.load(words.Config, killed.file)
        _, taken = run_manifest.begin(str(killed.root), "words", settings, killed.manifest()["input"], None)
    assert not tables.exists(killed.spark, killed.table)
    return running.result, taken


@pytest.fixture(scope="module")
def mlflow_status(killed):
    """Tells what MLflow says of the run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{killed.root.parent}/mlflow.db")
    return lambda: client.get_run(killed.manifest()["mlflow_run_id"]).info.status


def test_a_driver_killed_between_epochs_is_gone_on_from(bereft):
    result, _ = bereft
    assert "resumed after attempt 1" in result.log
    assert "pages: reused" in result.log and "train   0%" not in result.log


def test_a_worker_killed_in_mid_epoch(bereft):
    result, left = bereft
    assert_lost(result, "a worker died in epoch 2 (")
    assert (left["status"], left["attempt"]) == ("failed", 2)


def test_a_driver_that_is_overtaken_leaves_the_table_to_the_other(killed, overtaken, mlflow_status, undisturbed):
    result, taken = overtaken
    assert result.code == 1
    assert result.summary["error"] == "Superseded"
    assert "another driver took over (attempt 4, this one is 3)" in result.log
    left = killed.manifest()
    assert (left["token"], left["status"]) == (taken["token"], "running")
    assert mlflow_status() == "RUNNING"
    assert killed.again(attempt=5) == undisturbed()
    assert killed.manifest()["status"] == "done"
    assert mlflow_status() == "FINISHED"


def test_one_of_two_workers_killed_then_one_that_hangs(spark, corpus, tmp_path, undisturbed):
    scene = Scene(spark, tmp_path, corpus, workers=2)
    with Running(scene, "--set", f"train.timeout={TIMEOUT}", "--set", "train.retries=1") as running:
        running.when(lambda: scene.saved("0000-0001"))
        before = set()
        for sent in (signal.SIGKILL, signal.SIGSTOP):
            before = pids = running.when(partial(scene.two_workers, before))
            time.sleep(0.1)
            since = time.monotonic()
            os.kill(min(pids), sent)
    assert time.monotonic() - since < 5 * TIMEOUT
    assert_lost(running.result, f"a worker was silent for train.timeout={TIMEOUT} s in epoch 2 (")
    assert "a worker died in epoch 2 (" in running.result.log
    assert running.result.log.count("Trying the slice again (train.retries: 1 of 1)") == 1
    assert scene.again(attempt=2) == undisturbed(workers=2)
    assert not scene.spooling()
