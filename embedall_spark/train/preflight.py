"""Checks before a long training starts: slots, memory, disk and addresses; each error says what to change."""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from embedall_spark import cluster_slots, devices, files
from embedall_spark.errors import ResourceError
from embedall_spark.train import aligned_rows, cost, methods, ring
from embedall_spark.train import plan as plans
from embedall_spark.train.device import preflight as device_preflight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.plan import Corpus

    _Task = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]

# Of a process without its rows; measured, see docs/log.md. Several workers need torch.
_BASE_MEMORY, _TORCH_MEMORY = 400 << 20, 200 << 20
_HOST = "host string, address string, memory long, disk long, folder string, gpu string"
# Pairs and second on a GPU, times dimensions: of the goal of docs/guide/gpu.md, which is not yet measured, a half.
_GPU_RATE = 300e6 * 128


def device(spark: SparkSession, config: TrainConfig) -> Literal["cpu", "cuda"]:
    """Return what the workers train on; ``auto`` takes the CPU for methods without a kernel for GPUs.

    Raises:
        ConfigError: GPUs are asked for, and the executors were started without.
    """
    if config.device == "auto" and not config.has_gpu_kernel:
        return "cpu"
    return devices.kind_of_training(spark, config.device)


def threads(spark: SparkSession, config: TrainConfig) -> int:
    """Return the threads of a worker: as configured, else its share of the session's cores."""
    if config.threads is not None:
        return config.threads
    slots = cluster_slots.local(spark)
    if slots is not None:
        return max(1, slots // config.workers)
    return int(str(spark.conf.get("spark.executor.cores" if config.workers == 1 else "spark.task.cpus", "1")))


def check(spark: SparkSession, corpus: Corpus, config: TrainConfig) -> None:
    """Check that the hosts that will train have what the plan needs.

    Raises:
        ConfigError: GPUs are asked for, and the executors were started without.
        ResourceError: there are too few slots or GPUs, too little memory or disk, or a host has no address for the
            others.
    """
    if config.workers > 1:
        _check_slots(spark, config.workers)
    kind = device(spark, config)
    hosts = _probe(spark, config.workers, kind).collect()
    if kind == "cuda":
        device_preflight.check([device_preflight.Report(*json.loads(row.gpu)) for row in hosts], corpus, config)
    on_host = Counter(row.host for row in hosts)
    memory, disk = memory_bytes(corpus, config), 0
    if config.workers > 1:
        disk = min(plans.spool_bytes(corpus, config, kind), config.spool_bytes)
    for row in hosts:
        need, share = memory * on_host[row.host], f"{on_host[row.host]} worker(s)"
        if need > row.memory:
            raise ResourceError(
                f"host {row.host} has {_size(row.memory)} of free memory; {share} need {_size(need)} for "
                f"{corpus.vocabulary:,} tokens x {config.vector_size}: raise train.workers over more hosts, or "
                "vocabulary.min_count, or lower train.vector_size" + (" or train.bucket" if config.max_n else "")
            )
        if disk * on_host[row.host] > row.disk:
            raise ResourceError(
                f"host {row.host} has {_size(row.disk)} of free disk in {row.folder}; {share} need "
                f"{_size(disk * on_host[row.host])} for windows: lower train.spool_bytes or free the disk"
            )
        if len(on_host) > 1 and row.address.startswith("127."):
            raise ResourceError(
                f"host {row.host} reaches the others only as {row.address}, which they cannot reach: "
                "set SPARK_LOCAL_IP there to its address on the cluster's network"
            )


def memory_bytes(corpus: Corpus, config: TrainConfig) -> int:
    """Return the estimated memory of a worker in bytes: its rows of both sides, and the process itself."""
    inputs, outputs = map(aligned_rows.padded_length, methods.of(config).saved_lengths(config))
    # A part of outputs is trained, one arrives and one leaves.
    row = inputs + (1.5 if config.workers > 1 else 1) * outputs
    # For each token of the vocabulary: its count, shard and row, and its path in a tree.
    token = 12 + (160 if config.hs else 0)
    ngrams, buckets = config.ngrams.estimate(corpus.vocabulary)
    rows = -(-corpus.vocabulary // config.workers) * row + buckets * inputs
    base = _BASE_MEMORY + (_TORCH_MEMORY if config.workers > 1 else 0)
    return int(base + 4 * (rows + ngrams) + token * corpus.vocabulary)


def estimate(spark: SparkSession, corpus: Corpus, config: TrainConfig) -> dict[str, float]:
    """Return what costs() does for a corpus of tokens, before anything of it is counted.

    Raises:
        ResourceError: the cluster lacks what the training needs.
    """
    if config.method == "glove":
        corpus = plans.estimate_cells(corpus, config)
    check(spark, corpus, config)
    return costs(spark, corpus, config)


def costs(spark: SparkSession, corpus: Corpus, config: TrainConfig) -> dict[str, float]:
    """Return the estimated time of training in seconds, and memory and disk of a worker in bytes."""
    kind = device(spark, config)
    if kind == "cuda":
        pairs = corpus.kept * plans.mean_contexts(config)
        seconds = pairs * config.vector_size / (_GPU_RATE * config.workers)
    else:
        plan = plans.make_plan(corpus, config, threads(spark, config))
        sizes = plans.epoch_sizes(corpus, config, plan.threads, plan.episodes, plan.slices)
        # With n-grams, every word is the mean of some 17 rows; measured, see docs/log.md.
        seconds = sum(cost.seconds(sizes).values()) * (2 if config.max_n else 1)
    disk = min(plans.spool_bytes(corpus, config, kind), config.spool_bytes) if config.workers > 1 else 0
    needs: dict[str, float] = {
        "seconds": round(seconds * config.epochs),
        "worker_memory_bytes": memory_bytes(corpus, config),
        "worker_disk_bytes": disk,
    }
    return needs | ({"worker_gpu_bytes": device_preflight.memory_bytes(corpus, config)} if kind == "cuda" else {})


def describe(needs: dict[str, float]) -> str:
    """Return a phrase for what costs() returns."""
    memory, disk = (needs[f"worker_{name}_bytes"] / 2**30 for name in ("memory", "disk"))
    return f"{needs['seconds']:,.0f} s, and for each worker {memory:.1f} GiB of memory and {disk:.1f} GiB of disk"


def _check_slots(spark: SparkSession, workers: int) -> None:
    if str(spark.conf.get("spark.dynamicAllocation.enabled", "false")) == "true":
        raise ResourceError(
            f"train.workers={workers} needs a fixed set of executors, but spark.dynamicAllocation.enabled is true: "
            "set it to false, and spark.executor.instances to a sufficient number"
        )
    slots = cluster_slots.local(spark)
    if slots is not None and slots < workers:
        raise ResourceError(
            f"train.workers={workers} needs {workers} task slots at once, but the master "
            f"{spark.conf.get('spark.master')} has {slots}: use --master 'local[{workers}]' or lower train.workers"
        )


def _probe(spark: SparkSession, workers: int, kind: Literal["cpu", "cuda"]) -> DataFrame:
    """Return a row per worker with what its host has; for several workers by a barrier stage, as in training."""
    rows, profile = spark.range(0, workers, 1, workers), devices.training_profile(spark, kind)
    if workers == 1:
        return rows.mapInArrow(_probe_task(kind), _HOST, profile=profile)
    probe = rows.mapInArrow(_probe_barrier_task(kind), _HOST, barrier=True, profile=profile)
    try:
        return spark.createDataFrame(probe.collect(), _HOST)
    except Exception as error:
        if "SPARK-24819" in str(error) or "more slots than" in str(error):
            slots = "GPUs" if kind == "cuda" else "task slots"
            raise ResourceError(
                f"train.workers={workers} needs {workers} {slots} at once, but the cluster has fewer: "
                f"add executors or {'GPUs' if kind == 'cuda' else 'cores'}, or lower train.workers"
            ) from None
        raise


def _probe_task(kind: Literal["cpu", "cuda"]) -> _Task:
    def probe(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield _row(socket.gethostname(), 0, kind)

    return probe


def _probe_barrier_task(kind: Literal["cpu", "cuda"]) -> _Task:
    def probe(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import BarrierTaskContext

        context = BarrierTaskContext.get()
        hosts = [task.address.rsplit(":", 1)[0] for task in context.getTaskInfos()]
        rank = context.partitionId()
        for _ in batches:
            pass
        yield _row(ring.local_address(hosts[(rank + 1) % len(hosts)]), rank, kind)

    return probe


def _row(address: str, rank: int, kind: Literal["cpu", "cuda"]) -> pa.RecordBatch:
    folder, host = files.scratch(), socket.gethostname()
    gpu = json.dumps(device_preflight.report(host, rank)) if kind == "cuda" else ""
    values = [host, address, free_memory(), shutil.disk_usage(folder).free, str(folder), gpu]
    return pa.RecordBatch.from_arrays(
        [pa.array([value]) for value in values], [c.split()[0] for c in _HOST.split(", ")]
    )


def free_memory() -> int:
    """Return the bytes that this process can still allocate: of the host, or of its container where that is less."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    # Version 2 of control groups, then version 1.
    for limit, used, stat, prefix in (
        ("memory.max", "memory.current", "memory.stat", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
    ):
        if (group / limit).exists() and (maximum := (group / limit).read_text().strip()) != "max":
            parts = dict(line.split() for line in (group / stat).read_text().splitlines())
            # The file cache counts as used, but is freed on demand.
            cache = sum(int(parts.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))
            free = min(free, int(maximum) - int((group / used).read_text()) + cache)
    return free


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
