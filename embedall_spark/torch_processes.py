"""A function run in processes of their own: one beside the driver, or those that Spark's TorchDistributor starts."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING

from embedall_spark import cluster_slots, errors, files, hadoop_options
from embedall_spark.errors import ConfigError, EmbedallError, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

FAILURE = "failure.json"
_ALONE = "from embedall_spark import torch_processes; torch_processes.alone()"


def run(
    spark: SparkSession, function: Callable[..., object], *arguments: str, folder: str, lost: str,
    processes: int = 1, gpu: bool = False,
) -> None:  # fmt: skip
    """Call a function in each of several processes: on the workers or, with a local master, beside the driver.

    Args:
        spark: the session.
        function: a function at the top of a module that workers can import; its body runs inside report_errors().
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
    start: Callable[..., object]
    if local and processes == 1 and not gpu:
        start = partial(run_alone, function)
    else:
        start = partial(_distributor(processes, local, gpu), on_worker, hadoop_options.handed_over(), function)
    try:
        # It prints the processes' output, but a command's standard output is for its summary alone.
        with redirect_stdout(sys.stderr):
            start(*arguments)
    except Exception as error:
        # This says that there was an error, but not which.
        if files.exists(f"{folder}/{FAILURE}"):
            failure = json.loads(files.read_bytes(f"{folder}/{FAILURE}"))
            raise getattr(errors, failure["kind"])(failure["text"]) from None
        raise WorkerLost(f"{lost} ({_first_line(error)})") from error


def _distributor(processes: int, local: bool, gpu: bool) -> Callable[..., object]:
    from pyspark.ml.torch.distributor import TorchDistributor

    try:
        return TorchDistributor(processes, local_mode=local, use_gpu=gpu).run
    except RuntimeError as error:
        raise ConfigError(
            f"gpu: true, but Spark has no GPU ({_first_line(error)}); start Spark with the properties in "
            "conf/spark-gpu.conf, or set gpu: false"
        ) from None


def on_worker(options: dict[str, str], function: Callable[..., object], *arguments: str) -> None:
    """Call a function in a process of a worker, which is no task of Spark's; ``options`` is handed_over()'s."""
    os.environ.update(options)
    hadoop_options.accept()
    function(*arguments)


def run_alone(function: Callable[..., object], *arguments: str) -> None:
    """Call a function in one process, and print its output; the distributor's two others would import torch, too.

    Raises:
        RuntimeError: the process failed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    environment |= hadoop_options.handed_over()
    command = [sys.executable, "-c", _ALONE, function.__module__, function.__name__, *arguments]
    process = subprocess.Popen(
        command, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                sys.stdout.write(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise RuntimeError(f"it ended with exit code {process.returncode}")


def alone() -> None:
    """Call the function that the command line names; end when standard input does, with the process that asked."""

    def end_with_parent() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    hadoop_options.accept()
    module, name, *arguments = sys.argv[1:]
    getattr(importlib.import_module(module), name)(*arguments)


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
