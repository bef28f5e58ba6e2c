"""What a worker of a training finds on its host before it starts: addresses, memory, disk, cores, a GPU."""

from __future__ import annotations

import json
import os
import shutil
import socket
from typing import TYPE_CHECKING, Literal, NamedTuple

import pyarrow as pa

from embedall_spark import cgroups, devices, extras, files
from embedall_spark.train import addresses
from embedall_spark.train.device import preflight as device_preflight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame, SparkSession

    _Task = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]

_REPORT = "report string"


class Report(NamedTuple):
    """What one worker's host has."""

    host: str
    executor: str
    """What its workers have in common."""
    address: str
    problems: list[str]
    """Why the others cannot be reached."""
    memory: int
    """Free bytes of the host."""
    container: int | None
    """Free bytes of the container; None: it has no limit."""
    process: int | None
    """Free bytes of this process's own limit; None: it has none."""
    disk: int
    folder: str
    cores: int
    gpu: list[object] | None
    missing: str | None
    """Which package that several workers need is not installed, and what to do."""


def job(spark: SparkSession, workers: int, kind: Literal["cpu", "cuda"]) -> DataFrame:
    """Return the job that asks the host of each worker; for several workers a barrier stage, as in training."""
    rows, profile = spark.range(0, workers, 1, workers), devices.training_profile(spark, kind)
    if workers == 1:
        return rows.mapInArrow(_task(kind), _REPORT, profile=profile)
    return rows.mapInArrow(_barrier_task(kind), _REPORT, barrier=True, profile=profile)


def read(text: str) -> Report:
    """Return a report from its text in a row of job()."""
    return Report(*json.loads(text))


def cores(spark: SparkSession) -> int:
    """Return the cores that a task's process may use, as one of them sees it."""

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.RecordBatch.from_arrays([pa.array([cgroups.cores()] * len(batch), pa.int32())], ["cores"])

    row = spark.range(0, 1, 1, 1).mapInArrow(look, "cores int").first()
    assert row is not None
    return int(row.cores)


def _task(kind: Literal["cpu", "cuda"]) -> _Task:
    def probe(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield _row(addresses.Reached("", []), 0, kind)

    return probe


def _barrier_task(kind: Literal["cpu", "cuda"]) -> _Task:
    def probe(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import BarrierTaskContext

        context = BarrierTaskContext.get()
        for _ in batches:
            pass
        rank = context.partitionId()
        yield _row(addresses.reach(addresses.hosts(context), rank, context.allGather), rank, kind)

    return probe


def _row(reached: addresses.Reached, rank: int, kind: Literal["cpu", "cuda"]) -> pa.RecordBatch:
    folder, host = files.scratch(), socket.gethostname()
    gpu = list(device_preflight.report(host, rank)) if kind == "cuda" else None
    report = Report(
        # The tasks of an executor are forked by one daemon.
        host, f"{host} {os.getppid()}", reached.address, reached.problems, cgroups.free_host_memory(),
        cgroups.free_container_memory(), cgroups.free_process_memory(), shutil.disk_usage(folder).free, str(folder),
        cgroups.cores(), gpu, extras.missing(extras.TORCH),
    )  # fmt: skip
    return pa.RecordBatch.from_arrays([pa.array([json.dumps(report)])], ["report"])
