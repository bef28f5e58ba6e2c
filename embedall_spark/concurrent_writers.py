"""Two runs that write one Delta table on S3: Delta keeps them apart there only with a log store that locks."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from embedall_spark import cluster_slots, run_heartbeat, run_manifest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from embedall_spark.config import Output

log = logging.getLogger(__name__)


def warn(spark: SparkSession, root: str, output: Output, run_id: str) -> list[str]:
    """Log a warning for each table that another run of a folder writes now, and could damage; return these runs' ids.

    Args:
        spark: the session, whose settings say how Delta writes its log.
        root: the folder of the runs.
        output: of this run.
        run_id: this run's.
    """
    ours = {name for name in (output.table, output.publish) if name is not None and _unlocked(spark, name)}
    if not ours:
        return []
    met = []
    for run in run_manifest.every(root):
        folder = run_manifest.folder_of(root, run["run_id"])
        if run["run_id"] == run_id or run["status"] != "running" or not run_heartbeat.is_recent(folder, run["token"]):
            continue
        theirs = run_manifest.configuration(folder).get("output", {})
        if shared := ours & {theirs.get("table"), theirs.get("publish")}:
            met.append(str(run["run_id"]))
            log.warning(
                "run %s writes %s at this moment, too: on S3 Delta may lose the commit of one of the two; let one "
                "wait, or set spark.delta.logStore.s3a.impl=io.delta.storage.S3DynamoDBLogStore",
                *(run["run_id"], min(shared)),
            )
    return met


def _unlocked(spark: SparkSession, table: str) -> bool:
    """Tell whether a table lies on S3, and Delta's log store there does not lock."""
    scheme = re.match(r"(s3[an]?)://", table)
    if scheme is None or cluster_slots.on_databricks():
        return False
    store = cluster_slots.setting(spark, f"spark.delta.logStore.{scheme[1]}.impl") or ""
    # Unset, Delta takes the one for a single driver.
    return store.endswith("S3SingleDriverLogStore") or not store
