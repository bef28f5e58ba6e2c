"""The versions of Spark and Delta that a session runs, against those that this package is made for and tested with."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Any

from embedall_spark import cluster_slots
from embedall_spark.errors import SetupError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

SPARK, DELTA = (4, 1), (4, 4)
_PACKAGE = f"io.delta:delta-spark_4.1_2.13:{DELTA[0]}.{DELTA[1]}.0"


def check(spark: SparkSession) -> None:
    """Refuse a session whose Spark is not 4.1, or whose Delta is older than 4.4 or of another major version.

    Databricks has versions of its own: a difference is only logged there.

    Raises:
        SetupError: what runs, what is needed, and where it comes from.
    """
    problem = _problem(spark.version, delta(spark))
    if problem is None:
        return
    if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        raise SetupError(problem)
    log.warning("Databricks Runtime %s: %s", os.environ["DATABRICKS_RUNTIME_VERSION"], problem)


def delta(spark: SparkSession) -> str | None:
    """Return the version of Delta's jar in a session's JVM; None where it cannot be asked."""
    # The client of Spark Connect has no JVM. Py4J raises errors of several kinds for what a JVM lacks.
    if cluster_slots.is_remote(spark):
        return None
    try:
        # A package object of Scala; "package" is a word of Java's.
        jvm: Any = spark._jvm
        return str(getattr(jvm.io.delta, "package").VERSION())  # noqa: B009
    except Exception as error:
        log.debug("Delta's version is unknown: %s", error)
        return None


def _problem(spark: str, delta_: str | None) -> str | None:
    """Return what is wrong with these versions; None where they are supported."""
    if _numbers(spark) != SPARK:
        return (
            f"the running Spark is {spark}, need {SPARK[0]}.{SPARK[1]}: install that version on the cluster, "
            "and the same version of pyspark where the driver runs"
        )
    if delta_ is not None and not DELTA <= _numbers(delta_) < (DELTA[0] + 1, 0):
        return (
            f"the running Delta is {delta_}, need {DELTA[0]}.{DELTA[1]} or a later {DELTA[0]}: start Spark with "
            f"spark.jars.packages={_PACKAGE}, and remove other Delta jars from its class path"
        )
    return None


def _numbers(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
