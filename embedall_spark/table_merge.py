"""Merging into a Delta table: a run's rows are inserted or updated and vanished ids deleted, in one commit."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from embedall_spark import files, table_errors, tables
from embedall_spark.errors import SetupError, TableError
from embedall_spark.schemas import VECTORS, conform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame, SparkSession

_OPTIONS = {
    "app": "spark.databricks.delta.write.txnAppId",
    "number": "spark.databricks.delta.write.txnVersion",
    "metadata": "spark.databricks.delta.commitInfo.userMetadata",
}


def merge(
    spark: SparkSession,
    vectors: DataFrame,
    name: str,
    *,
    run_id: str,
    txn_version: int = 0,
    vector_size: int,
    remove: bool,
    comment: str,
    metadata: dict[str, Any],
) -> int:
    """Make a table equal to ``vectors`` by writing only the rows of this run; return the resulting version.

    Rows of ``run_id`` are inserted, or replace the row with their id; if ``remove`` is set, ids that ``vectors`` lacks
    are deleted. If nothing changes, or this run has made its commit before, no commit is made. A table that does not
    exist is created.

    Args:
        spark: the session.
        vectors: VECTORS, the whole table as it should be afterward.
        name: the table to change.
        run_id: the run whose rows are new.
        txn_version: the commit's number within the run, rising.
        vector_size: length of the vectors.
        remove: delete rows whose id is not in ``vectors``.
        comment: the comment of a new table.
        metadata: stored with the commit as JSON, together with run_id and txn_version.

    Raises:
        TableError: the table is not one of VECTORS or has another vector_size, or another writer was faster.
        BadData: a row violates a constraint; nothing was written.
    """
    if not tables.exists(spark, name):
        options: Any = {"mode": "overwrite", "vector_size": vector_size, "comment": comment, "metadata": metadata}
        return tables.write(spark, vectors, name, VECTORS, run_id=run_id, txn_version=txn_version, **options)
    done = tables.check_writable(spark, name, VECTORS, "append", run_id, txn_version, vector_size)
    if done is not None:
        return done
    changes = _changes(spark, conform(vectors, VECTORS), name, run_id, remove)
    if changes.isEmpty():
        current = tables.version(spark, name)
        assert current is not None
        return current
    user = json.dumps({"run_id": run_id, "txn_version": txn_version} | metadata, ensure_ascii=False)
    try:
        with commit_options(spark, app=run_id, number=str(txn_version), metadata=user):
            _commit(changes, files.identifier(name))
    except Exception as error:
        done = tables.committed(spark, name, run_id, txn_version)
        explained = None if done is not None else table_errors.explain(name, error, vector_size)
        if done is None and explained is None:
            raise
        if explained is not None:
            raise explained from error
    done = tables.committed(spark, name, run_id, txn_version)
    if done is None:
        raise TableError(f"{name}: nothing was merged, though run {run_id} has changes; give a new run id")
    return done


def _changes(spark: SparkSession, vectors: DataFrame, name: str, run_id: str, remove: bool) -> DataFrame:
    """Return the rows to write, and for each id to delete a row without a vector."""
    new = vectors.where(F.col("run_id") == run_id)
    if not remove:
        return new
    gone = tables.read(spark, name).select("id").join(vectors.select("id"), "id", "left_anti")
    return new.unionByName(gone, allowMissingColumns=True)


def _commit(changes: DataFrame, table: str) -> None:
    source = changes.alias("changed")
    merged = source.mergeInto(table, F.col("changed.id") == F.col(f"{table}.id"))
    deleted = merged.whenMatched(F.col("changed.vector").isNull()).delete()
    inserted = deleted.whenMatched().updateAll().whenNotMatched(F.col("changed.vector").isNotNull()).insertAll()
    inserted.merge()


@contextmanager
def commit_options(spark: SparkSession, **values: str) -> Iterator[None]:
    """Set the options of one commit; MERGE and RESTORE read them from the session only.

    Raises:
        SetupError: Databricks' serverless compute, which takes no such settings.
    """
    try:
        for key, value in values.items():
            spark.conf.set(_OPTIONS[key], value)
    except PySparkException as error:
        if error.getCondition() != "CONFIG_NOT_AVAILABLE":
            raise
        raise SetupError(
            f"this compute refuses {_OPTIONS[key]}, by which a commit is told from its repetition: use a cluster, "
            "or replace the table (output.mode=overwrite)"
        ) from None
    try:
        yield
    finally:
        for key in values:
            spark.conf.unset(_OPTIONS[key])
