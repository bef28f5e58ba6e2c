"""A standalone master and two workers, one of which says it has two GPUs; spark-submit as a scheduler calls it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pyspark
import pytest
from cli_runner import embedall
from conftest import QUICK_JAVA
from processes import parent, wait_for
from toy_corpus import TOPIC_OF, configure, documents, write
from vector_tables import bits

from embedall_spark import tables

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(pyspark.__file__).parent
SMALL = {"spark.driver.memory": "1g", "spark.executor.memory": "600m", "spark.executor.cores": "1"}
SMALL |= {"spark.sql.shuffle.partitions": "4"}


@contextmanager
def daemon(log, environment, *arguments):
    """Run a part of the cluster; give a function that tells whether its log holds a text."""

    def says(text):
        assert process.poll() is None, log.read_text()
        return text in log.read_text()

    with log.open("w") as output:
        command = [HOME / "bin" / "spark-class", *map(str, arguments)]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield says
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster-local")
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "MLFLOW_"))
    }
    settings = {
        "SPARK_HOME": HOME,
        "SPARK_CONF_DIR": folder,
        "SPARK_LOCAL_DIRS": folder,
        "PYSPARK_PYTHON": sys.executable,
    }
    settings |= {"SPARK_LOCAL_IP": "127.0.0.1", "JAVA_TOOL_OPTIONS": QUICK_JAVA}
    return inherited | {name: str(value) for name, value in settings.items()}


@pytest.fixture(scope="module")
def master(environment, tmp_path_factory):
    logs = tmp_path_factory.mktemp("cluster")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"spark://127.0.0.1:{port}"
    package, here = "org.apache.spark.deploy", ["--host", "127.0.0.1", "--webui-port", "0"]
    with ExitStack() as cluster:
        options = [f"{package}.master.Master", *here, "--port", port]
        says = cluster.enter_context(daemon(logs / "master.log", environment, *options))
        wait_for(lambda: says("New state: ALIVE"))
        discovery = logs / "discover.sh"
        discovery.write_text('#!/bin/sh\necho \'{"name": "gpu", "addresses": ["0", "1"]}\'\n')
        discovery.chmod(0o755)
        gpus = f"-Dspark.worker.resource.gpu.amount=2 -Dspark.worker.resource.gpu.discoveryScript={discovery}"
        workers = []
        # Each has memory for one executor.
        for name, cores, java in (("one", "1", ""), ("two", "4", gpus)):
            options = [f"{package}.worker.Worker", *here, "--cores", cores, "--memory", "700m"]
            options += ["--work-dir", logs / name, address]
            log = logs / f"{name}.log"
            workers.append(cluster.enter_context(daemon(log, {**environment, "SPARK_WORKER_OPTS": java}, *options)))
        for says in workers:
            wait_for(lambda says=says: says("Successfully registered with master"))
        yield address


@pytest.fixture(scope="module")
def glob(tmp_path_factory):
    return write(tmp_path_factory.mktemp("corpus") / "corpus", documents(), files=2)


TRAIN = {"workers": 2, "context": True, "epochs": 2}


def kill_an_executor(process, spools):
    """Kill the executor of one of the two workers of a run that have their windows and begin to train."""

    def training():
        pids = [int(path.name.split("-")[0]) for path in spools.glob("**/spool/night-1/*-*")]
        return process.poll() is not None or (len(pids) == 2 and pids)

    pids = wait_for(training)
    assert process.poll() is None, "the run ended before its training"
    # A worker is forked by the daemon of its executor.
    os.kill(parent(parent(pids[0])), signal.SIGKILL)


@pytest.fixture(scope="module")
def submitted(master, environment, glob, tmp_path_factory):
    """One application, since its processes take longest: a run that loses an executor, and one of too many workers."""
    folder = tmp_path_factory.mktemp("submitted")
    run = ["--config", configure(folder / "cluster", glob, train=TRAIN), "--run-id", "night-1"]
    refused = ["--config", configure(folder / "refused", glob, train={"workers": 3}), "--dry-run"]
    command = [HOME / "bin" / "spark-submit", "--master", master]
    command += ["--properties-file", ROOT / "conf" / "spark-standalone.conf"]
    for key, value in SMALL.items():
        command += ["--conf", f"{key}={value}"]
    command += [ROOT / "tests" / "run_script.py", ROOT / "jobs" / "words.py"]
    command += [json.dumps([*run, "--summary", f"{folder}/summary.json"]), json.dumps(refused)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(kill_an_executor, process, Path(environment["SPARK_LOCAL_DIRS"]))
        done = subprocess.CompletedProcess(command, None, *process.communicate(timeout=900))
    done.returncode = process.returncode
    killed.result()
    outputs = done.stdout.split("exit code ")
    assert len(outputs) == 3, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return folder, done, outputs


def test_spark_submit_on_two_workers(spark, submitted, glob, tmp_path):
    folder, done, outputs = submitted
    assert outputs[1].startswith("0"), outputs[0] + done.stderr
    # An executor was killed in the training: the run has tried the slice again by itself.
    assert "training: a worker died in epoch 1 (" in done.stderr
    assert done.stderr.count("Trying the slice again (train.retries: 1 of 2)") == 1
    summary = json.loads(outputs[0].splitlines()[-1])
    assert summary == json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["run_id"], summary["rows"]) == ("done", "night-1", len(TOPIC_OF))
    saved = json.loads(Path(summary["folder"], "checkpoints", "0001-0000", "manifest.json").read_text())
    assert len(saved["reports"]) == 2
    assert all(report["sent_bytes"] > 0 for report in saved["reports"])
    # To the bit what one machine makes of it.
    alone = embedall("words", "--config", configure(tmp_path / "alone", glob, train=TRAIN))
    assert alone.code == 0, alone.log
    actual = tables.read(spark, summary["table"])
    assert bits(actual) == bits(tables.read(spark, alone.summary["table"]))
    assert actual.where("size(context) = 20").count() == len(TOPIC_OF)


def test_a_cluster_with_too_few_slots_is_told_at_once(submitted):
    folder, done, outputs = submitted
    assert (done.returncode, outputs[2].strip()) == (1, "1"), done.stderr
    assert "train.workers=3 needs 3 task slots at once, but the cluster has fewer" in outputs[1]
    assert json.loads(outputs[1].splitlines()[-1])["error"] == "ResourceError"
    assert not (folder / "refused" / "output").exists()


def test_spark_assigns_the_gpus_of_a_worker(master, environment, tmp_path):
    settings = {
        "spark.driver.memory": "1g", "spark.executor.memory": "600m", "spark.executor.cores": 4,
        "spark.executor.resource.gpu.amount": 2, "spark.task.resource.gpu.amount": 0.5, "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
    }  # fmt: skip
    command = [HOME / "bin" / "spark-submit", "--master", master]
    command += [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
    done = subprocess.run(
        [*command, ROOT / "tests" / "devices_job.py", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE)[-1])
    # Half a GPU each: four tasks at once, two on each.
    at_once = said["session"]["rows"]
    assert Counter(device for device, *_ in at_once) == {"cuda:0": 2, "cuda:1": 2}
    assert max(begun for _, begun, _ in at_once) < min(ended for *_, ended in at_once)
    assert said["session"]["threads"] == 1
    # A whole GPU each, by the stage's own profile: two at once, never two on the same.
    for device in ("cuda:0", "cuda:1"):
        spans = sorted((begun, ended) for name, begun, ended in said["stage"]["rows"] if name == device)
        assert spans
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert sum(name in ("cuda:0", "cuda:1") for name, *_ in said["stage"]["rows"]) == 4
    assert said["stage"]["threads"] == 2
    # The barrier tasks of a training have a GPU of their own each.
    assert said["training"] == ["cuda:0", "cuda:1"]
