"""A run of any kind from its configuration to its table: what jobs and the command do around a kind's embed()."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.errors import PySparkException

from embedall_spark import (
    concurrent_writers,
    early_storage,
    files,
    input_snapshot,
    kinds,
    mlflow_models,
    path_checks,
    progress,
    publication,
    run_heartbeat,
    run_manifest,
    run_result,
    run_store,
    schemas,
    session,
    start_table,
    storage_probe,
    tables,
    tracking,
)
from embedall_spark import config as configs
from embedall_spark.errors import ConfigError, EmbedallError, TooFewIds
from embedall_spark.publish.gates import Publication
from embedall_spark.sources import input_files, reader_errors
from embedall_spark.visualize import map_places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.config import Output, Section
    from embedall_spark.run_result import Outcome, Summary
    from embedall_spark.run_store import StoredRun
    from embedall_spark.tracking import Tracked

log = logging.getLogger(__name__)


class Options(NamedTuple):
    """Options of the command line beside the configuration."""

    run_id: str | None = None
    properties: str | None = None
    master: str | None = None
    dry_run: bool = False
    only_changed: bool = False
    """Do nothing where the table is what a finished run of this configuration has made of this input."""
    publishes: str | None = None
    """The table that a later step of the pipeline publishes this run's to."""
    preview: Callable[[DataFrame], object] | None = None
    """Called with the vectors before they are evaluated and written; not where the run was done before."""


@progress.activity("preparing")
def launch(kind: str, path: str | None, overrides: Sequence[str] = (), options: Options = Options()) -> Summary:  # noqa: B008
    """Run a kind as its YAML file and the overrides say, and return launch_config()'s summary.

    Raises:
        EmbedallError: see errors.py; the class determines the exit code.
    """
    early_storage.prepare(options.properties)
    return launch_config(kind, configs.load(kinds.load(kind).Config, path, overrides), options)


def launch_config(kind: str, config: Any, options: Options) -> Summary:
    """Run a kind and return a summary: status, run_id, table, version, rows, rejected, metrics, seconds, ...

    A killed run is resumed; a finished one is not repeated.

    Raises:
        EmbedallError: see errors.py; the class determines the exit code.
    """
    since = time.monotonic()
    module = kinds.load(kind)
    module.check(config)
    output: Output = config.output
    root = run_root(output)
    path_checks.check_run_id(options.run_id)
    mlflow_models.check_name("output.registered_model", getattr(output, "registered_model", None))
    if output.publish is not None:
        publication.check(configs.load(Publication, output.publish_config), output.table, output.publish, kind)
    path_checks.check(config, root, tracking.store_file(output.folder or root))
    with progress.activity("starting Spark"):
        spark = start(f"embedall {kind}", output, options)
        storage_probe.check_jars(spark, config)
    configured = config
    publishes = output.publish or options.publishes
    config, missing_start = start_table.resolve(spark, kind, root, config, options.run_id, publishes)
    source = _open_input(spark, kind, config, run_manifest.named(root, options.run_id, kind, config))
    inputs, version = source.rows, source.version
    left_out = _left_out(config)
    vector_size = module.vector_size(spark, config)
    if options.only_changed:
        without = start_table.without(configured)
        current = run_manifest.current(spark, output.table, kind, configured, version, without)
        if current is not None:
            log.info("%s: is what run %s has made of this input; nothing to do", output.table, current["run_id"])
            return {**current["summary"], "status": "unchanged"}
    # Fail early if the table is not writable; one that this run wrote is fine.
    resumed = options.run_id or run_manifest.unfinished(root, kind, config, version) or ""
    mode: tables.Mode = "append" if run_result.merges(output) else output.mode
    tables.check_writable(spark, output.table, schemas.VECTORS, mode, resumed, 0, vector_size)
    if options.dry_run:
        estimate = module.estimate(spark, config)
        return {"status": "checked", "kind": kind, "table": output.table, "input": version, **left_out, **estimate}
    taken = take_over(spark, kind, config, output, version, options.run_id, source.snapshot)
    if isinstance(taken, dict):
        return taken
    run, tracked = taken
    run.facts.update(left_out)
    if missing_start is not None:
        run_manifest.note(run.folder, missing_start=missing_start)

    def embed() -> Outcome:
        with progress.activity("embedding"), reader_errors.translate_read_errors():
            vectors = schemas.conform(module.embed(run, inputs, source.config), schemas.VECTORS)
        if options.preview is not None:
            options.preview(vectors)
        with progress.activity("evaluating"):
            figures = module.evaluate(run, vectors, config)
        with progress.activity("writing the table"):
            outcome = run_result.publish(run, vectors, kind, tracked, figures, config, vector_size)
        if output.map:
            with progress.activity("placing the ids on a map"):
                _write_map(run, output.table, outcome.target["version"])
        return outcome if output.publish is None else _publish(run, output, outcome)

    return run_result.complete(run, tracked, kind, since, embed)


class _OpenInput(NamedTuple):
    """An input as a run reads it."""

    config: Any
    rows: Any
    version: str
    snapshot: dict[str, Any]


def _open_input(spark: SparkSession, kind: str, config: Any, begun: dict[str, Any] | None) -> _OpenInput:
    """Return the input as it is; for a run that has begun, as it was then where that can still be read."""
    module = kinds.load(kind)
    if begun is not None and begun.get("snapshot"):
        try:
            before = input_snapshot.restore(config, begun["snapshot"])
            source = _OpenInput(before, module.read(spark, before), module.version(spark, before), begun["snapshot"])
            if source.version == begun["input"]:
                return source
        except (EmbedallError, PySparkException) as error:
            log.info("the input as it was when run %s began cannot be read: %s", begun["run_id"], error)
    rows, version = module.read(spark, config), module.version(spark, config)
    return _OpenInput(config, rows, version, input_snapshot.take(spark, config))


def _write_map(run: StoredRun, table: str, version: int) -> None:
    """Write where the ids of a run's table lie on a map; nothing for fewer than two ids."""
    try:
        places = map_places.places(tables.read(run.spark, table, version))
    except TooFewIds:
        return
    run.write_table(files.map_of(table), places, schemas.MAP, f"Places of the ids of {table} on a map")


def _publish(run: StoredRun, output: Output, outcome: Outcome) -> Outcome:
    """Publish the table of a run; add what is published to the run's summary.

    Raises:
        QualityGateFailed: it is held back; the published table is left as it is.
    """
    run.check_ownership()
    to = str(output.publish)
    gates = configs.load(Publication, output.publish_config)
    with progress.activity("publishing"):
        result = publication.publish(run.spark, output.table, to, gates, run_figures=outcome.figures)
    for name, value in result.metrics.items():
        run.metric(name, value)
    for name, content in result.pictures(f"{output.table} beside the version before of {to}").items():
        run.artifact(name, content)
    published = {"published": {"table": to, "version": result.version}}
    return outcome._replace(target=outcome.target | published)


def _left_out(config: Any) -> Summary:
    """Return how many files of the input are not read, by reason, for the summary; log them in one line."""
    storage = getattr(config.input, "storage", None)
    counts = storage.left_out() if storage is not None else {}
    if not counts:
        return {}
    reasons = [f"{count:,} ({reason}), such as {example}" for reason, (count, example) in counts.items()]
    level = logging.INFO if counts.keys() == {input_files.BOOKKEEPING} else logging.WARNING
    log.log(level, "%s: files and folders that are not read: %s", _input_name(config), "; ".join(reasons))
    return {"left_out": {reason: count for reason, (count, _) in counts.items()}}


def start(app_name: str, output: Output, options: Options) -> SparkSession:
    """Return a session in which a run can start, after the MLflow store has answered.

    Raises:
        EmbedallError: Spark or the store is not available, or not all hosts can see the run's folder.
    """
    with ThreadPoolExecutor(1) as executor:
        # MLflow takes as long to import as Spark to start; an unreachable store is an error now, not after training.
        # This creates a default store that does not exist yet, which a dry run must not do.
        store = None if options.dry_run else executor.submit(tracking.check, output.folder or run_root(output))
        spark = session.get(app_name, master=options.master, properties=options.properties)
        path_checks.check_root(spark, output.run_root or output.folder or "")
        if store is not None:
            store.result()
            storage_probe.check(spark, run_root(output))
    return spark


def take_over(
    spark: SparkSession,
    kind: str,
    config: Section,
    output: Output,
    version: str,
    run_id: str | None,
    snapshot: dict[str, Any] | None = None,
) -> tuple[StoredRun, Tracked] | Summary:
    """Return the run to do and its run in MLflow; or the summary of a run that is finished already."""
    root = run_root(output)
    # Kept: once another driver has finished the run, it is no unfinished one any more.
    run_id = run_id or run_manifest.unfinished(root, kind, config, version)
    previous, token = run_manifest.named(root, run_id, kind, config), None
    # A third driver may have taken the run over meanwhile.
    while previous is not None and previous["status"] == "running" and previous["token"] != token:
        token = previous["token"]
        folder = run_manifest.folder_of(root, previous["run_id"])
        run_heartbeat.settle(folder, previous["run_id"], token, output.if_running)
        previous = run_manifest.read(folder)
    folder, manifest = run_manifest.begin(root, kind, config, version, run_id, snapshot)
    if manifest["status"] == "done":
        log.info("run %s is finished already; nothing to do", manifest["run_id"])
        return {**manifest["summary"], "status": "done", "repeated": True}
    log.info("run %s in %s", manifest["run_id"], folder)
    heartbeat = run_heartbeat.Heartbeat(folder, manifest["token"])
    heartbeat.start()
    concurrent_writers.warn(spark, root, output, manifest["run_id"])
    try:
        tracked = tracking.start(
            kind,
            manifest["run_id"],
            config,
            folder=output.folder or root,
            experiment=output.experiment,
            mlflow_run_id=manifest.get("mlflow_run_id"),
        )
    except BaseException:
        heartbeat.stop()
        raise
    run_manifest.note(folder, mlflow_run_id=tracked.id)
    tracked.input(_input_name(config), version)
    tracker = run_store.Tracker(tracked.metric, tracked.artifact, tracked.uri, tracked.log_trials, tracked.log_model)
    return run_store.StoredRun(spark, folder, manifest, output, tracker, heartbeat), tracked


def run_root(output: Output) -> str:
    """Return the folder of the runs: the configured one, else .runs beside the table.

    Raises:
        ConfigError: the table is named in a catalog, and no folder is configured.
    """
    if output.run_root is not None:
        return _absolute(output.run_root)
    if output.folder is None:
        raise ConfigError(
            f"output.run_root: required, because the table {output.table} is named in a catalog; give a folder"
        )
    return _absolute(f"{output.folder}/.runs")


def _absolute(folder: str) -> str:
    return folder.rstrip("/") if path_checks.has_scheme(folder) else os.path.abspath(folder)


def _input_name(config: Any) -> str:
    return str(getattr(config.input, "path", "input"))
