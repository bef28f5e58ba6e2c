"""Commands that run things: every kind, the demo, doctor, clean, config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from embedall_spark import config_help, credentials, doctor, early_storage, files, filesystems, kinds, run_manifest
from embedall_spark.cli.shared import console, failure
from embedall_spark.errors import ConfigError
from embedall_spark.launch import Options, launch

if TYPE_CHECKING:
    from collections.abc import Callable

_INPUT = typer.Argument(
    None, metavar="INPUT", show_default=False, help="Path of the input; wins over input.path in the file."
)
_OUTPUT = typer.Argument(
    None, metavar="OUTPUT", show_default=False, help="Table of the vectors; wins over output.table in the file."
)
_CONFIG = typer.Option(None, "--config", help="YAML file; 'embedall config KIND' lists its keys.")
_SET = typer.Option([], "--set", help="Override one key: --set train.epochs=3. May be repeated.", metavar="A.B=VALUE")
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


def run_with_summary(kind: str, file: str | None, work: Callable[[], dict[str, Any]]) -> None:
    """Do the work and show its summary, or that of its failure, and then end the command with its exit code.

    Raises:
        ConfigError: there is no folder for the file.
    """
    local = None if file is None else filesystems.local_path(file)
    if local is not None and not Path(local).parent.is_dir():
        raise ConfigError(f"--summary {file}: there is no folder {Path(local).parent}; make it first")
    try:
        result = work()
    except (Exception, KeyboardInterrupt) as error:
        code = failure.explain(error)
        status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        message = credentials.mask(str(error))[:2000] or status
        show_summary({"status": status, "kind": kind, "error": type(error).__name__, "message": message}, file)
        raise typer.Exit(code) from None
    show_summary(result, file)


def show_summary(summary: dict[str, Any], file: str | None) -> None:
    """Print a run's one-line JSON summary, the last line of a job's output."""
    line = json.dumps(summary, ensure_ascii=False)
    if file is not None:
        local = filesystems.local_path(file)
        if local is None:
            files.write_bytes(file, f"{line}\n".encode())
        else:
            Path(local).write_text(f"{line}\n", encoding="utf-8")
    typer.echo(line)


def _kind(name: str) -> Callable[..., None]:
    def command(
        source: str | None = _INPUT,
        table: str | None = _OUTPUT,
        config: str | None = _CONFIG,
        overrides: list[str] = _SET,
        run_id: str | None = _RUN_ID,
        summary: str | None = _SUMMARY,
        dry_run: bool = _DRY_RUN,
        properties: str | None = _PROPERTIES,
        master: str | None = _MASTER,
    ) -> None:
        options = Options(run_id, properties, master, dry_run)
        run_with_summary(
            name, summary, lambda: launch(name, config, _overrides(name, source, table, config, overrides), options)
        )

    return command


def _overrides(kind: str, source: str | None, table: str | None, config: str | None, options: list[str]) -> list[str]:
    """Return the two arguments as overrides, and behind them those of ``--set``.

    Raises:
        ConfigError: there is no file, and an argument is neither given nor set.
    """
    arguments = {"INPUT": ("input.path", source), "OUTPUT": ("output.table", table)}
    missing = [
        name
        for name, (key, value) in arguments.items()
        if config is None and value is None and not any(text.startswith(f"{key}=") for text in options)
    ]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} missing; give both arguments (embedall {kind} INPUT OUTPUT), or a YAML file "
            f"(--config FILE; 'embedall config {kind} --yaml' prints one to start from)"
        )
    # As JSON, which YAML reads as a string even where the text looks like a number.
    return [f"{key}={json.dumps(value)}" for key, value in arguments.values() if value is not None] + options


def _demo(
    folder: str = typer.Option("demo-output", help="Where tables, pictures and the MLflow store go."),
    only: str | None = typer.Option(None, "--kinds", help="Only these kinds: words,images.", metavar="A,B"),
    master: str | None = _MASTER,
) -> None:
    """Embed words, calls, modules and pictures of the installed Python packages and show what came out."""
    # Only here: the demo needs what the other commands do not.
    from embedall_spark.cli import demo

    selected = set(demo.PARTS) if only is None else set(only.split(","))
    if unknown := selected - demo.PARTS.keys():
        raise ConfigError(f"--kinds {only}: the demo has no kind {min(unknown)} (known: {', '.join(demo.PARTS)})")
    demo.run(folder, master, selected)


def _doctor() -> None:
    """Check Python, Java, Spark, Delta, memory, disk and the MLflow store; resolve Delta's jars."""
    out, bad = console.console(), 0
    for check in doctor.checks():
        mark = ("ok  ", "green") if check.ok else ("FAIL", "red")
        out.print(Text.assemble(mark, f" {check.name}: {check.detail}"))
        if not check.ok:
            bad += 1
            out.print(f"     {check.fix}")
    if bad:
        raise typer.Exit(1)


def _clean(
    folder: str = typer.Argument(help="The runs' folder (output.run_root; .runs beside the table)."),
    keep: int = typer.Option(..., "--keep", min=0, help="Leave the newest runs as they are."),
    properties: str | None = typer.Option(None, "--properties", help="Spark properties file, for storage settings."),
) -> None:
    """Remove stages, checkpoints, spools and kept inputs of old runs; tables and manifests stay."""
    early_storage.prepare(properties)
    folder = folder.rstrip("/") or "/"
    if not files.exists(folder):
        raise ConfigError(
            f"{folder}: no such folder; give output.run_root, or where that is unset .runs beside the table"
        )
    if files.exists(f"{folder}/.runs"):
        raise ConfigError(f"{folder}: holds no runs itself; give {folder}/.runs")
    cleaned, kept = run_manifest.clean(folder, keep)
    swept = files.sweep("spool")
    for name in cleaned:
        typer.echo(f"removed stages and checkpoints of {name}")
    for name in kept:
        typer.echo(f"removed {name}, which none of the newest runs of its kind has used")
    typer.echo(f"{console.count(len(cleaned), 'run')} cleaned, {console.count(swept, 'spool')} of dead workers removed")


def _config(
    kind: str = typer.Argument(help="A kind, such as words."),
    yaml: bool = typer.Option(False, "--yaml", help="Print as YAML to start from."),
) -> None:
    """Show every option of a kind with its default."""
    if kind not in kinds.names():
        raise typer.BadParameter(f"{kind}: unknown kind (known: {', '.join(kinds.names())})")
    options = list(config_help.options(kinds.load(kind).Config))
    if yaml:
        typer.echo(config_help.template(options))
        return
    console.options(options)
