"""The command that runs a pipeline, or one step of it."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any

import typer

from embedall_spark import early_storage, pipeline, progress, publication, run_manifest, session, table_versions, tables
from embedall_spark.cli.evaluate import measure_labels, measure_words
from embedall_spark.cli.run_kind import run_with_summary
from embedall_spark.cli.shared import console, failure, options, provenance, table_snapshot
from embedall_spark.config import Output
from embedall_spark.errors import QualityGateFailed
from embedall_spark.evaluate import benchmark_files
from embedall_spark.launch import Options, launch_config, run_root
from embedall_spark.pipeline import EvaluateStep, PublishStep, Step
from embedall_spark.publish import gates
from embedall_spark.sources import input_version, metadata

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from embedall_spark.run_result import Summary

log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("pipeline")(_pipeline)


def _pipeline(
    file: str = typer.Argument(help="YAML file with the steps.", metavar="FILE"),
    step: str | None = typer.Option(None, "--step", help="Run this step alone, such as for a scheduler's task."),
    overrides: list[str] = typer.Option(
        [], "--set", help="Override one key: --set steps.NAME.train.epochs=3. May be repeated.", metavar="A.B=VALUE"
    ),
    summary: str | None = typer.Option(None, "--summary", help="Also write the one-line JSON summary to this file."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check everything, and show what would run; stop."),
    properties: str | None = typer.Option(None, "--properties", help="Spark properties file."),
    master: str | None = options.MASTER,
) -> None:
    """Run the steps of a file in order: several kinds, publish, evaluate. What has not changed is not run again."""
    code = 0

    def work() -> Summary:
        nonlocal code
        since = time.monotonic()
        early_storage.prepare(properties)
        every = pipeline.load(file, overrides)
        steps = pipeline.select(every, step)
        for one in steps:
            _check_files(one)
        settings = Options(properties=properties, master=master, dry_run=dry_run, only_changed=True)

        def timed(one: Step, earlier_changed: bool) -> Summary:
            begun = time.monotonic()
            log.info("step %s: %s", one.name, one.run)
            with progress.activity(one.name):
                own = settings._replace(publishes=pipeline.published_as(one, every))
                return {**_do(one, own, earlier_changed), "seconds": round(time.monotonic() - begun, 1)}

        results, code = pipeline.run(steps, timed, failure.explain)
        _show(steps, results)
        stopped = any(result["status"] == pipeline.STOPPED for result in results.values())
        ended = pipeline.STOPPED if stopped else pipeline.FAILED
        status = ended if code else "checked" if dry_run else "done"
        seconds = round(time.monotonic() - since, 1)
        return {"status": status, "kind": "pipeline", "steps": results, "seconds": seconds}

    run_with_summary("pipeline", summary, work)
    if code:
        raise typer.Exit(code)


def _check_files(step: Step) -> None:
    """Report a wrong evaluation file before Spark starts."""
    if isinstance(step.config, PublishStep | EvaluateStep):
        measured = step.config.evaluate if isinstance(step.config, PublishStep) else step.config
        if measured.analogies is not None:
            benchmark_files.questions(measured.analogies)
        for file in measured.similarity:
            benchmark_files.pairs(file)


def _do(step: Step, settings: Options, earlier_changed: bool) -> Summary:
    """Do one step, unless it has been done, and return its summary."""
    if settings.dry_run and earlier_changed:
        return {"status": "would run", "table": step.table}
    if isinstance(step.config, PublishStep):
        return _publish(_session(settings), step.config, settings.dry_run)
    if isinstance(step.config, EvaluateStep):
        return _evaluate(_session(settings), step.config, settings.dry_run)
    summary = launch_config(step.run, step.config, settings)
    return {**summary, "status": "would run"} if summary["status"] == "checked" else summary


def _session(settings: Options) -> SparkSession:
    return session.get("embedall pipeline", master=settings.master, properties=settings.properties)


def _publish(spark: SparkSession, config: PublishStep, dry_run: bool) -> Summary:
    """Publish a table, or say that it is the published version."""
    target: Summary = {"table": config.to}
    if dry_run:
        current = table_versions.is_published(spark, config.candidate, config.to)
        return {**target, "status": "unchanged" if current else "would run"}
    result = publication.publish(spark, config.candidate, config.to, config, new_space=config.new_space)
    if not result.repeated:
        pictures = result.pictures(f"{config.candidate} beside the version before of {config.to}")
        provenance.log_to_producer(spark, config.candidate, result.metrics, pictures)
    status = "unchanged" if result.repeated else "done"
    return {**target, "status": status, "version": result.version, "metrics": result.metrics}


def _evaluate(spark: SparkSession, config: EvaluateStep, dry_run: bool) -> Summary:
    """Measure a table; what was measured is kept in a manifest as that of a run."""
    version = _version(spark, config)
    key = hashlib.sha256(f"{version} {config.model_dump_json()}".encode()).hexdigest()[:12]
    root, run_id = run_root(Output(table=config.table, run_root=config.run_root)), f"evaluate-{key}"
    done = run_manifest.finished(root, run_id)
    if done is not None:
        return {**done["summary"], "status": "unchanged"}
    if dry_run:
        return {"table": config.table, "status": "would run"}
    folder, _ = run_manifest.begin(root, pipeline.EVALUATE, config, version, run_id)
    vectors = table_snapshot.read_vectors(spark, config.table, tables.version(spark, config.table))
    figures: dict[str, float] = {}
    if config.analogies is not None or config.similarity:
        figures |= measure_words(vectors, config.analogies, config.similarity, config.restrict_vocab)
    if config.labels is not None:
        figures |= measure_labels(vectors, metadata.read(spark, config.labels, vectors))
    provenance.log_to_producer(spark, config.table, figures)
    if low := gates.below(figures, config.floors):
        raise QualityGateFailed(f"{config.table}: {'; '.join(low)} (floors)")
    summary: Summary = {"status": "done", "table": config.table, "metrics": figures}
    run_manifest.note(folder, status="done", summary=summary)
    return summary


def _version(spark: SparkSession, config: EvaluateStep) -> str:
    """Return the version of a table and of the files that measure it."""
    labels = config.labels.path if config.labels is not None else None
    inputs = [(config.table, "delta"), *((file, "text") for file in [config.analogies, *config.similarity])]
    inputs += [] if labels is None else [(labels, metadata.format_of(labels)[0])]
    return "+".join(
        input_version.storage_of(path, format).version(spark) for path, format in inputs if path is not None
    )


def _show(steps: list[Step], results: dict[str, Any]) -> None:
    """Print a row per step."""
    rows: list[tuple[str, ...]] = [("step", "runs", "status", "seconds", "result")]
    for step in steps:
        result = results[step.name]
        figures = [f"{name} {value:.4g}" for name, value in list(result.get("metrics", {}).items())[:3]]
        facts = [f"version {result['version']}"] if "version" in result else []
        facts += [console.count(result["rows"], "row")] if "rows" in result else []
        what = result.get("message") or ", ".join([result.get("table", step.table), *facts, *figures])
        rows.append((step.name, step.run, result["status"], str(result.get("seconds", "-")), console.printable(what)))
    console.table(rows)
