"""The command that trains a network on labeled pictures, to embed others with."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import typer

from embedall_spark import config as configs
from embedall_spark import config_help, early_storage, extras, files, path_checks
from embedall_spark.cli import run_kind as running
from embedall_spark.launch import Options, start, take_over
from embedall_spark.run_result import Outcome, complete, write_rejects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedall_spark.run_result import Summary

log = logging.getLogger(__name__)

_KIND = "backbone"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train-backbone")(_train_backbone)


def _train_backbone(
    config: str | None = typer.Option(None, "--config", help="YAML file, such as conf/train-backbone.yaml."),
    overrides: list[str] = typer.Option(
        [], "--set", help="Override one key: --set train.epochs=3. May be repeated.", metavar="A.B=VALUE"
    ),
    run_id: str | None = typer.Option(None, "--run-id", help="Name of the run; resumed if it exists."),
    summary: str | None = typer.Option(None, "--summary", help="Also write the one-line JSON summary to this file."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check configuration and input; count the pictures; stop."),
    properties: str | None = typer.Option(None, "--properties", help="Spark properties file."),
    master: str | None = typer.Option(None, "--master", help="Spark master, such as local[4]."),
    yaml: bool = typer.Option(False, "--yaml", help="Print every key with its default as YAML to start from; stop."),
) -> None:
    """Train a network on labeled pictures, or resume; its file is a backbone: name trained, weights FILE."""
    if yaml:
        extras.check(extras.IMAGES, "embedall train-backbone")
        from embedall_spark.images.train_backbone import Config

        typer.echo(config_help.template(config_help.options(Config)))
        return
    running.run_with_summary(
        _KIND, summary, lambda: train(config, overrides, Options(run_id, properties, master, dry_run))
    )


def train(path: str | None, overrides: Sequence[str] = (), options: Options = Options()) -> Summary:  # noqa: B008
    """Train a network and return a summary: status, run_id, file, classes, rejected, metrics, seconds, ...

    A killed training resumes after its last finished epoch; a finished one is not repeated.

    Raises:
        EmbedallError: see errors.py; the class determines the exit code.
    """
    extras.check(extras.IMAGES, "embedall train-backbone")
    # Imported here: torch takes seconds, which other commands need not wait.
    from embedall_spark.images import train_backbone
    from embedall_spark.sources import images, input_version

    since = time.monotonic()
    early_storage.prepare(options.properties)
    config = configs.load(train_backbone.Config, path, overrides)
    output = config.output.as_output
    path_checks.check_run_id(options.run_id)
    spark = start("embedall train-backbone", output, options)
    extras.check_hosts(spark, extras.IMAGES, "embedall train-backbone")
    pictures, version = images.read(spark, config.input), input_version.version(spark, config.input)
    if options.dry_run:
        counts = train_backbone.estimate(pictures, config.train)
        return {"status": "checked", "kind": _KIND, "file": config.output.file, "input": version, **counts}
    taken = take_over(spark, _KIND, config, output, version, options.run_id)
    if isinstance(taken, dict):
        return taken
    run, tracked = taken

    def work() -> Outcome:
        result = train_backbone.train(run, pictures, config.train, config.input.limits)
        run.check_ownership()
        rejects = write_rejects(run, {"kind": _KIND, "mlflow_run_id": tracked.id, "run_folder": run.folder})
        files.write_bytes(config.output.file, result.content)
        return Outcome({"file": config.output.file, "classes": result.classes}, rejects, result.figures)

    return complete(run, tracked, _KIND, since, work)
