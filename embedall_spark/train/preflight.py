"""Checks before a long training starts: slots, memory, disk and addresses; each error says what to change."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from embedall_spark import cluster_slots, devices, executor_memory, extras
from embedall_spark.errors import ResourceError
from embedall_spark.train import addresses, aligned_rows, cost, methods, worker_errors, worker_probe
from embedall_spark.train import plan as plans
from embedall_spark.train.device import preflight as device_preflight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import SparkSession

    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.plan import Corpus
    from embedall_spark.train.worker_probe import Report

log = logging.getLogger(__name__)

# Of a process without its rows; measured, see docs/log.md. Several workers need torch.
_BASE_MEMORY, _TORCH_MEMORY = 400 << 20, 200 << 20
# Pairs and second on a GPU, times dimensions: of the goal of docs/guide/gpu.md, which is not yet measured, a half.
_GPU_RATE = 300e6 * 128
# Executors may come so long after the session, and a check that asks for slots waits so long for them.
_REGISTRATION, _PAUSE = 60.0, 2.0


def device(spark: SparkSession, config: TrainConfig) -> Literal["cpu", "cuda"]:
    """Return what the workers train on; ``auto`` takes the CPU for methods without a kernel for GPUs.

    Raises:
        ConfigError: GPUs are asked for, and the executors were started without.
    """
    if config.device == "auto" and not config.has_gpu_kernel:
        return "cpu"
    return devices.kind_of_training(spark, config.device)


def threads(spark: SparkSession, config: TrainConfig) -> int:
    """Return the threads of a worker: as configured, else its share of the cores of the executor that it runs in."""
    if config.threads is not None:
        return config.threads
    slots = cluster_slots.local(spark)
    if slots is not None:
        return max(1, slots // config.workers)
    if config.workers > 1:
        return int(cluster_slots.number(spark, "spark.task.cpus", 1))
    # Standalone executors have all cores of their host unless a setting says otherwise, those of others have one.
    standalone = (cluster_slots.setting(spark, "spark.master") or "").startswith("spark://")
    default = cluster_slots.total(spark) if standalone else 1
    return min(worker_probe.cores(spark), int(cluster_slots.number(spark, "spark.executor.cores", default)))


def check_workers(spark: SparkSession, config: TrainConfig) -> None:
    """Check that a cluster has a place for all workers and that they reach each other, before anything is prepared.

    In the first minute of a session, executors may still have to come.

    Raises:
        ConfigError: GPUs are asked for, and the executors were started without; or they lack a package.
        ResourceError: there are too few slots or GPUs, or workers cannot connect to each other.
    """
    if config.workers == 1:
        return
    extras.check(extras.TORCH, f"train.workers={config.workers}")
    until = _started(spark) + _REGISTRATION
    while True:
        reports = _probe(spark, config)
        if reports is not None:
            return _check_reports(reports)
        if time.time() > until:
            raise _too_few_slots(spark, config)
        log.info("waiting for executors: train.workers=%d needs as many task slots", config.workers)
        time.sleep(_PAUSE)


def _started(spark: SparkSession) -> float:
    """Return when Spark began, as time.time()."""
    return cluster_slots.number(spark, "spark.app.startTime", 0) / 1000


def check(spark: SparkSession, corpus: Corpus, config: TrainConfig) -> None:
    """Check that the hosts that will train have what the plan needs.

    Raises:
        ConfigError: GPUs are asked for, and the executors were started without; or they lack a package.
        ResourceError: there are too few slots or GPUs, too little memory or disk, or workers cannot connect.
        WorkerLost: a worker died in the check.
    """
    kind, reports = device(spark, config), _probe(spark, config)
    if reports is None:
        raise _too_few_slots(spark, config)
    _check_reports(reports)
    gpus: list[Any] = [report.gpu for report in reports if report.gpu is not None]
    if kind == "cuda":
        device_preflight.check([device_preflight.Report(*gpu) for gpu in gpus], corpus, config)
    _check_memory(reports, memory_bytes(corpus, config), executor_memory.of_python(spark), corpus, config)
    if config.workers == 1:
        return
    on_host = Counter(report.host for report in reports)
    disk = min(plans.spool_bytes(corpus, config, kind), config.spool_bytes)
    for report in reports:
        if disk * on_host[report.host] > report.disk:
            raise ResourceError(
                f"host {report.host} has {_size(report.disk)} of free disk in {report.folder}; "
                f"{on_host[report.host]} worker(s) need {_size(disk * on_host[report.host])} for windows: lower "
                "train.spool_bytes or free the disk"
            )


def _check_memory(
    reports: Sequence[Report], need: int, room: executor_memory.Room | None, corpus: Corpus, config: TrainConfig
) -> None:
    """Raise ResourceError where a host, a container or a process has less memory than its workers need."""
    on_host = Counter(report.host for report in reports)
    in_executor = Counter(report.executor for report in reports)
    raise_overhead = f"raise {executor_memory.OVERHEAD}, or train.workers over more executors"
    for report in reports:
        host, executor = on_host[report.host], in_executor[report.executor]
        limits = [(report.memory, host, f"host {report.host} has {{}} of free memory", "train over more hosts")]
        if report.container is not None:
            where = f"the container on host {report.host} has {{}} of free memory"
            limits.append((report.container, executor, where, raise_overhead))
        if room is not None:
            advice = raise_overhead.replace(executor_memory.OVERHEAD, room.setting)
            limits.append((room.bytes, executor, f"{room.setting} leaves {{}} to the workers of an executor", advice))
        if report.process is not None:
            where, advice = f"a task on host {report.host} may use {{}} more", f"raise {executor_memory.PYSPARK}"
            limits.append((report.process, 1, f"{where} of its share of {executor_memory.PYSPARK}", advice))
        for free, workers, found, advice in limits:
            if need * workers > free:
                raise ResourceError(
                    f"{found.format(_size(free))}; {workers} worker(s) need {_size(need * workers)} for "
                    f"{corpus.vocabulary:,} tokens x {config.vector_size}: {advice}, raise train.workers or "
                    "vocabulary.min_count, or lower train.vector_size" + (" or train.bucket" if config.max_n else "")
                )


def _check_reports(reports: Sequence[Report]) -> None:
    """Raise ConfigError where several workers lack a package, ResourceError where they cannot connect to each other."""
    for report in reports:
        if len(reports) > 1 and report.missing is not None:
            raise extras.lacking(report.host, report.missing, f"train.workers={len(reports)}")
        if len({other.host for other in reports}) > 1 and addresses.is_loopback(report.address):
            raise ResourceError(
                f"host {report.host} reaches the others only as {report.address}, which they cannot reach: "
                "set SPARK_LOCAL_IP there to its address on the cluster's network"
            )
    problems = [problem for report in reports for problem in report.problems]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ResourceError(
            f"train.workers={len(reports)}: workers cannot connect to each other: {'; '.join(problems[:3])}{more}. "
            "They listen on TCP ports that the system chooses (net.ipv4.ip_local_port_range, often 32768 to 60999): "
            "open these between the hosts of executors in firewalls, security groups and network policies (see "
            "docs/guide/clusters.md), or set train.workers=1"
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
    disk = 0
    if config.workers > 1:
        disk = min(plans.spool_bytes(corpus, config, kind), config.spool_bytes)
    elif config.method == "glove":
        # One worker's cells are shuffled and sorted, a slice at a time.
        disk = min(plans.spool_bytes(corpus, config, kind), plans.CELL_BYTES * config.slice_tokens)
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
    if cluster_slots.setting(spark, "spark.dynamicAllocation.enabled") == "true":
        raise ResourceError(
            f"train.workers={workers} needs a fixed set of executors, but spark.dynamicAllocation.enabled is true: "
            "set it to false, and spark.executor.instances to a sufficient number"
        )
    slots = cluster_slots.local(spark)
    if slots is not None and slots < workers:
        raise ResourceError(
            f"train.workers={workers} needs {workers} task slots at once, but the master "
            f"{cluster_slots.setting(spark, 'spark.master')} has {slots}: use --master 'local[{workers}]' or lower "
            "train.workers"
        )


def _too_few_slots(spark: SparkSession, config: TrainConfig) -> ResourceError:
    """Return the error where a cluster cannot run a task for each worker at once."""
    slots, add = ("GPUs", "GPUs") if device(spark, config) == "cuda" else ("task slots", "cores")
    return ResourceError(
        f"train.workers={config.workers} needs {config.workers} {slots} at once, but the cluster has fewer: "
        f"add executors or {add}, or lower train.workers"
    )


def _probe(spark: SparkSession, config: TrainConfig) -> list[Report] | None:
    """Return a report per worker of what its host has; None where not all can run at once.

    Raises:
        ResourceError: it is clear from the settings that they never can.
        WorkerLost: a worker died meanwhile.
    """
    workers, kind = config.workers, device(spark, config)
    if workers > 1:
        _check_slots(spark, workers)
    try:
        rows = worker_probe.job(spark, workers, kind).collect()
    except Exception as error:
        if "SPARK-24819" in str(error) or "more slots than" in str(error):
            return None
        lost = worker_errors.translate(str(error), "before the training", config.timeout)
        if lost is None:
            raise
        raise lost from error
    return [worker_probe.read(row.report) for row in rows]


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
