"""Tasks get the GPU that Spark gives them: a worker that says it has two, on a machine that has none."""

import json
import os
import re
import socket
import stat
import subprocess
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import wait_for
from test_standalone import HOME, daemon, environment  # noqa: F401

from embedall_spark import devices
from embedall_spark.errors import ConfigError, ResourceError

CONF = Path(__file__).resolve().parents[1] / "conf"
SCRIPT = """
import json, sys, time
from pathlib import Path
import pyarrow as pa
from pyspark.sql import SparkSession
from embedall_spark import devices

def task(folder, together):
    def run(batches):
        for batch in batches:
            begun = time.time()
            Path(folder, str(batch[0][0])).touch()
            # All of them are at work at once, or this gives up.
            while len(list(Path(folder).iterdir())) < together and time.time() < begun + 120:
                time.sleep(0.1)
            time.sleep(0.3)
            row = {"device": devices.task_device("cuda:9"), "begun": begun, "ended": time.time()}
            yield pa.RecordBatch.from_pylist([row])
    return run

spark = SparkSession.builder.getOrCreate()
said = {}
for name, gpus, together in (("session", None, 4), ("stage", 1.0, 2)):
    folder = Path(sys.argv[1], name)
    folder.mkdir()
    tasks = spark.range(0, 4, 1, 4)
    schema, profile = "device string, begun double, ended double", devices.resource_profile(spark, gpus)
    found = tasks.mapInArrow(task(str(folder), together), schema, profile=profile).collect()
    said[name] = {"rows": [tuple(row) for row in found], "threads": devices.threads(spark, gpus)}

def barrier(batches):
    from pyspark import BarrierTaskContext
    for _ in batches:
        pass
    BarrierTaskContext.get().barrier()
    yield pa.RecordBatch.from_pylist([{"device": devices.task_device()}])

tasks, profile = spark.range(0, 2, 1, 2), devices.training_profile(spark, "cuda")
found = tasks.mapInArrow(barrier, "device string", barrier=True, profile=profile).collect()
said["training"] = sorted(row.device for row in found)
print(json.dumps(said))
"""


def conf(**values):
    settings = {f"spark.{key.replace('__', '.')}": str(value) for key, value in values.items()}
    return SimpleNamespace(conf=SimpleNamespace(get=lambda key, otherwise=None: settings.get(key, otherwise)))


@pytest.fixture
def assign(monkeypatch):
    """Assign GPUs to the current task by their addresses."""

    def assign_gpus(*addresses, name="gpu"):
        task = SimpleNamespace(resources=lambda: {name: SimpleNamespace(addresses=list(addresses))})
        monkeypatch.setattr(devices.TaskContext, "get", lambda: task)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return assign_gpus


def test_the_device_is_sparks_else_the_configurations_else_the_cpu(assign, monkeypatch):
    assert devices.task_device() == "cpu"
    assert devices.task_device("cuda:3") == "cuda:3"
    assign("1")
    assert devices.task_device("cuda:3") == "cuda:1"
    # A process that sees only some of the host's GPUs counts those.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert devices.task_device() == "cuda:1"
    assign("3")
    assert devices.task_device() == "cuda:0"
    assign("2", name="fpga")
    assert devices.task_device() == "cpu"
    assign("GPU-8f3e")
    with pytest.raises(ResourceError, match=r"assigned the GPU .GPU-8f3e. to the task, need an index"):
        devices.task_device()


@pytest.mark.parametrize(
    ("settings", "gpus_per_task", "expected"),
    [
        ({"master": "local[2]"}, None, 1),
        ({"master": "spark://host"}, None, 1),
        ({"master": "yarn", "executor__cores": 8}, None, 1),
        ({"master": "yarn", "executor__cores": 8, "task__cpus": 4}, None, 4),
        ({"executor__cores": 8, "executor__resource__gpu__amount": 1, "task__resource__gpu__amount": 0.5}, None, 4),
        ({"executor__cores": 8, "executor__resource__gpu__amount": 1, "task__resource__gpu__amount": 0.125}, None, 1),
        ({"executor__cores": 16, "executor__resource__gpu__amount": 2, "task__resource__gpu__amount": 0.1}, 0.5, 4),
        ({"executor__cores": 16, "executor__resource__gpu__amount": 4, "task__resource__gpu__amount": 2}, None, 8),
        ({"executor__cores": 16, "executor__resource__gpu__amount": 2}, None, 1),
    ],
)
def test_threads_share_the_cores_of_an_executor(settings, gpus_per_task, expected):
    assert devices.threads(conf(**settings), gpus_per_task) == expected


def test_a_stage_asks_for_gpus_only_where_there_are_some():
    assert devices.resource_profile(conf(master="yarn"), None) is None
    assert devices.resource_profile(conf(master="local[4]"), 0.5) is None
    with pytest.raises(ConfigError, match=r"gpus_per_task=0.5 needs executors that have GPUs"):
        devices.resource_profile(conf(master="yarn"), 0.5)
    actual = devices.resource_profile(conf(master="yarn", executor__resource__gpu__amount=1), 0.5)
    assert {name: request.amount for name, request in actual.taskResources.items()} == {"gpu": 0.5}


def test_the_discovery_script_prints_what_spark_reads(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n10\\n'\n")
    tool.chmod(0o755)
    script = CONF / "gpu-discovery.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run([script], env=path, check=True, capture_output=True, text=True).stdout
    assert json.loads(said) == {"name": "gpu", "addresses": ["0", "1", "10"]}
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert subprocess.run([script], env=path, check=False, capture_output=True).returncode != 0


def test_the_configuration_file_has_what_standalone_has_and_gpus():
    def read(name):
        lines = (CONF / name).read_text().splitlines()
        return dict(line.split(None, 1) for line in lines if line and not line.startswith("#"))

    gpu, plain = read("spark-gpu.conf"), read("spark-standalone.conf")
    assert gpu.keys() >= plain.keys()
    sizes = {"spark.executor.cores", "spark.executor.memory", "spark.executor.memoryOverhead"}
    assert {name: gpu[name] for name in plain.keys() - sizes} == {name: plain[name] for name in plain.keys() - sizes}
    tasks = int(gpu["spark.executor.cores"]) * float(gpu["spark.task.resource.gpu.amount"])
    assert tasks == float(gpu["spark.executor.resource.gpu.amount"])


@pytest.fixture
def cluster(environment, tmp_path):  # noqa: F811
    """A master and a worker of four cores that says it has two GPUs."""
    rows = tmp_path / "discover.sh"
    rows.write_text('#!/bin/sh\necho \'{"name": "gpu", "addresses": ["0", "1"]}\'\n')
    rows.chmod(0o755)
    gpus = f"-Dspark.worker.resource.gpu.amount=2 -Dspark.worker.resource.gpu.discoveryScript={rows}"
    with socket.socket() as free, ExitStack() as running:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        package, here = "org.apache.spark.deploy", ["--host", "127.0.0.1", "--webui-port", "0"]
        options = [f"{package}.master.Master", *here, "--port", port]
        says = running.enter_context(daemon(tmp_path / "master.log", environment, *options))
        wait_for(lambda: says("New state: ALIVE"))
        options = [f"{package}.worker.Worker", *here, "--cores", "4", "--memory", "1g", "--work-dir", tmp_path / "work"]
        options += [f"spark://127.0.0.1:{port}"]
        says = running.enter_context(
            daemon(tmp_path / "worker.log", {**environment, "SPARK_WORKER_OPTS": gpus}, *options)
        )
        wait_for(lambda: says("Successfully registered with master"))
        yield f"spark://127.0.0.1:{port}"


@pytest.mark.slow
def test_spark_assigns_the_gpus_of_a_worker(cluster, environment, tmp_path):  # noqa: F811
    script = tmp_path / "devices_job.py"
    script.write_text(SCRIPT)
    settings = {
        "spark.driver.memory": "1g", "spark.executor.memory": "600m", "spark.executor.cores": 4,
        "spark.executor.resource.gpu.amount": 2, "spark.task.resource.gpu.amount": 0.5, "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
    }  # fmt: skip
    command = [HOME / "bin" / "spark-submit", "--master", cluster]
    command += [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
    done = subprocess.run(
        [*command, script, tmp_path], env=environment, capture_output=True, text=True, check=False, timeout=300
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
