"""Commands that run things: every kind, the demo, doctor, clean, config."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from embedall_spark import config as configs
from embedall_spark import doctor, files, kinds, runs
from embedall_spark.launch import Options, launch

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_CONFIG = typer.Option(None, "--config", help="YAML file; 'embedall config KIND' lists its keys.")
_SET = typer.Option(
    [], "--set", help="Override one key: --set train.epochs=3. May be given often.", metavar="A.B=VALUE"
)
_RUN_ID = typer.Option(None, "--run-id", help="Name of the run, such as a scheduler's own; resumed where it exists.")
_SUMMARY = typer.Option(None, "--summary", help="Also write the one-line JSON summary to this file.")
_DRY_RUN = typer.Option(False, "--dry-run", help="Check configuration, input and resources; estimate the cost; stop.")
_PROPERTIES = typer.Option(None, "--properties", help="Spark properties file; default: the package's spark-local.conf.")
_MASTER = typer.Option(None, "--master", help="Spark master, such as local[4]; default: the properties file's.")


def register(app: typer.Typer) -> None:
    """Add the commands to the application; a kind's command comes from its file in kinds/."""
    for name in kinds.names():
        app.command(name, help=f"Embed {name}: run it, or go on with a run that was killed.")(_kind(name))
    app.command("demo")(_demo)
    app.command("doctor")(_doctor)
    app.command("clean")(_clean)
    app.command("config")(_config)


def show_summary(summary: dict[str, Any], file: Path | None) -> None:
    """Print a run's one-line JSON summary, the last line of a job's output."""
    line = json.dumps(summary, ensure_ascii=False)
    if file is not None:
        file.write_text(line + "\n", encoding="utf-8")
    typer.echo(line)


def _kind(name: str) -> Callable[..., None]:
    def command(
        config: str | None = _CONFIG,
        overrides: list[str] = _SET,
        run_id: str | None = _RUN_ID,
        summary: Path | None = _SUMMARY,
        dry_run: bool = _DRY_RUN,
        properties: str | None = _PROPERTIES,
        master: str | None = _MASTER,
    ) -> None:
        try:
            found = launch(name, config, overrides, Options(run_id, properties, master, dry_run))
        except Exception as error:
            failed = {"status": "failed", "kind": name, "error": type(error).__name__, "message": str(error)[:2000]}
            show_summary(failed, summary)
            raise
        show_summary(found, summary)

    return command


def _demo(
    folder: str = typer.Option("demo-output", help="Where tables, pictures and the MLflow store go."),
    master: str | None = _MASTER,
) -> None:
    """Embed the docstrings of the installed Python packages and show what came out."""
    # Only here: the demo needs what the other commands do not.
    from embedall_spark.cli import demo

    demo.run(folder, master)


def _doctor() -> None:
    """Check Python, Java, Spark, Delta, memory, disk and the MLflow store; resolve Delta's jars."""
    console, bad = Console(), 0
    for check in doctor.checks():
        mark = "[green]ok[/]  " if check.ok else "[red]FAIL[/]"
        console.print(f"{mark} {check.name}: {check.detail}", highlight=False)
        if not check.ok:
            bad += 1
            console.print(f"     {check.fix}", highlight=False)
    if bad:
        raise typer.Exit(1)


def _clean(
    folder: str = typer.Argument(help="The runs' folder (output.run_root; .runs beside the table)."),
    keep: int = typer.Option(..., "--keep", min=0, help="Leave the newest runs as they are."),
) -> None:
    """Remove stages, checkpoints and spools of old runs; tables and manifests stay."""
    cleaned = runs.clean(folder.rstrip("/"), keep)
    swept = files.sweep("spool")
    for name in cleaned:
        typer.echo(f"removed stages and checkpoints of {name}")
    typer.echo(f"{len(cleaned)} run(s) cleaned, {swept} spool(s) of dead workers removed")


def _config(
    kind: str = typer.Argument(help="A kind, such as words."),
    yaml: bool = typer.Option(False, "--yaml", help="Print as YAML to start from."),
) -> None:
    """Show every option of a kind with its default."""
    if kind not in kinds.names():
        raise typer.BadParameter(f"{kind}: unknown kind (known: {', '.join(kinds.names())})")
    options = list(configs.options(kinds.load(kind).Config))
    if yaml:
        typer.echo(configs.template(options))
        return
    table = Table("option", "type", "default", "meaning", box=None, pad_edge=False)
    for option in options:
        table.add_row(option.path, option.kind, option.default, option.description)
    Console().print(table)
