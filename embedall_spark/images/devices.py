"""Which device a task has, how many cores, and how tasks ask Spark for a share of a GPU."""

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


def of_task(otherwise: str | None = None) -> str:
    """Return the device of this task: the GPU that Spark has given it, else ``otherwise``, else the CPU.

    Several tasks may have the same GPU. An address is an index of the GPUs that the host has; where
    CUDA_VISIBLE_DEVICES shows a process only some of them, CUDA counts those.

    Raises:
        ResourceError: the address is none that CUDA knows.
    """
    task = TaskContext.get()
    given = task.resources().get("gpu") if task is not None else None
    if given is None or not given.addresses:
        return otherwise or "cpu"
    address = given.addresses[0]
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if address in visible:
        return f"cuda:{visible.index(address)}"
    if not address.isdigit():
        raise ResourceError(
            f"Spark gave the task the GPU {address!r}, need its index: correct "
            "spark.worker.resource.gpu.discoveryScript (conf/gpu-discovery.sh prints indices)"
        )
    return f"cuda:{address}"


def threads(spark: SparkSession, gpus_per_task: float | None = None) -> int:
    """Return the cores that a task may use so that those at work in one executor at once do not fight for them.

    It has more than spark.task.cpus only where fewer tasks run than there are cores because GPUs are few.
    """
    if cluster_slots.local(spark) is not None:
        return 1
    cores, cpus = (int(str(spark.conf.get(f"spark.{key}", "1"))) for key in ("executor.cores", "task.cpus"))
    tasks = max(1, cores // cpus)
    gpus, share = int(str(spark.conf.get(_GPUS, "0"))), gpus_per_task or float(str(spark.conf.get(_PER_TASK, "0")))
    if gpus and share:
        tasks = min(tasks, max(1, gpus * int(1 / share) if share <= 1 else gpus // int(share)))
    return max(cpus, cores // tasks)


def profile(spark: SparkSession, gpus_per_task: float | None) -> ResourceProfile | None:
    """Return what a stage asks for so that each of its tasks has a share of a GPU; None: what the session says.

    Other stages then need no GPU. A local master has no such profiles.

    Raises:
        ConfigError: the executors were started without GPUs.
    """
    if gpus_per_task is None or cluster_slots.local(spark) is not None:
        return None
    if spark.conf.get(_GPUS, None) is None:
        raise ConfigError(
            f"featurize.gpus_per_task={gpus_per_task:g} needs executors that have GPUs, and {_GPUS} is not set: start "
            "with --properties-file conf/spark-gpu.conf, or unset it"
        )
    return ResourceProfileBuilder().require(TaskResourceRequests().resource("gpu", gpus_per_task)).build
