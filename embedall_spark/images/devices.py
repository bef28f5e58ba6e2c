"""Which device a task runs on, how many cores it may use, and how it asks Spark for a share of a GPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyspark import TaskContext
from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

from embedall_spark import cluster_slots
from embedall_spark.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from pyspark.resource import ResourceProfile
    from pyspark.sql import SparkSession

_GPUS = "spark.executor.resource.gpu.amount"
_PER_TASK = "spark.task.resource.gpu.amount"


def task_device(default: str | None = None) -> str:
    """Return the device of this task: the GPU that Spark assigned to it, else ``default``, else the CPU.

    Several tasks may share a GPU. An address is an index into the GPUs of the host; where CUDA_VISIBLE_DEVICES shows a
    process only some of them, CUDA counts those.

    Raises:
        ResourceError: the address is not an index.
    """
    task = TaskContext.get()
    gpu = task.resources().get("gpu") if task is not None else None
    if gpu is None or not gpu.addresses:
        return default or "cpu"
    address = gpu.addresses[0]
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if address in visible:
        return f"cuda:{visible.index(address)}"
    if not address.isdigit():
        raise ResourceError(
            f"Spark assigned the GPU {address!r} to the task, need an index such as 0: correct "
            "spark.worker.resource.gpu.discoveryScript (conf/gpu-discovery.sh prints indices)"
        )
    return f"cuda:{address}"


def threads(spark: SparkSession, gpus_per_task: float | None = None) -> int:
    """Return how many cores a task may use so that tasks that run in one executor at once do not compete for them.

    More than spark.task.cpus only where the number of GPUs, not of cores, limits how many tasks run at once.
    """
    if cluster_slots.local(spark) is not None:
        return 1
    cores, cpus = (int(str(spark.conf.get(f"spark.{key}", "1"))) for key in ("executor.cores", "task.cpus"))
    tasks = max(1, cores // cpus)
    gpus, share = int(str(spark.conf.get(_GPUS, "0"))), gpus_per_task or float(str(spark.conf.get(_PER_TASK, "0")))
    if gpus and share:
        tasks = min(tasks, max(1, gpus * int(1 / share) if share <= 1 else gpus // int(share)))
    return max(cpus, cores // tasks)


def resource_profile(spark: SparkSession, gpus_per_task: float | None) -> ResourceProfile | None:
    """Return the resource profile of a stage whose tasks each get a share of a GPU; None: the session's own settings.

    Other stages then need no GPU. Local masters know no resource profiles.

    Raises:
        ConfigError: the executors were started without GPUs.
    """
    if gpus_per_task is None or cluster_slots.local(spark) is not None:
        return None
    if spark.conf.get(_GPUS, None) is None:
        raise ConfigError(
            f"featurize.gpus_per_task={gpus_per_task:g} needs executors that have GPUs, and {_GPUS} is not set: start "
            "with --properties conf/spark-gpu.conf, or leave gpus_per_task unset"
        )
    return ResourceProfileBuilder().require(TaskResourceRequests().resource("gpu", gpus_per_task)).build
