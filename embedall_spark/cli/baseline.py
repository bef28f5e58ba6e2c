"""The baseline command: how alike two trainings are that differ by the seed alone, which is what a gate can ask for."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import typer

from embedall_spark import config as configs
from embedall_spark import kinds, publication, session, tables
from embedall_spark.cli.shared import options
from embedall_spark.errors import ConfigError
from embedall_spark.launch import Options, launch
from embedall_spark.publish import comparison
from embedall_spark.schemas import BASELINE, VECTORS, conform

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("baseline")(_baseline)


def _baseline(
    kind: str = typer.Argument(help="Kind that trains: words, sequences or nodes."),
    source: str | None = typer.Argument(None, metavar="INPUT", help="Path of the input; wins over input.path."),
    to: str = typer.Option(..., "--to", help="Published table whose gate is to read the baseline.", metavar="TABLE"),
    config: str | None = typer.Option(None, "--config", help="YAML file of the runs that are published."),
    overrides: list[str] = typer.Option([], "--set", help="A key of the YAML; may be repeated."),
    master: str | None = options.MASTER,
) -> None:
    """Train twice, with two seeds, and keep the neighbors' overlap where the gate of the published table reads it."""
    settings = [*overrides, *([] if source is None else [f"input.path={json.dumps(source)}"])]
    names = [_train(kind, config, settings, to, number, master) for number in range(2)]
    spark = session.get("embedall baseline", master=master)
    overlap, error = _measure(spark, names, kind, to)
    typer.echo(f"neighbors that stay, of 10: {overlap:.3f} (standard error {error:.3f})")
    typer.echo(f"{publication.baseline_table(to)}: the gate of {to} asks for {overlap - 3 * error:.3f}")


def _train(kind: str, config: str | None, settings: list[str], to: str, number: int, master: str | None) -> str:
    """Return the table of a run with another seed; a killed one is resumed.

    Raises:
        ConfigError: the kind has no seed.
    """
    name = f"{to.rstrip('/')}_seed_{number}"
    # A publication by the run would replace what others read, and a start would make both alike.
    own = [f"output.table={json.dumps(name)}", "output.publish=null", "train.start=null"]
    if kind not in ("words", "sequences", "nodes"):
        raise ConfigError(f"{kind}: has no training with a seed; known: words, sequences, nodes")
    chosen: Any = configs.load(kinds.load(kind).Config, config, [*settings, *own])
    launch(kind, config, [*settings, *own, f"train.seed={chosen.train.seed + number}"], Options(master=master))
    return name


def _measure(spark: SparkSession, names: list[str], kind: str, to: str) -> tuple[float, float]:
    """Return the overlap of two tables and its standard error, and write them beside the published table."""
    first, second = (conform(tables.read(spark, name), VECTORS) for name in names)
    with comparison.compare(second, first, rotate=False) as change:
        drift = change.drift
    versions = [tables.version(spark, name) for name in names]
    run_id = f"baseline-{hashlib.sha256(json.dumps([names, versions]).encode()).hexdigest()[:12]}"
    rows = spark.createDataFrame([(drift.overlap, drift.overlap_error, drift.frequent.num_rows, kind)], BASELINE)
    tables.write(
        spark, rows, publication.baseline_table(to), BASELINE, mode="overwrite", run_id=run_id,
        comment="Overlap of the neighbors of two runs that differ by the seed",
    )  # fmt: skip
    return drift.overlap, drift.overlap_error
