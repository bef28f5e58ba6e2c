"""Where tasks run, and how many at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from embedall_spark import cgroups

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


_THIS_HOST = ("localhost", "127.0.0.1", "::1")


def is_remote(spark: SparkSession) -> bool:
    """Return whether a session is a client of Spark Connect: its driver, JVM and RDDs are in another process."""
    # Its class needs packages that are installed only where Connect is used.
    return type(spark).__module__.startswith("pyspark.sql.connect.")


def local(spark: SparkSession) -> int | None:
    """Return N if tasks run on this host alone, with the master ``local[N]``; None: they run on other hosts."""
    master = str(spark.conf.get("spark.master", ""))
    if not master.startswith("local") or (is_remote(spark) and _server(spark) not in _THIS_HOST):
        return None
    threads = re.match(r"local(?:-cluster)?\[(\*|\d+)", master)
    if threads is None:
        return 1
    return cgroups.cores() if threads[1] == "*" else int(threads[1])


def _server(spark: Any) -> str:
    return str(spark.client.host)


def total(spark: SparkSession) -> int:
    """Return the task slots of the session's machine or cluster."""
    # On a cluster Spark splits a range by its default parallelism, which is the number of its cores.
    return local(spark) or spark.range(1 << 20).groupBy(F.spark_partition_id()).count().count()
