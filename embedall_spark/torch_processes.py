"""A function in processes that Spark's TorchDistributor starts, with GPUs or without."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from pyspark.ml.torch.distributor import TorchDistributor

from embedall_spark import errors, files
from embedall_spark.errors import ConfigError, EmbedallError, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

FAILURE = "failure.json"


def run(
    spark: SparkSession, function: Callable[..., object], *arguments: str, folder: str, lost: str,
    processes: int = 1, gpu: bool = False,
) -> None:  # fmt: skip
    """Call a function in each of some processes, on workers or, with a local master, beside the driver.

    Args:
        spark: the session.
        function: of a module that workers can import; what it does stands in telling().
        arguments: its own.
        folder: that of telling().
        lost: what the error says where a process died.
        processes: how many; they find each other as torch.distributed's.
        gpu: a GPU for each.

    Raises:
        EmbedallError: what a process has raised.
        ConfigError: Spark has no GPUs to give.
        WorkerLost: a process died; what it has said is on standard error.
    """
    local = str(spark.conf.get("spark.master", "local")).startswith("local")
    files.delete(f"{folder}/{FAILURE}")
    try:
        distributor = TorchDistributor(processes, local_mode=local, use_gpu=gpu)
    except RuntimeError as error:
        raise ConfigError(
            f"gpu: true, and Spark has no GPU to give ({_first_line(error)}); start it with the properties of "
            "conf/spark-gpu.conf, or set gpu: false"
        ) from None
    try:
        # It prints what the processes say, and a command's standard output has its summary only.
        with redirect_stdout(sys.stderr):
            distributor.run(function, *arguments)
    except Exception as error:
        # The distributor tells that there was an error, not which.
        if files.exists(f"{folder}/{FAILURE}"):
            found = json.loads(files.read_bytes(f"{folder}/{FAILURE}"))
            raise getattr(errors, found["kind"])(found["text"]) from None
        raise WorkerLost(f"{lost} ({_first_line(error)})") from error


@contextmanager
def report_errors(folder: str) -> Iterator[None]:
    """Leave word of an error of ours in a folder that the driver sees."""
    try:
        yield
    except EmbedallError as error:
        told = {"kind": type(error).__name__, "text": str(error)}
        files.write_bytes(f"{folder}/{FAILURE}", json.dumps(told).encode())
        raise


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
