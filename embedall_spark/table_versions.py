"""The versions of a Delta table, and the way back to an earlier one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from embedall_spark import delta_files, files, table_merge, tables
from embedall_spark.errors import TableError
from embedall_spark.table_errors import first_line

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    Version = dict[str, Any]

_COLUMNS = ("version", "timestamp", "operation", "rows")
RESTORED = "restored"
"""The fact of a commit that went back to an earlier version: which one."""


def versions(spark: SparkSession | None, name: str) -> list[Version]:
    """Return the commits of a table, newest first: version, timestamp, operation, rows, and the facts that we noted.

    Args:
        spark: the session; None: the table's log is read without Spark.
        name: the table.

    Raises:
        NeedsSpark: the log cannot be read without Spark, and there is no session.
        TableError: the table does not exist or is no Delta table.
    """
    commits: list[Any]
    if spark is None:
        commits = delta_files.open_version(name).history()
    else:
        commits = tables.history(spark, name).orderBy(F.desc("version")).collect()
    return [{**_facts(commit["metadata"]), **{column: commit[column] for column in _COLUMNS}} for commit in commits]


def _facts(metadata: str | None) -> dict[str, Any]:
    """Return a commit's metadata; nothing where another writer has put something else there."""
    try:
        facts = json.loads(metadata or "{}")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def is_published(spark: SparkSession, candidate: str, published: str) -> bool:
    """Tell whether the latest version of a published table is the latest one of a candidate."""
    if not tables.exists(spark, published):
        return False
    ours = [commit for commit in versions(spark, published) if "candidate" in commit]
    source = {"candidate": candidate, "candidate_version": tables.version(spark, candidate)}
    return bool(ours) and source.items() <= ours[0].items()


def restore(spark: SparkSession, name: str, version: int, user: str) -> int:
    """Make a version of a table its latest one, in one commit unless it is; return the number of the latest version.

    Raises:
        TableError: the table has no such version, or its files are gone (VACUUM).
    """
    commits = versions(spark, name)
    target = next((commit for commit in commits if commit["version"] == version), None)
    newest, oldest = commits[0]["version"], commits[-1]["version"]
    if target is None:
        raise TableError(f"{name}: has no version {version}; its versions are {oldest} to {newest}")
    if version in (newest, commits[0].get(RESTORED)):
        return int(newest)
    noted = {key: value for key, value in target.items() if key not in _COLUMNS}
    facts = {**noted, RESTORED: version, "user": user}
    try:
        with table_merge.commit_options(spark, metadata=json.dumps(facts, ensure_ascii=False)):
            spark.sql(f"RESTORE TABLE {files.identifier(name)} TO VERSION AS OF {version}").collect()
    except Exception as error:
        raise TableError(
            f"{name}: cannot go back to version {version}, perhaps because VACUUM has removed its files: "
            f"{first_line(error)}"
        ) from error
    return int(tables.version(spark, name) or 0)
