"""Delta tables, which only this file and table_merge.py write: each write is one commit.

A table is named by a path or URI (anything with a slash, or without a dot) or as ``schema.table`` or
``catalog.schema.table``. A commit carries its run's id, so that a rerun of the same run has no effect.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pyspark.errors import AnalysisException
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import delta_files, files, table_errors
from embedall_spark.errors import SchemaMismatch, TableError
from embedall_spark.schemas import conform

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.readwriter import DataFrameWriterV2

Mode = Literal["error", "overwrite", "append"]

_SIZE = "embedall.vector_size"


def exists(spark: SparkSession, name: str) -> bool:
    """Return whether a table of this name, or a Delta table in this folder, exists.

    Raises:
        TableError: the catalog or schema does not exist.
    """
    try:
        if not files.is_path(name):
            return bool(spark.catalog.tableExists(files.identifier(name)))
        try:
            # Of a Delta table this takes no Spark job.
            _ = spark.read.table(files.identifier(name)).schema
        except AnalysisException:
            # Says why: there is no table, or one that cannot be read.
            spark.sql(f"DESCRIBE DETAIL {files.identifier(name)}").collect()
    except AnalysisException as error:
        if "DELTA_MISSING_DELTA_TABLE" in str(error):
            return False
        raise TableError(f"{name}: {table_errors.first_line(error)}") from None
    return True


def read(spark: SparkSession, name: str, version: int | None = None) -> DataFrame:
    """Return a table, or the given version of it.

    Raises:
        TableError: the table or this version of it does not exist.
    """
    reader = spark.read if version is None else spark.read.option("versionAsOf", version)
    try:
        table = reader.table(files.identifier(name))
        # Spark notices that a version does not exist only when it needs the columns.
        _ = table.schema
    except AnalysisException as error:
        if exists(spark, name):
            raise TableError(f"{name}: {table_errors.first_line(error)}") from None
        raise no_such_table(name) from None
    return table


def no_such_table(name: str) -> TableError:
    """Return the error for a table that does not exist."""
    hint = "a folder that holds a Delta table" if files.is_path(name) else "catalog.schema.table; a path has a slash"
    return TableError(f"{name}: there is no such table (need {hint})")


def version(spark: SparkSession, name: str) -> int | None:
    """Return a table's latest version; None if the table does not exist."""
    if (table := delta_files.latest(name)) is not None:
        return int(table.table.version())
    if not exists(spark, name):
        return None
    return int(spark.sql(f"DESCRIBE HISTORY {files.identifier(name)} LIMIT 1").collect()[0]["version"])


def history(spark: SparkSession, name: str) -> DataFrame:
    """Return one row per commit: version, timestamp, operation, run_id, txn_version, metadata (JSON), rows.

    Run, number and metadata are null for commits by others. ``rows`` is how many the commit wrote; null where Delta
    does not say it.

    Raises:
        TableError: the table does not exist or is not a Delta table.
    """
    try:
        commits = spark.sql(f"DESCRIBE HISTORY {files.identifier(name)}")
    except AnalysisException as error:
        why = table_errors.first_line(error) if exists(spark, name) else "there is no such table"
        raise TableError(f"{name}: {why}") from None
    return commits.select(
        "version",
        "timestamp",
        "operation",
        F.get_json_object("userMetadata", "$.run_id").alias("run_id"),
        F.get_json_object("userMetadata", "$.txn_version").cast("bigint").alias("txn_version"),
        F.col("userMetadata").alias("metadata"),
        F.col("operationMetrics")["numOutputRows"].cast("bigint").alias("rows"),
    )


def write(
    spark: SparkSession,
    df: DataFrame,
    name: str,
    schema: T.StructType,
    *,
    mode: Mode,
    run_id: str,
    txn_version: int = 0,
    vector_size: int | None = None,
    comment: str = "",
    metadata: dict[str, Any] | None = None,
) -> int:
    """Write ``df`` as one atomic commit and return the table's version that holds it.

    A commit that this run made earlier is not repeated. A new or replaced table gets the comments of ``schema`` and
    CHECK constraints: its required columns are not null, its vectors have ``vector_size`` finite values.

    ``mode``: error refuses an existing table, overwrite replaces one of the same contract, append adds new ids to
    one or creates it. ``txn_version`` is the commit's number within the run, rising. ``vector_size`` is the length of
    all array<float> columns, required if there are any. ``metadata`` goes into the commit as JSON.

    Raises:
        TableError: the table must not exist, has another contract or an id to append, or another writer was faster.
        SchemaMismatch: ``df`` lacks a column of the contract.
        BadData: a row violates a constraint; nothing was written.
    """
    properties = _properties(schema, vector_size, comment)
    done = check_writable(spark, name, schema, mode, run_id, txn_version, vector_size)
    if done is not None:
        return done
    user = json.dumps({"run_id": run_id, "txn_version": txn_version} | (metadata or {}), ensure_ascii=False)
    options = {"txnAppId": run_id, "txnVersion": str(txn_version), "userMetadata": user}
    try:
        _commit(df, name, schema, mode, properties, options)
    except Exception as error:
        # Two drivers of one run may write at the same time; a commit by either of them is enough.
        done = committed(spark, name, run_id, txn_version) if exists(spark, name) else None
        if done is not None:
            return done
        explained = table_errors.explain(name, error, vector_size)
        if explained is None:
            raise
        raise explained from error
    done = committed(spark, name, run_id, txn_version)
    if done is None:
        raise TableError(
            f"{name}: run {run_id} wrote this table before, so nothing was written, and the table's history no longer "
            "reaches back to it; give a new run id"
        )
    return done


def check_writable(
    spark: SparkSession,
    name: str,
    schema: T.StructType,
    mode: Mode,
    run_id: str,
    txn_version: int,
    vector_size: int | None,
) -> int | None:
    """Check that write() with these arguments can succeed; return the version if this commit was made earlier.

    Raises:
        TableError: the table must not exist but does, or has another contract.
    """
    if not exists(spark, name):
        if files.is_path(name):
            _check_free(name)
        return None
    done = committed(spark, name, run_id, txn_version)
    if done is None:
        check_replaceable(spark, name, schema, mode, vector_size)
    return done


def _commit(
    df: DataFrame, name: str, schema: T.StructType, mode: Mode, properties: dict[str, str], options: dict[str, str]
) -> None:
    rows = conform(df, schema).select(
        *[F.col(field.name).alias(field.name, metadata=field.metadata) for field in schema]
    )
    if mode == "append":
        if not exists(df.sparkSession, name):
            _create_empty(rows, name, properties)
        elif "vector" in schema.names:
            _check_ids_are_new(rows, name)
        rows.writeTo(files.identifier(name)).using("delta").options(**options).append()
        return
    # Delta's create() would drop the commit's metadata.
    _with(rows.writeTo(files.identifier(name)).using("delta").options(**options), properties).createOrReplace()


def _check_ids_are_new(rows: DataFrame, name: str) -> None:
    """Raise TableError if the table has ids of the rows already: an id stands in a table of vectors once."""
    repeated = rows.select("id").join(read(rows.sparkSession, name).select("id"), "id", "left_semi")
    first = repeated.agg(F.count("*").alias("rows"), F.min("id").alias("id")).first()
    if first is not None and first["rows"]:
        raise TableError(
            f"{name}: {first['rows']:,} of the ids to append are in the table already, such as {first['id']!r}; "
            "nothing was written: replace the table (mode overwrite), or merge into it where the command has mode merge"
        )


def _create_empty(rows: DataFrame, name: str, properties: dict[str, str]) -> None:
    """Create the table to append to; it is fine if another writer creates it at the same time."""
    try:
        _with(rows.limit(0).writeTo(files.identifier(name)).using("delta"), properties).create()
    except Exception as error:
        if "ALREADY_EXISTS" not in str(error) and not table_errors.CONFLICTS.search(str(error)):
            raise


def _with(writer: DataFrameWriterV2, properties: dict[str, str]) -> DataFrameWriterV2:
    for key, value in properties.items():
        writer = writer.tableProperty(key, value)
    return writer


def committed(spark: SparkSession, name: str, run_id: str, txn_version: int | None) -> int | None:
    """Return the version that this commit (None: the last one) of this run created; None if it was not made."""
    least = txn_version or 0
    if (table := delta_files.latest(name)) is not None:
        commits = [commit for commit in table.commits() if commit["run_id"] == run_id]
        ours = [commit["version"] for commit in commits if commit.get("txn_version", -1) >= least]
    else:
        rows = history(spark, name).where((F.col("run_id") == run_id) & (F.col("txn_version") >= least))
        ours = [row["version"] for row in rows.select("version").collect()]
    return (max if txn_version is None else min)(map(int, ours), default=None)


def written_rows(spark: SparkSession, name: str, version: int) -> int | None:
    """Return how many rows the commit of a version wrote, updated ones included; None where Delta does not say it."""
    if (table := delta_files.latest(name)) is not None:
        return table.written_rows(version)
    (commit,) = history(spark, name).where(F.col("version") == version).collect()
    return None if commit["rows"] is None else int(commit["rows"])


def _properties(schema: T.StructType, vector_size: int | None, comment: str) -> dict[str, str]:
    vectors = [field for field in schema if field.dataType.simpleString() == "array<float>"]
    if vectors and vector_size is None:
        raise TableError(f"vector_size is required: {', '.join(field.name for field in vectors)} are array<float>")
    required = [f"`{field.name}` IS NOT NULL" for field in schema if not field.nullable]
    properties = {"delta.constraints.required": " AND ".join(required)} if required else {}
    for field in vectors:
        # Spark orders NaN above all numbers, so array_max finds it too.
        checks = (
            f"size(`{field.name}`) = {vector_size} AND array_max(`{field.name}`) < float('Infinity') "
            f"AND array_min(`{field.name}`) > float('-Infinity')"
        )
        properties[f"delta.constraints.{field.name}"] = (
            f"`{field.name}` IS NULL OR ({checks})" if field.nullable else checks
        )
    if vectors:
        properties[_SIZE] = str(vector_size)
    return properties | ({"comment": comment} if comment else {})


def check_replaceable(
    spark: SparkSession, name: str, schema: T.StructType, mode: Mode, vector_size: int | None
) -> None:
    """Raise TableError if an existing table must not be written to or has another contract."""
    if mode == "error":
        raise TableError(f"{name}: the table exists; name another, or ask for mode overwrite (old versions are kept)")
    table = read(spark, name)
    try:
        conform(table, schema)
    except SchemaMismatch as error:
        raise TableError(f"{name}: the table exists with other columns and is left as it is: {error}") from None
    if mode == "append" and vector_size is not None:
        properties = spark.sql(f"SHOW TBLPROPERTIES {files.identifier(name)}").collect()
        sizes = [row["value"] for row in properties if row["key"] == _SIZE]
        if sizes and int(sizes[0]) != vector_size:
            raise TableError(
                f"{name}: its vectors have {sizes[0]} values, those to write {vector_size}; "
                "train with the same vector_size, or ask for mode overwrite"
            )


def _check_free(path: str) -> None:
    """Raise TableError if the folder holds other files: Delta would create a table among them."""
    if not files.exists(path):
        return
    try:
        names = files.children(path)
    except OSError:
        raise TableError(f"{path}: is a file; name a new or empty folder for the table") from None
    # A write that was interrupted before its commit leaves files and an empty log.
    if names and "_delta_log" not in names:
        raise TableError(f"{path}: the folder exists and holds no Delta table, but {names[0]}; name a new or empty one")
