"""A standalone master and two workers, one of which says it has two GPUs; spark-submit as a scheduler calls it.

Where that is possible each worker is a host of its own, with a network, a name and a scratch folder.
"""

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

import network_hosts
import pyspark
import pytest
from cli_runner import embedall
from conftest import QUICK_JAVA
from processes import parent, wait_for
from toy_corpus import TOPIC_OF, configure, documents, write
from vector_tables import bits

from embedall_spark import session, spark_jvm, tables

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(pyspark.__file__).parent
SMALL = {"spark.driver.memory": "1g", "spark.executor.memory": "600m", "spark.executor.cores": "1"}
# Spark waits for all of these cores.
SMALL |= {"spark.sql.shuffle.partitions": "4", "spark.cores.max": "2"}
# Between hosts that do not reach each other Spark tries thrice, with five seconds between.
SMALL |= {"spark.shuffle.io.retryWait": "200ms"}


@contextmanager
def daemon(log, environment, *arguments):
    """Run a part of the cluster; give a function that tells whether its log holds a text."""

    def says(text):
        assert process.poll() is None, log.read_text()
        return text in log.read_text()

    with log.open("w") as output:
        process = subprocess.Popen([*map(str, arguments)], env=environment, stdout=output, stderr=output)
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
def hosts():
    """A hub with the master and the driver, and a host for each worker."""
    with network_hosts.network() as network:
        yield network


@pytest.fixture(scope="module")
def local_folder(tmp_path_factory):
    """A folder in which each host has its own local one."""
    return tmp_path_factory.mktemp("cluster-local")


def environment_of(host, local_folder):
    """Return the environment of a host's processes, with a scratch folder that only they use."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "MLFLOW_"))
    }
    folder = local_folder / host.name
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    settings = {
        "SPARK_HOME": HOME,
        "SPARK_CONF_DIR": folder,
        "SPARK_LOCAL_DIRS": folder,
        "TMPDIR": folder / "tmp",
        "PYSPARK_PYTHON": sys.executable,
    }
    settings |= {"SPARK_LOCAL_IP": host.address, "JAVA_TOOL_OPTIONS": QUICK_JAVA}
    return inherited | {name: str(value) for name, value in settings.items()}


@pytest.fixture(scope="module")
def environment(hosts, local_folder):
    return environment_of(hosts.hub, local_folder)


@pytest.fixture(scope="module")
def jars(spark):
    """Delta's jars, which the session has; the hub has no way to Maven."""
    settings = session.read_properties(session.conf_file("spark-standalone.conf"))
    known = spark_jvm._known_jars({name: value for name, value in settings.items() if name == spark_jvm.PACKAGES})
    return {spark_jvm.PACKAGES: "", "spark.jars": ",".join(path.as_uri() for path in known)} if known else {}


@pytest.fixture(scope="module")
def master(hosts, local_folder, tmp_path_factory):
    logs = tmp_path_factory.mktemp("cluster")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"spark://{hosts.hub.address}:{port}"
    package = "org.apache.spark.deploy"
    with ExitStack() as cluster:

        def start(host, name, environment, *options):
            here = ["--host", host.address, "--webui-port", "0"]
            command = [*host.prefix, HOME / "bin" / "spark-class", f"{package}.{options[0]}", *here, *options[1:]]
            environment = environment_of(host, local_folder) | environment
            return cluster.enter_context(daemon(logs / f"{name}.log", environment, *command))

        says = start(hosts.hub, "master", {}, "master.Master", "--port", port)
        wait_for(lambda: says("New state: ALIVE"))
        discovery = logs / "discover.sh"
        discovery.write_text('#!/bin/sh\necho \'{"name": "gpu", "addresses": ["0", "1"]}\'\n')
        discovery.chmod(0o755)
        gpus = f"-Dspark.worker.resource.gpu.amount=2 -Dspark.worker.resource.gpu.discoveryScript={discovery}"
        workers = []
        # Each has memory for one executor.
        for host, name, cores, java in ((hosts.one, "one", "1", ""), (hosts.two, "two", "4", gpus)):
            options = ["--cores", cores, "--memory", "700m", "--work-dir", logs / name, address]
            workers.append(start(host, name, {"SPARK_WORKER_OPTS": java}, "worker.Worker", *options))
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
def submitted(hosts, master, environment, jars, local_folder, glob, tmp_path_factory):
    """One application, since its processes take longest, with three runs.

    A dry run while the hosts do not reach each other; after they do, a run that loses an executor; and a dry run of too
    many workers.
    """
    folder = tmp_path_factory.mktemp("submitted")
    apart = ["--config", configure(folder / "apart", glob, train=TRAIN), "--dry-run"]
    run = ["--config", configure(folder / "cluster", glob, train=TRAIN), "--run-id", "night-1"]
    refused = ["--config", configure(folder / "refused", glob, train={"workers": 3}), "--dry-run"]
    command = [*hosts.hub.prefix, HOME / "bin" / "spark-submit", "--master", master]
    command += ["--properties-file", ROOT / "conf" / "spark-standalone.conf", "--load-spark-defaults"]
    for key, value in (SMALL | jars).items():
        command += ["--conf", f"{key}={value}"]
    command += [
        ROOT / "tests" / "run_script.py",
        ROOT / "jobs" / "words.py",
        json.dumps(apart),
        f"wait {folder}/linked",
    ]
    command += [json.dumps([*run, "--summary", f"{folder}/summary.json"]), json.dumps(refused)]
    events = folder / "events"
    events.mkdir()
    site = f"spark.eventLog.enabled true\nspark.eventLog.dir {events.as_uri()}\nspark.driver.memory 16m\n"
    Path(environment["SPARK_CONF_DIR"], "spark-defaults.conf").write_text(site)
    log = (folder / "output.log").open("w+")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.PIPE, text=True)
    with ThreadPoolExecutor(1) as disturber:

        def disturb():
            wait_for(lambda: process.poll() is not None or "exit code" in Path(log.name).read_text())
            hosts.link()
            (folder / "linked").touch()
            kill_an_executor(process, local_folder)

        disturbed = disturber.submit(disturb)
        errors = process.communicate(timeout=900)[1]
    done = subprocess.CompletedProcess(command, process.returncode, Path(log.name).read_text(), errors)
    disturbed.result()
    outputs = done.stdout.split("exit code ")
    assert len(outputs) == 4, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return folder, done, outputs


def test_workers_that_do_not_reach_each_other_are_told_before_anything_else(hosts, submitted):
    if hosts.missing:
        pytest.skip(hosts.missing)
    folder, _, outputs = submitted
    assert outputs[1].startswith("1")
    assert json.loads(outputs[0].splitlines()[-1])["error"] == "ResourceError"
    for host, peer in (("one", hosts.two), ("two", hosts.one)):
        assert re.search(
            rf"{host} has no address on a route to the others \({peer.address}\): .*unreachable", outputs[0]
        )
    assert "open these between the hosts of executors in firewalls, security groups and network policies" in outputs[0]
    assert not (folder / "apart" / "output").exists()


def test_spark_submit_on_two_workers(spark, submitted, glob, tmp_path):
    folder, done, outputs = submitted
    assert outputs[2].startswith("0"), outputs[1] + done.stderr
    # What only the site's spark-defaults.conf says holds beside the properties.
    assert list((folder / "events").iterdir())
    # An executor was killed in the training: the run has tried the slice again by itself.
    assert "training: a worker died in epoch 1 (" in outputs[1]
    assert outputs[1].count("Trying the slice again (train.retries: 1 of 2)") == 1
    summary = json.loads(outputs[1].splitlines()[-1])
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
    assert (done.returncode, outputs[3].strip()) == (1, "1"), done.stderr
    assert "train.workers=3 needs 3 task slots at once, but the cluster has fewer" in outputs[2]
    assert json.loads(outputs[2].splitlines()[-1])["error"] == "ResourceError"
    assert not (folder / "refused" / "output").exists()


def test_spark_assigns_the_gpus_of_a_worker(hosts, master, environment, tmp_path):
    settings = {
        "spark.driver.memory": "1g", "spark.executor.memory": "600m", "spark.executor.cores": 4,
        "spark.executor.resource.gpu.amount": 2, "spark.task.resource.gpu.amount": 0.5, "spark.ui.enabled": "false",
    }  # fmt: skip
    command = [*hosts.hub.prefix, HOME / "bin" / "spark-submit", "--master", master]
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
