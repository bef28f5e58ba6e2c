"""Checks of what a run needs on this machine; the first one downloads Delta's jars."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from embedall_spark import cgroups, devices, files, session, tracking, user_cache
from embedall_spark.errors import EmbedallError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_GIB = 1 << 30
_MEMORY = 4 * _GIB
_DISK = 5 * _GIB


class Check(NamedTuple):
    """The result of one check; ``fix`` is empty if it passed."""

    name: str
    ok: bool
    detail: str
    fix: str


def checks() -> Iterator[Check]:
    """Yield one result per requirement, in the order in which to fix them. Starts Spark."""
    requirements: dict[str, Callable[[], str]] = {
        "Python": python,
        "Java": java,
        "Spark": spark,
        "Delta": delta,
        "cores": cores,
        "memory": memory,
        "GPU": gpu,
        "MLflow": mlflow,
        "scratch folder": scratch,
        "compiled kernels": kernels,
        "network": network,
    }
    for name, look in requirements.items():
        yield _check(name, look)


def _check(name: str, look: Callable[[], str]) -> Check:
    """Return the result of a check, whose errors read ``what is wrong; what to do``."""
    try:
        return Check(name, True, look(), "")
    except EmbedallError as error:
        detail, _, fix = str(error).partition("; ")
        return Check(name, False, detail, fix or "see above")
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {str(error)[:500]}", "see what this error says")


def python() -> str:
    """Return the version of Python.

    Raises:
        SetupError: not all dependencies support this version.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version not in ("3.11", "3.12"):
        raise SetupError(f"found Python {version}, need 3.11 or 3.12; create the virtual environment with one of these")
    return f"{sys.version.split()[0]} ({sys.executable})"


def java() -> str:
    """Return the version of Java that Spark starts; raise SetupError if Spark does not support it."""
    return str(session.java_version())


def spark() -> str:
    """Return the version of Spark.

    Raises:
        SetupError: Spark is not installed, or is not version 4.1.
    """
    try:
        import pyspark
    except ImportError:
        raise SetupError("pyspark is not installed; pip install 'embedall_spark[local]'") from None
    if not pyspark.__version__.startswith("4.1."):
        raise SetupError(f"found Spark {pyspark.__version__}, need 4.1; pip install 'embedall_spark[local]'")
    return str(pyspark.__version__)


def delta() -> str:
    """Write and read a small Delta table; the first time this downloads Delta's jars."""
    from pyspark.sql import SparkSession

    before = SparkSession.getActiveSession()
    log.info("starting Spark; the first time this downloads Delta's jars")
    spark_session = session.get("embedall doctor", extra={"spark.master": "local[1]"})
    with tempfile.TemporaryDirectory(prefix="embedall-doctor-") as folder:
        try:
            spark_session.range(3).write.format("delta").save(f"{folder}/table")
            rows = spark_session.read.format("delta").load(f"{folder}/table").count()
        finally:
            if before is None:
                spark_session.stop()
    if rows != 3:
        raise SetupError(f"wrote 3 rows, read {rows}; see Spark's log in {user_cache.folder('logs')}")
    jars = session.read_properties(session.conf_file("spark-local.conf"))["spark.jars.packages"]
    return f"{jars}, a table written and read"


def cores() -> str:
    """Return how many cores this process may use."""
    return str(cgroups.cores())


def memory() -> str:
    """Return the memory that this process may use, with the limits of its cgroup.

    Raises:
        SetupError: it is too little for Spark and training on small data.
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = min(available, cgroups.memory_limit() or available)
    if available < _MEMORY:
        raise SetupError(
            f"{available / _GIB:.1f} GiB, need {_MEMORY // _GIB}; give the machine or container more, or lower "
            "spark.driver.memory in a properties file (--properties)"
        )
    return f"{available / _GIB:.1f} GiB"


def gpu() -> str:
    """Return the GPUs that torch can use, and the rate of training on the first one; none is needed.

    Raises:
        SetupError: there is a GPU on which nothing can be trained.
    """
    import torch

    count = torch.cuda.device_count()
    if not count and shutil.which("nvidia-smi") is None:
        return "none (not needed)"
    problem = devices.problem("cuda:0")
    if problem is not None:
        raise SetupError(problem)
    shown = []
    for index in range(count):
        memory = devices.memory(f"cuda:{index}")
        name = torch.cuda.get_device_name(index)
        shown.append(f"{name}, {memory.free / _GIB:.0f} of {memory.total / _GIB:.0f} GiB free")
    log.info("trying the GPU for some seconds")
    return f"{'; '.join(shown)}; {training_rate('cuda:0', 5.0)}"


def training_rate(device: str, seconds: float, vocabulary: int = 100_000, tokens: int = 1 << 21) -> str:
    """Return the rate of skip-gram's kernel on a device.

    Raises:
        SetupError: the kernel does not compile, or does not run.
    """
    import torch

    try:
        from embedall_spark.train.device import trial

        rate, _ = trial.resident_rate(trial.make(torch.device(device), vocabulary, 128, tokens), seconds)
    except Exception as error:
        raise SetupError(
            f"the kernel of skip-gram fails on {device}: {type(error).__name__}: {str(error)[:300]}; train with "
            "train.device=cpu, and check that the driver and torch belong together"
        ) from error
    return f"skip-gram trains {rate:,.0f} pairs/s at 128 dimensions"


def mlflow() -> str:
    """Return where runs are tracked; raise SetupError if the store does not answer."""
    with tempfile.TemporaryDirectory(prefix="embedall-doctor-") as folder:
        store = tracking.check(folder)
        return "SQLite file in the output folder" if folder in store else store


def scratch() -> str:
    """Return the folder of host-local copies and spools, and its free space.

    Raises:
        SetupError: the folder cannot be written to, or has too little free space.
    """
    advice = "set TMPDIR, or SPARK_LOCAL_DIRS, to a folder on a large local disk"
    try:
        folder = files.scratch("doctor")
        (folder / "probe").write_bytes(b"x")
        free = shutil.disk_usage(folder).free
        files.remove_tree(folder)
    except OSError as error:
        raise SetupError(f"cannot be written: {error}; {advice}") from None
    if free < _DISK:
        raise SetupError(f"{folder.parent} has {free / _GIB:.1f} GiB free, need {_DISK // _GIB}; {advice}")
    return f"{folder.parent}, {free / _GIB:.0f} GiB free"


def kernels() -> str:
    """Return the folder of compiled kernels.

    Raises:
        SetupError: there is no such folder, so every task would compile them again.
    """
    folder = os.environ.get("NUMBA_CACHE_DIR") or user_cache.folder("numba")
    if folder is None:
        raise SetupError("no folder for compiled kernels; set NUMBA_CACHE_DIR to one that you can write to")
    return str(folder)


def network() -> str:
    """Return the address at which tasks of this machine reach each other.

    Raises:
        SetupError: they cannot reach each other.
    """
    try:
        # As Spark does on a local master: a server on a free port, and a connection to it.
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5) as client,
        ):
            port = client.getpeername()[1]
        resolved = socket.gethostbyname("localhost")
    except OSError as error:
        raise SetupError(
            f"tasks cannot reach each other at localhost: {error}; check /etc/hosts (127.0.0.1 localhost) and "
            "firewalls on the loopback interface"
        ) from None
    return f"{resolved}, ports free (tried {port})"
