"""A standalone cluster on this machine for the benchmarks: a master and a worker per task, all on the loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyspark

from embedall_spark import session

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOME = Path(pyspark.__file__).parent
_MEMORY = "2g"


@contextmanager
def standalone(workers: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """Start a master and workers of one core each; give the master's address and the properties that jobs need.

    Raises:
        RuntimeError: a part of it did not start within a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"spark://127.0.0.1:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    here = ["--host", "127.0.0.1", "--webui-port", "0"]
    properties = folder / "spark.properties"
    delta = session.conf_file("spark-standalone.conf").read_text()
    properties.write_text(
        f"{delta}spark.driver.memory {_MEMORY}\nspark.executor.memory {_MEMORY}\nspark.executor.cores 1\n"
        f"spark.executor.memoryOverhead 0\nspark.pyspark.python {sys.executable}\n"
        "spark.driver.host 127.0.0.1\n"
    )
    with ExitStack() as running:
        master = _daemon(folder / "master.log", "master.Master", *here, "--port", port)
        running.enter_context(master)
        _wait(folder / "master.log", "New state: ALIVE")
        for number in range(workers):
            log = folder / f"worker-{number}.log"
            options = [*here, "--cores", "1", "--memory", "3g", "--work-dir", str(folder / f"work-{number}"), address]
            running.enter_context(_daemon(log, "worker.Worker", *options))
            _wait(log, "Successfully registered with master")
        yield address, properties


@contextmanager
def _daemon(log: Path, name: str, *arguments: str) -> Iterator[None]:
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    environment |= {"SPARK_LOCAL_DIRS": str(log.parent), "SPARK_HOME": str(_HOME)}
    command = [str(_HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *arguments]
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.terminate()


def _wait(log: Path, text: str) -> None:
    until = time.monotonic() + 60
    while text not in log.read_text():
        if time.monotonic() > until:
            raise RuntimeError(f"{log}: {log.read_text()[-1000:]}")
        time.sleep(0.2)
