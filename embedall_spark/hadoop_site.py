"""Options of storage in Hadoop's own files (core-site.xml), which Spark's JVM reads and hands to no task."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from embedall_spark import cluster_slots

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def options(spark: SparkSession) -> dict[str, str]:
    """Return the options of storage (``fs.*``) that files of the site set, such as core-site.xml.

    Hadoop's defaults are none, nor what Spark was told itself. Of Spark Connect and Databricks nothing is known: the
    one has its JVM elsewhere, the other storage of its own.
    """
    if cluster_slots.is_remote(spark) or cluster_slots.on_databricks():
        return {}
    jvm: Any = spark._jvm
    configuration = spark._jsc.hadoopConfiguration()
    writer = jvm.java.io.StringWriter()
    # In one call, since there are more than a thousand, but without the values of secrets.
    jvm.org.apache.hadoop.conf.Configuration.dumpConfiguration(configuration, writer)
    found = json.loads(writer.toString())["properties"]
    names = [entry["key"] for entry in found if str(entry["resource"]).endswith("-site.xml")]
    return {name: str(configuration.get(name)) for name in names if name.startswith("fs.")}
