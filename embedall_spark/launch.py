"""A run of any kind from its configuration to its table: what jobs and the command do around a kind's embed()."""

from __future__ import annotations

import errno
import functools
import logging
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import config as configs
from embedall_spark import (
    files,
    kinds,
    path_checks,
    progress,
    run_store,
    schemas,
    session,
    table_merge,
    tables,
    tracking,
)
from embedall_spark.errors import BadData, ConfigError, QualityGateFailed, ResourceError, Superseded
from embedall_spark.sources import reader_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pyspark.sql import SparkSession

    from embedall_spark.config import Output, Section
    from embedall_spark.run_store import StoredRun
    from embedall_spark.tracking import Tracked

log = logging.getLogger(__name__)

# Tasks enough to land on every host of a usual cluster.
_PROBES = 32

Summary = dict[str, Any]


class Options(NamedTuple):
    """What the command line says beside the configuration."""

    run_id: str | None = None
    properties: str | None = None
    master: str | None = None
    dry_run: bool = False
    preview: Callable[[DataFrame], object] | None = None
    """Called with the vectors before they are evaluated and written; not where the run was done before."""


@progress.activity("preparing")
def launch(kind: str, path: str | None, overrides: Sequence[str] = (), options: Options = Options()) -> Summary:  # noqa: B008
    """Run a kind and return a summary: status, run_id, table, version, rows, rejected, metrics, seconds, ...

    A run that was killed is resumed; one that is done is not repeated.

    Raises:
        EmbedallError: see errors.py; the class tells the exit code.
    """
    since = time.monotonic()
    module = kinds.load(kind)
    config: Any = configs.load(module.Config, path, overrides)
    module.check(config)
    output: Output = config.output
    root = run_root(output)
    run_store.check_id(options.run_id)
    path_checks.check(config, root, tracking.store_file(output.folder or root))
    with progress.activity("starting Spark"):
        spark = start(f"embedall {kind}", output, options)
    inputs, version = module.read(spark, config), module.version(spark, config)
    vector_size = module.vector_size(spark, config)
    # A table that cannot be written must show before hours of training; one that this run has written is no such.
    known = options.run_id or run_store.unfinished(root, kind, config, version) or ""
    mode: tables.Mode = "append" if _merges(output) else output.mode
    tables.check_writable(spark, output.table, schemas.VECTORS, mode, known, 0, vector_size)
    if options.dry_run:
        found = module.estimate(spark, config)
        return {"status": "checked", "kind": kind, "table": output.table, "input": version, **found}
    begun = take_over(spark, kind, config, output, version, options.run_id)
    if isinstance(begun, dict):
        return begun
    run, tracked = begun
    try:
        tracked.input(_input_name(config), version)
        with reader_errors.translate_read_errors():
            vectors = schemas.conform(module.embed(run, inputs, config), schemas.VECTORS)
        if options.preview is not None:
            options.preview(vectors)
        with progress.activity("evaluating"):
            figures = module.evaluate(run, vectors, config)
        with progress.activity("writing the table"):
            summary = _publish(run, vectors, kind, tracked, figures, config, vector_size)
    except BaseException as error:
        full = _disk_full(error, [run.folder, str(files.scratch())])
        fail(run, tracked, kind, full or error)
        if full is None:
            raise
        raise full from error
    tracked.output(output.table, summary["version"])
    summary |= {"seconds": round(time.monotonic() - since, 1), "mlflow_uri": tracked.store}
    run.finish("done", summary=summary)
    tracked.finish("FINISHED")
    return summary


def start(app_name: str, output: Output, options: Options) -> SparkSession:
    """Return a session in which a run can be begun, once the store of MLflow has answered.

    Raises:
        EmbedallError: Spark or the store cannot be had, or the run's folder is not one for all hosts.
    """
    with ThreadPoolExecutor(1) as beside:
        # MLflow takes as long to import as Spark to start, and a store that does not answer must show now.
        # The default store is made where it is not there, which a dry run must not do.
        store = None if options.dry_run else beside.submit(tracking.check, output.folder or run_root(output))
        spark = session.get(app_name, master=options.master, properties=options.properties)
        if store is not None:
            store.result()
    _check_root(spark, output)
    return spark


def take_over(
    spark: SparkSession, kind: str, config: Section, output: Output, version: str, run_id: str | None
) -> tuple[StoredRun, Tracked] | Summary:
    """Return the run to do and its run in MLflow; the summary of a run that is done already."""
    root = run_root(output)
    folder, manifest = run_store.begin(root, kind, config, version, run_id)
    if manifest["status"] == "done":
        log.info("run %s is done already; nothing to do", manifest["run_id"])
        return {**manifest["summary"], "status": "done", "repeated": True}
    log.info("run %s in %s", manifest["run_id"], folder)
    _check_shared(spark, folder)
    tracked = tracking.start(
        kind,
        manifest["run_id"],
        config,
        folder=output.folder or root,
        experiment=output.experiment,
        mlflow_run_id=manifest.get("mlflow_run_id"),
    )
    run_store.note(folder, mlflow_run_id=tracked.id)
    tracker = run_store.Tracker(tracked.metric, tracked.artifact, tracked.uri, tracked.log_trials, tracked.log_model)
    return run_store.StoredRun(spark, folder, manifest, output, tracker), tracked


def run_root(output: Output) -> str:
    """Return the folder of the runs: as configured, else beside the table.

    Raises:
        ConfigError: the table is named in a catalog, so that there is no beside.
    """
    if output.run_root is not None:
        return _absolute(output.run_root)
    if output.folder is None:
        raise ConfigError(
            f"output.run_root: required, because the table {output.table} is named in a catalog; give a folder"
        )
    return _absolute(f"{output.folder}/.runs")


def _absolute(folder: str) -> str:
    return folder.rstrip("/") if _has_scheme(folder) else os.path.abspath(folder)


def _has_scheme(folder: str) -> bool:
    return "://" in folder or folder.startswith(("file:", "dbfs:"))


def _check_root(spark: SparkSession, output: Output) -> None:
    """Refuse a relative folder where tasks run on other hosts, which know nothing of this one's working folder."""
    root = output.run_root or output.folder or ""
    if str(spark.conf.get("spark.master", "local")).startswith("local") or _has_scheme(root) or root.startswith("/"):
        return
    raise ConfigError(
        f"output.run_root: {root} is relative, and tasks run on other hosts: give a path or URI that all hosts share"
    )


def _check_shared(spark: SparkSession, folder: str) -> None:
    """Refuse a run's folder that Spark, or a task on another host, does not see where this process sees it."""
    if str(spark.conf.get("spark.master", "local")).startswith("local"):
        return
    try:
        seen = not spark.read.text(f"{folder}/manifest.json").isEmpty()
    except AnalysisException:
        seen = False
    tasks = spark.range(0, _PROBES, 1, _PROBES).mapInArrow(_sees(folder), "seen boolean")
    if not seen or not all(row.seen for row in tasks.collect()):
        raise ConfigError(
            f"output.run_root: {folder} is not one folder for Spark and for all hosts: give a mount that all share, or "
            "a URI (s3://, abfss://, hdfs://, dbfs:/)"
        )


def _sees(folder: str) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            there = files.exists(f"{folder}/manifest.json")
            yield pa.RecordBatch.from_arrays([pa.array([there] * len(batch))], ["seen"])

    return look


def _merges(output: Output) -> bool:
    return isinstance(output, configs.MergedOutput) and output.merges


def _input_name(config: Any) -> str:
    return str(getattr(config.input, "path", "input"))


def _publish(
    run: StoredRun,
    vectors: DataFrame,
    kind: str,
    tracked: Tracked,
    figures: dict[str, float],
    config: Any,
    vector_size: int | None,
) -> Summary:
    """Replace the table in one commit, or merge into it, unless a figure is below its gate."""
    output: Output = config.output
    for name, value in figures.items():
        run.metric(name, value)
    nan = float("nan")
    low = [
        f"{name} is {figures.get(name, nan):.4f}, need {least}"
        for name, least in config.evaluate.gates.items()
        if not figures.get(name, nan) >= least
    ]
    if low:
        raise QualityGateFailed(f"{'; '.join(low)} (evaluate.gates); the table {output.table} was left as it is")
    if vector_size is None:
        row = vectors.select(F.size("vector").alias("numbers")).first()
        vector_size = int(row["numbers"]) if row is not None else 0
    run.check_ownership()
    registered = tracked.register()
    metadata = {"kind": kind, "mlflow_run_id": tracked.id, "run_folder": run.folder, **registered}
    rejects = write_rejects(run, metadata)
    common: dict[str, Any] = {"run_id": run.id, "vector_size": vector_size, "metadata": metadata}
    common["comment"] = f"Vectors of {kind}"
    if _merges(output):
        version = table_merge.merge(run.spark, vectors, output.table, remove=config.output.remove_vanished, **common)
    else:
        version = tables.write(run.spark, vectors, output.table, schemas.VECTORS, mode=output.mode, **common)
    log.info("table %s: version %d", output.table, version)
    rows = tables.read(run.spark, output.table, version).where(F.col("run_id") == run.id).count()
    return {
        "status": "done",
        "kind": kind,
        "run_id": run.id,
        "table": output.table,
        "version": version,
        "rows": rows,
        "rejected": run.rejected,
        "rejects": rejects,
        "metrics": figures,
        "mlflow_run_id": tracked.id,
        **registered,
        "folder": run.folder,
    }


def write_rejects(run: StoredRun, metadata: dict[str, str]) -> str | None:
    """Append the refused rows to their table; return its name, None where no row was refused."""
    if not run.rejects:
        return None
    rows = functools.reduce(DataFrame.unionByName, run.rejects)
    if rows.isEmpty():
        return None
    name = run.output.rejects or f"{run.output.table}_rejects"
    rows = rows.withColumn("run_id", F.lit(run.id))
    tables.write(
        run.spark, rows, name, schemas.REJECTS, mode="append", run_id=run.id, comment="Refused rows", metadata=metadata
    )
    return name


def _disk_full(error: BaseException, folders: Sequence[str]) -> ResourceError | None:
    """Return an error that names the fullest of a run's folders, if a full disk is the cause; None otherwise."""
    if getattr(error, "errno", None) != errno.ENOSPC and "No space left on device" not in str(error):
        return None
    free = {folder: shutil.disk_usage(files.resolve(folder)[1]).free for folder in folders if files.is_local(folder)}
    if not free:
        return ResourceError("a disk of a host is full: free space in its SPARK_LOCAL_DIRS, then start the run again")
    folder = min(free, key=lambda name: free[name])
    return ResourceError(
        f"the disk is full: {free[folder] >> 20:,} MiB are free for {folder}. Free space there or choose other folders "
        "(output.run_root for stages and checkpoints, SPARK_LOCAL_DIRS for what tasks spill); then start the same run "
        "again, and it resumes. --dry-run estimates the disk space that is needed"
    )


def _commonest(rejects: DataFrame, run_id: str) -> str:
    """Return why most of a run's rows were refused, with one of them."""
    one = F.max(F.struct(F.coalesce("record", F.lit("")), "origin")).alias("one")
    counted = rejects.where(F.col("run_id") == run_id).groupBy("reason").agg(F.count("*").alias("rows"), one)
    found = counted.orderBy(F.desc("rows"), "reason").first()
    assert found is not None
    return f"{found['rows']:,} of them: {found['reason']}, such as {found['one'][0]!r} of {found['one'][1]}"


def fail(run: StoredRun, tracked: Tracked, kind: str, error: BaseException) -> None:
    """Note the failure where runs are looked up; the error itself goes on."""
    run.meter.close()
    if isinstance(error, Superseded):
        # The other driver goes on with the same manifest and the same MLflow run.
        return
    tracked.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
    try:
        if isinstance(error, BadData) and (name := write_rejects(run, {"kind": kind, "mlflow_run_id": tracked.id})):
            log.error("the refused rows are in %s; %s", name, _commonest(tables.read(run.spark, name), run.id))
        run.finish("failed", error=str(error)[:2000])
    except Exception as second:
        log.warning("the run's end could not be noted: %s", second)
