"""A function run in processes that Spark's TorchDistributor starts, with or without GPUs."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from pyspark.ml.torch.distributor import TorchDistributor

from embedall_spark import cluster_slots, errors, files
from embedall_spark.errors import ConfigError, EmbedallError, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

FAILURE = "failure.json"


def run(
    spark: SparkSession, function: Callable[..., object], *arguments: str, folder: str, lost: str,
    processes: int = 1, gpu: bool = False,
) -> None:  # fmt: skip
    """Call a function in each of several processes: on the workers or, with a local master, beside the driver.

    Args:
        spark: the session.
        function: a function of a module that workers can import, whose body runs inside report_errors().
        arguments: its arguments.
        folder: the folder of report_errors().
        lost: the error's text if a process dies.
        processes: their number; torch.distributed's environment variables are set, by which they find each other.
        gpu: whether each gets a GPU.

    Raises:
        EmbedallError: the error that a process raised.
        ConfigError: Spark has no GPUs.
        WorkerLost: a process died; its output is on standard error.
    """
    local = cluster_slots.local(spark) is not None
    files.delete(f"{folder}/{FAILURE}")
    try:
        distributor = TorchDistributor(processes, local_mode=local, use_gpu=gpu)
    except RuntimeError as error:
        raise ConfigError(
            f"gpu: true, but Spark has no GPU ({_first_line(error)}); start Spark with the properties in "
            "conf/spark-gpu.conf, or set gpu: false"
        ) from None
    try:
        # It prints the processes' output, but a command's standard output is for its summary alone.
        with redirect_stdout(sys.stderr):
            distributor.run(function, *arguments)
    except Exception as error:
        # The distributor reports that there was an error, but not which.
        if files.exists(f"{folder}/{FAILURE}"):
            failure = json.loads(files.read_bytes(f"{folder}/{FAILURE}"))
            raise getattr(errors, failure["kind"])(failure["text"]) from None
        raise WorkerLost(f"{lost} ({_first_line(error)})") from error


@contextmanager
def report_errors(folder: str) -> Iterator[None]:
    """Write an EmbedallError of the block to a file in a folder that the driver can read, and raise it again."""
    try:
        yield
    except EmbedallError as error:
        failure = {"kind": type(error).__name__, "text": str(error)}
        files.write_bytes(f"{folder}/{FAILURE}", json.dumps(failure).encode())
        raise


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
