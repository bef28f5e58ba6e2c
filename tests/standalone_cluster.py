"""A standalone master and two workers, one of which says it has two GPUs; where possible each is a host of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import network_hosts
import pyspark
from conftest import QUICK_JAVA
from processes import wait_for

from embedall_spark import session, spark_jvm

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(pyspark.__file__).parent
SMALL = {"spark.driver.memory": "1g", "spark.executor.memory": "600m", "spark.executor.cores": "1"}
# Spark waits for all of these cores.
SMALL |= {"spark.sql.shuffle.partitions": "4", "spark.cores.max": "2"}
# For a few rows it takes longer to compile each plan than to run it.
SMALL |= {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
# Between hosts that do not reach each other Spark tries thrice, with five seconds between.
SMALL |= {"spark.shuffle.io.retryWait": "200ms"}


class Cluster(NamedTuple):
    """A running cluster, and what a driver on its hub needs."""

    hosts: network_hosts.Network
    master: str
    environment: dict[str, str]

    def submit(self, *options: object) -> list[str]:
        """Return the command of spark-submit on the hub."""
        command = [*self.hosts.hub.prefix, HOME / "bin" / "spark-submit", "--master", self.master, *options]
        return [str(part) for part in command]


@contextmanager
def cluster(folder: Path):
    """Run a cluster whose hosts have their files in a folder, which exists; yield it."""
    logs = folder / "logs"
    logs.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    package = "org.apache.spark.deploy"
    with network_hosts.network(folder) as hosts, ExitStack() as stack:

        def start(host, name, extra, *options):
            here = ["--host", host.address, "--webui-port", "0"]
            command = [*host.prefix, HOME / "bin" / "spark-class", f"{package}.{options[0]}", *here, *options[1:]]
            environment = _environment(host, hosts.folder) | extra
            return stack.enter_context(_daemon(logs / f"{name}.log", environment, *command))

        address = f"spark://{hosts.hub.address}:{port}"
        says = start(hosts.hub, "master", {}, "master.Master", "--port", port)
        wait_for(lambda: says("New state: ALIVE"))
        discovery = logs / "discover.sh"
        discovery.write_text('#!/bin/sh\necho \'{"name": "gpu", "addresses": ["0", "1"]}\'\n')
        discovery.chmod(0o755)
        gpus = f"-Dspark.worker.resource.gpu.amount=2 -Dspark.worker.resource.gpu.discoveryScript={discovery}"
        workers = []
        # Each has memory for one executor.
        for host, name, cores, java in ((hosts.one, "one", "1", ""), (hosts.two, "two", "4", gpus)):
            options = ["--cores", cores, "--memory", "700m", "--work-dir", hosts.folder / name, address]
            workers.append(start(host, name, {"SPARK_WORKER_OPTS": java}, "worker.Worker", *options))
        for says in workers:
            wait_for(lambda says=says: says("Successfully registered with master"))
        yield Cluster(hosts, address, _environment(hosts.hub, hosts.folder))


def delta_jars() -> dict[str, str]:
    """Return the settings for Delta's jars, which the tests' session has; the hub has no way to Maven."""
    settings = session.read_properties(session.conf_file("spark-standalone.conf"))
    known = spark_jvm._known_jars({name: value for name, value in settings.items() if name == spark_jvm.PACKAGES})
    return {spark_jvm.PACKAGES: "", "spark.jars": ",".join(path.as_uri() for path in known)} if known else {}


def task_hosts(events: Path, spans: list[tuple[float, float]]) -> list[dict[str, set[str]]]:
    """Return for each span of time the hosts whose tasks began in it, by the place in the code that started them.

    Args:
        events: the folder with the log of one application, not compressed.
        spans: seconds since 1970.
    """
    [log] = [path for path in events.rglob("events_*") if path.is_file()]
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    stages = [line["Stage Info"] for line in lines if line["Event"] == "SparkListenerStageSubmitted"]
    places = {stage["Stage ID"]: stage["Stage Name"] for stage in stages}
    tasks = [(line["Stage ID"], line["Task Info"]) for line in lines if line["Event"] == "SparkListenerTaskEnd"]
    found = []
    for begin, end in spans:
        hosts = defaultdict(set)
        for stage, task in tasks:
            if begin <= task["Launch Time"] / 1000 < end:
                hosts[places[stage]].add(task["Host"])
        found.append(dict(hosts))
    return found


def _environment(host, local):
    """Return the environment of a host's processes, whose own files lie in its local folder.

    Kernels are compiled once for all hosts: NUMBA_CACHE_DIR is inherited.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "MLFLOW_"))
    }
    own = {
        "SPARK_HOME": HOME,
        # Where its spark-defaults.conf is.
        "SPARK_CONF_DIR": local.parent,
        "SPARK_LOCAL_DIRS": local,
        "TMPDIR": local,
        "XDG_CACHE_HOME": local,
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": host.address,
        "JAVA_TOOL_OPTIONS": f"{QUICK_JAVA} -Djava.io.tmpdir={local}",
    }
    return inherited | {name: str(value) for name, value in own.items()}


@contextmanager
def _daemon(log, environment, *arguments):
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
