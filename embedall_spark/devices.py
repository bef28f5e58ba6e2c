"""The place that decides devices: which one a task runs on, and how a stage asks Spark for GPUs.

Images, training and the networks beside the driver all ask here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from pyspark import TaskContext
from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

from embedall_spark import cluster_slots, extras
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
    cores, cpus = (int(cluster_slots.number(spark, f"spark.{key}", 1)) for key in ("executor.cores", "task.cpus"))
    tasks = max(1, cores // cpus)
    gpus = int(cluster_slots.number(spark, _GPUS, 0))
    share = gpus_per_task or cluster_slots.number(spark, _PER_TASK, 0)
    if gpus and share:
        tasks = min(tasks, max(1, gpus * int(1 / share) if share <= 1 else gpus // int(share)))
    return max(cpus, cores // tasks)


def resource_profile(
    spark: SparkSession, gpus_per_task: float | None, option: str = "featurize.gpus_per_task"
) -> ResourceProfile | None:
    """Return the resource profile of a stage whose tasks each get a share of a GPU; None: the session's own settings.

    Other stages then need no GPU. Local masters know no resource profiles.

    Raises:
        ConfigError: the executors were started without GPUs.
    """
    if gpus_per_task is None or cluster_slots.local(spark) is not None:
        return None
    if cluster_slots.setting(spark, _GPUS) is None:
        raise ConfigError(
            f"{option}={gpus_per_task:g} needs executors that have GPUs, and {_GPUS} is not set: start with "
            f"--properties conf/spark-gpu.conf, or leave {option.rpartition('.')[2]} unset"
        )
    return ResourceProfileBuilder().require(TaskResourceRequests().resource("gpu", gpus_per_task)).build


def process_device(gpu: bool, rank: int = 0) -> str:
    """Return the device of a process that TorchDistributor started; ``rank`` counts the processes of its host."""
    return f"cuda:{rank}" if gpu else "cpu"


def is_interpreted() -> bool:
    """Return whether Triton's interpreter runs kernels, on tensors of the CPU: for tests without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def kind_of_training(spark: SparkSession, setting: Literal["cpu", "cuda", "auto"]) -> Literal["cpu", "cuda"]:
    """Return what a run trains on; ``auto`` is the GPU where executors, or this machine with a local master, have one.

    Raises:
        ConfigError: GPUs are asked for, and the executors were started without.
    """
    if setting == "cpu":
        return "cpu"
    if cluster_slots.local(spark) is not None:
        if setting == "cuda":
            return "cuda"
        if extras.missing(extras.TORCH) is not None:
            return "cpu"
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    if cluster_slots.setting(spark, _GPUS) is not None:
        return "cuda"
    if setting == "cuda":
        raise ConfigError(
            f"train.device=cuda needs executors that have GPUs, and {_GPUS} is not set: start with --properties "
            "conf/spark-gpu.conf, or set train.device=cpu"
        )
    return "cpu"


def training_profile(spark: SparkSession, kind: Literal["cpu", "cuda"]) -> ResourceProfile | None:
    """Return the resource profile of a training stage: a GPU for each task; None: the session's own settings."""
    return resource_profile(spark, 1.0, "train.device=cuda: GPUs per task") if kind == "cuda" else None


def training_device(rank: int) -> str:
    """Return the device on which this task trains: Spark's, else, with a local master, the GPU of its number.

    In Triton's interpreter it is the CPU.

    Raises:
        ResourceError: the GPU's address is not an index.
    """
    return "cpu" if is_interpreted() else task_device(f"cuda:{rank}")


def problem(device: str) -> str | None:
    """Return why this process cannot train on a device, as ``what is wrong; what to do``; None where it can."""
    if is_interpreted():
        return None
    if (missing := extras.missing(extras.TORCH)) is not None:
        return missing
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:
        return (
            f"torch cannot use the GPU ({str(error).splitlines()[0]}); install a driver for CUDA {torch.version.cuda} "
            "or later, and a torch that is built for CUDA"
        )
    count, index = torch.cuda.device_count(), int(device.rpartition(":")[2])
    if index >= count:
        return f"there is no {device}, found {count} GPU(s); lower train.workers, or add GPUs"
    capability = torch.cuda.get_device_capability(index)
    if capability < (7, 0):
        return (
            f"{device} ({torch.cuda.get_device_name(index)}) has compute capability {capability[0]}.{capability[1]}, "
            "need 7.0; set train.device=cpu"
        )
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be imported ({error}); pip install triton, which torch for Linux brings"
    return None


class Memory(NamedTuple):
    """A device's identity and memory."""

    name: str
    """Its name, and what tells it from all others of the cluster."""
    free: int
    """Bytes that this process can still allocate."""
    total: int


def memory(device: str) -> Memory:
    """Return a device's memory; in Triton's interpreter that of the host's is not limited here."""
    import torch

    if is_interpreted():
        return Memory(f"interpreter of process {os.getpid()}", 1 << 62, 1 << 62)
    free, total = torch.cuda.mem_get_info(device)
    properties = torch.cuda.get_device_properties(device)
    # What torch holds for earlier slices in this process is free for the next one.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Memory(f"{properties.name} {properties.uuid}", free, total)
