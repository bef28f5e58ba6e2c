"""Which device a task, a process and a training have. Spark's assignment of GPUs is in test_standalone.py."""

import json
import os
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedall_spark import devices
from embedall_spark.errors import ConfigError, ResourceError

CONF = Path(__file__).resolve().parents[1] / "conf"


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
