"""The end of a run: its table is replaced or merged into, its refused rows are written, its failure is recorded."""

from __future__ import annotations

import errno
import functools
import logging
import shutil
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import config as configs
from embedall_spark import credentials, files, schemas, session, table_merge, tables
from embedall_spark.errors import BadData, QualityGateFailed, ResourceError, Superseded, Terminated
from embedall_spark.publish import gates
from embedall_spark.vectors import dimension

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedall_spark.config import Output
    from embedall_spark.run_store import StoredRun
    from embedall_spark.tracking import Tracked

log = logging.getLogger(__name__)

Summary = dict[str, Any]


class Outcome(NamedTuple):
    """What a run has written."""

    target: dict[str, Any]
    """Entries of the summary that name it: table, version and rows, or file."""
    rejects: str | None
    """The table of refused rows."""
    figures: dict[str, float]


def complete(run: StoredRun, tracked: Tracked, kind: str, since: float, work: Callable[[], Outcome]) -> Summary:
    """Do the work of a run, record how it ended, in its folder and in MLflow, and return its summary.

    Args:
        run: the run.
        tracked: the run in MLflow.
        kind: of the run.
        since: when the run was started, by time.monotonic().
        work: embeds and writes; what it raises is recorded as the run's failure.
    """
    try:
        return _complete(run, tracked, kind, since, work)
    finally:
        if run.heartbeat is not None:
            run.heartbeat.stop()


def _complete(run: StoredRun, tracked: Tracked, kind: str, since: float, work: Callable[[], Outcome]) -> Summary:
    try:
        outcome = work()
    except BaseException as error:
        cause = ended_with_spark(error) or disk_full(error, [run.folder, str(files.scratch())])
        _fail(run, tracked, kind, cause or error)
        if cause is None:
            raise
        raise cause from error
    summary = {
        "status": "done",
        "kind": kind,
        "run_id": run.id,
        **outcome.target,
        **run.facts,
        "rejected": run.rejected,
        "rejects": outcome.rejects,
        "metrics": outcome.figures,
        "mlflow_run_id": tracked.id,
        "folder": run.folder,
        "seconds": round(time.monotonic() - since, 1),
        "mlflow_uri": tracked.store,
    }
    run.finish("done", summary=summary)
    tracked.finish("FINISHED")
    return summary


def merges(output: Output) -> bool:
    """Return whether a run merges its rows into the table."""
    return isinstance(output, configs.MergedOutput) and output.merges


def publish(
    run: StoredRun,
    vectors: DataFrame,
    kind: str,
    tracked: Tracked,
    figures: dict[str, float],
    config: Any,
    vector_size: int | None,
) -> Outcome:
    """Replace the table, or merge into it, in one commit.

    Raises:
        QualityGateFailed: a figure is below its gate; the table is left as it is.
    """
    output: Output = config.output
    for name, value in figures.items():
        run.metric(name, value)
    if failures := gates.below(figures, config.evaluate.gates):
        raise QualityGateFailed(f"{'; '.join(failures)} (evaluate.gates); the table {output.table} was left as it is")
    if vector_size is None:
        vector_size = dimension(vectors) or 0
    run.check_ownership()
    registered = tracked.register()
    metadata = {"kind": kind, "mlflow_run_id": tracked.id, "run_folder": run.folder, **registered}
    # Every refused row has been counted: none, and there is nothing to look for.
    rejects = write_rejects(run, metadata) if run.rejected else None
    common: dict[str, Any] = {"run_id": run.id, "txn_version": run.restarts, "vector_size": vector_size}
    common |= {"metadata": metadata, "comment": f"Vectors of {kind}"}
    if merges(output):
        version = table_merge.merge(run.spark, vectors, output.table, remove=config.output.remove_vanished, **common)
    else:
        version = tables.write(run.spark, vectors, output.table, schemas.VECTORS, mode=output.mode, **common)
    log.info("table %s: version %d", output.table, version)
    # A merge also writes rows of earlier runs that lie in the same files.
    rows = None if merges(output) else tables.written_rows(run.spark, output.table, version)
    if rows is None:
        rows = tables.read(run.spark, output.table, version).where(F.col("run_id") == run.id).count()
    tracked.output(output.table, version)
    return Outcome({"table": output.table, "version": version, "rows": rows, **registered}, rejects, figures)


def write_rejects(run: StoredRun, metadata: dict[str, str]) -> str | None:
    """Append the refused rows to their table; return its name, None if no row was refused."""
    if not run.rejects:
        return None
    rows = functools.reduce(DataFrame.unionByName, run.rejects)
    if rows.isEmpty():
        return None
    name = run.output.rejects or f"{run.output.table}_rejects"
    rows = rows.withColumn("run_id", F.lit(run.id))
    commit: dict[str, Any] = {"run_id": run.id, "txn_version": run.restarts, "metadata": metadata}
    tables.write(run.spark, rows, name, schemas.REJECTS, mode="append", comment="Refused rows", **commit)
    return name


def ended_with_spark(error: BaseException) -> Terminated | None:
    """Return Terminated if spark-submit was ended: Spark stops first, and this process gets SIGTERM after it."""
    if not session.ended_by_submit(error):
        return None
    # It must not interrupt the notes of how the run ended.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return Terminated()


def disk_full(error: BaseException, folders: Sequence[str]) -> ResourceError | None:
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


def _main_reason(rejects: DataFrame, run_id: str) -> str:
    """Return the most frequent reason for which a run's rows were refused, with an example."""
    example = F.max(F.struct(F.coalesce("record", F.lit("")), "origin")).alias("example")
    counts = rejects.where(F.col("run_id") == run_id).groupBy("reason").agg(F.count("*").alias("rows"), example)
    row = counts.orderBy(F.desc("rows"), "reason").first()
    assert row is not None
    return f"{row['rows']:,} of them: {row['reason']}, such as {row['example'][0]!r} of {row['example'][1]}"


def _fail(run: StoredRun, tracked: Tracked, kind: str, error: BaseException) -> None:
    """Record the failure in the manifest and in MLflow; the caller raises the error itself."""
    run.meter.close()
    if isinstance(error, Superseded):
        # The other driver goes on with the same manifest and the same MLflow run.
        return
    tracked.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
    try:
        if isinstance(error, BadData) and (name := write_rejects(run, {"kind": kind, "mlflow_run_id": tracked.id})):
            log.error("the refused rows are in %s; %s", name, _main_reason(tables.read(run.spark, name), run.id))
        run.finish("failed", error=credentials.mask(str(error))[:2000])
    except Exception as second:
        log.warning("the failure could not be recorded in the run's folder: %s", second)
