"""What Spark's settings leave to the Python workers of an executor, where a container holds it to that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MIB = 1 << 20
PYSPARK, OVERHEAD = "spark.executor.pyspark.memory", "spark.executor.memoryOverhead"


class Room(NamedTuple):
    """Bytes for the Python workers of one executor, and the setting that says so."""

    setting: str
    bytes: int


def of_python(spark: SparkSession) -> Room | None:
    """Return the room of an executor's Python workers; None where no container holds them to it.

    YARN and Kubernetes kill a container that uses more than heap, overhead and PySpark's memory together. The heap is
    the JVM's. Without a setting of its own, Python shares the overhead.
    """

    def setting(key: str, default: str) -> str:
        return str(spark.conf.get(key, default))

    master = setting("spark.master", "")
    if not master.startswith(("yarn", "k8s://")):
        return None
    own = setting(PYSPARK, "")
    if own:
        return Room(PYSPARK, parse(own))
    overhead = setting(OVERHEAD, "")
    if overhead:
        return Room(OVERHEAD, parse(overhead))
    # Kubernetes has a setting of its own, which Spark itself sets for Python's programs in cluster mode.
    factor = setting("spark.kubernetes.memoryOverheadFactor", "0.1") if master.startswith("k8s") else "0.1"
    factor = setting("spark.executor.memoryOverheadFactor", "") or factor
    least = parse(setting("spark.executor.minMemoryOverhead", "384m"))
    return Room(OVERHEAD, max(least, int(float(factor) * parse(setting("spark.executor.memory", "1g")))))


def parse(text: str) -> int:
    """Return the bytes of a size as Spark writes memory: ``2g``, ``512mb``, or MiB without a unit."""
    match = re.fullmatch(r"\s*(\d+)\s*([bkmgt]?)i?b?\s*", text.lower())
    if match is None:
        return 0
    return int(match[1]) * (_UNITS[match[2]] if match[2] else _MIB)
