"""Where tasks run, and how many at once."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from embedall_spark import cgroups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import SparkSession


_THIS_HOST = ("localhost", "127.0.0.1", "::1")
_SHUFFLE_PARTITIONS = 200  # Spark's default
_PROBES = 32  # tasks, enough to land on every host of a usual cluster


def is_remote(spark: SparkSession) -> bool:
    """Return whether a session is a client of Spark Connect: its driver, JVM and RDDs are in another process."""
    # Its class needs packages that are installed only where Connect is used.
    return type(spark).__module__.startswith("pyspark.sql.connect.")


def on_databricks() -> bool:
    """Return whether this process runs on Databricks, where sessions, Delta and MLflow are there already."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def is_provided() -> bool:
    """Return whether a session is to be had without a Java of this machine: Connect's, spark-submit's, Databricks'."""
    return on_databricks() or any(name in os.environ for name in ("SPARK_REMOTE", "PYSPARK_GATEWAY_PORT"))


def setting(spark: SparkSession, key: str) -> str | None:
    """Return a setting of the session; None where it is unset, or where Databricks' serverless compute hides it."""
    try:
        value = spark.conf.get(key, None)
    except PySparkException as error:
        # Serverless compute raises this whether the setting is known or not, and whatever default it is given.
        if error.getCondition() != "CONFIG_NOT_AVAILABLE":
            raise
        return None
    return None if value is None else str(value)


def number(spark: SparkSession, key: str, default: float) -> float:
    """Return a number among the session's settings; the default where it is unset, hidden, or "auto"."""
    value = setting(spark, key)
    try:
        return default if value is None else float(value)
    except ValueError:
        return default


def shuffle_partitions(spark: SparkSession) -> int:
    """Return how many partitions a shuffle has."""
    return int(number(spark, "spark.sql.shuffle.partitions", _SHUFFLE_PARTITIONS))


def local(spark: SparkSession) -> int | None:
    """Return N if tasks run on this host alone, with the master ``local[N]``; None: they run on other hosts."""
    master = setting(spark, "spark.master") or ""
    if not master.startswith("local") or (is_remote(spark) and _server(spark) not in _THIS_HOST):
        return None
    threads = re.match(r"local(?:-cluster)?\[(\*|\d+)", master)
    if threads is None:
        return 1
    return cgroups.cores() if threads[1] == "*" else int(threads[1])


def shares_files(spark: SparkSession) -> bool:
    """Return whether Spark is sure to see this process's files: not a cluster, nor a server of Spark Connect.

    A server that answers at localhost may be in a container, or at the other end of a tunnel.
    """
    return local(spark) is not None and not is_remote(spark)


def _server(spark: Any) -> str:
    return str(spark.client.host)


def total(spark: SparkSession) -> int:
    """Return the task slots of the session's machine or cluster."""
    # On a cluster Spark splits a range by its default parallelism, which is the number of its cores.
    return local(spark) or spark.range(1 << 20).groupBy(F.spark_partition_id()).count().count()


def problems(spark: SparkSession, look: Callable[[], str | None]) -> list[tuple[str, str]]:
    """Return host and problem where ``look`` finds one: it is called by tasks on all hosts, with a local master by one.

    Args:
        spark: the session.
        look: returns what is wrong where it is called, None if nothing is.
    """
    tasks = _PROBES if local(spark) is None else 1
    rows = spark.range(0, tasks, 1, tasks).mapInArrow(_asker(look), "host string, problem string")
    return [(row.host, row.problem) for row in rows.where("problem IS NOT NULL").collect()]


def _asker(look: Callable[[], str | None]) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def ask(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.record_batch({"host": [socket.gethostname()], "problem": pa.array([look()], pa.string())})

    return ask
