"""The command that shows vectors in TensorBoard's embedding projector."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
import yaml
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import config, files, run_manifest, schemas, tables
from embedall_spark.cli import similar
from embedall_spark.cli.shared import console, provenance
from embedall_spark.errors import ConfigError, EmbedallError, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from embedall_spark.sources.image_limits import Limits
    from embedall_spark.visualize.projector import Tensor

log = logging.getLogger(__name__)

_NAMES = typer.Argument(None, help="Tables of vectors; each becomes a space of its own.", metavar="[TABLE...]")
_CONFIG = "projector_config.pbtxt"


class _Options(NamedTuple):
    """What the command line says of the tables."""

    n: int
    ids: list[str] | None
    known: list[str]
    id_column: str
    columns: list[str]
    images: list[str]
    together: bool


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("projector")(_projector)


def _projector(
    names: list[str] = _NAMES,
    n: int = typer.Option(10_000, "-n", min=1, help="How many rows: the most frequent, uncounted ones by a hash."),
    ids: list[str] = typer.Option([], "--id", help="Show this id; may be given often.", metavar="ID"),
    id_file: Path | None = typer.Option(None, "--ids", help="Show the ids in a file, one a line.", metavar="FILE"),
    known: list[str] = typer.Option(
        [],
        "--names",
        help="File (.csv, .tsv, .json, .parquet) or table of titles and the like; may be given often. Default: "
        "TABLE_metadata.",
        metavar="TABLE_OR_FILE",
    ),
    id_column: str = typer.Option("id", "--id-column", help="With --names: the column of ids."),
    columns: list[str] = typer.Option(
        [], "--show", help="With --names: a column to show; may be given often. Default: all.", metavar="COLUMN"
    ),
    images: list[str] = typer.Option(
        [],
        "--images",
        help="Where the pictures of ids are: a folder, a table of pictures, one of vectors of 'embedall images', or "
        "that command's YAML file; may be given often. Default: TABLE, where that command made it or a "
        "latent one's left side.",
        metavar="FOLDER_OR_TABLE",
    ),
    together: bool = typer.Option(
        False, "--together", help="Put the tables into one space, such as both latent sides."
    ),
    output: str = typer.Option("projector-output", "--output", help="Folder to write; without TABLE, to open."),
    look: bool = typer.Option(False, "--open", help="Start TensorBoard on the folder; Ctrl-C ends it."),
    port: int = typer.Option(0, "--port", min=0, max=65_535, help="With --open: 0 takes a free one."),
    master: str | None = similar.MASTER,
) -> None:
    """Write vectors, titles and pictures for TensorBoard's embedding projector, and open it."""
    if not names and not look:
        raise ConfigError("nothing to do: give TABLE to write a space, --open to look at a folder, or both")
    if look:
        _check_viewer(output)
    if names:
        chosen = _ids(ids, id_file)
        spark, _ = similar.open_table(names[0], master)
        _write(spark, names, _Options(n, chosen, known, id_column, columns, images, together), output.rstrip("/"))
        if look:
            # TensorBoard may run for hours.
            spark.stop()
    if look:
        _serve(output, port)
    else:
        console.console().print(f"look at it with: embedall projector --open --output {output}")


def _ids(given: list[str], file: Path | None) -> list[str] | None:
    """Return the ids to show, from the command line and a file; None: none are named."""
    if file is None:
        return given or None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--ids {file}: cannot be read ({error}); need a text file in UTF-8, an id a line") from None
    if found := [*given, *filter(None, lines)]:
        return found
    raise ConfigError(f"--ids {file}: names no id; need one a line")


def _write(spark: SparkSession, names: list[str], asked: _Options, output: str) -> None:
    # Only here: it needs what --open alone does not.
    from embedall_spark.visualize import projector

    for name, content in projector.contents(_tensors(spark, names, asked)):
        files.write_bytes(f"{output}/{name}", content)


def _tensors(spark: SparkSession, names: list[str], asked: _Options) -> Iterator[Tensor]:
    """Make a space of each table, or of all together, as it is asked for; tell of it when it is made."""
    from embedall_spark.visualize import projector, projector_format

    spaces = {
        projector_format.name(_last(name)): schemas.conform(tables.read(spark, name), schemas.VECTORS) for name in names
    }
    if len(spaces) < len(names):
        raise ConfigError(
            f"{', '.join(names)}: two end in the same name, which their spaces get; write them to two folders"
        )
    if asked.together:
        sides = [side.withColumn("kind", F.lit(name)) for name, side in spaces.items()]
        spaces = {"_".join(spaces): functools.reduce(DataFrame.unionByName, sides)}
    pictures = _pictures(spark, names, asked)
    known = _known(spark, names, asked)
    for name, vectors in spaces.items():
        options: dict[str, Any] = {"name": name, "ids": asked.ids, "known": known}
        if pictures is not None:
            options |= {"pictures": pictures[0], "limits": pictures[1]}
        made = projector.tensor(vectors, asked.n, **options)
        sheet = f", pictures of {made.tile} pixels" if made.tile else ""
        console.console().print(
            f"{made.name}: {console.count(made.rows, 'point')} of {made.vector_size:,} numbers{sheet}"
        )
        yield made


def _known(spark: SparkSession, names: list[str], asked: _Options) -> DataFrame | None:
    """Return what is known of ids, as text; by default what lies beside the tables."""
    from embedall_spark.search import metadata
    from embedall_spark.visualize import projector

    given = asked.known or [beside for name in names if (beside := provenance.metadata(spark, name)) is not None]
    found = [projector.as_text(metadata.read(spark, path, asked.id_column)) for path in given]
    if not found:
        return None
    known = functools.reduce(functools.partial(DataFrame.unionByName, allowMissingColumns=True), found)
    if missing := [column for column in asked.columns if column not in known.columns]:
        raise ConfigError(f"--show {', '.join(missing)}: no such column (columns: {', '.join(known.columns)})")
    return known.select("id", *asked.columns) if asked.columns else known


def _pictures(spark: SparkSession, names: list[str], asked: _Options) -> tuple[DataFrame, Limits] | None:
    """Return IMAGES of the pictures and the limits within which they are decoded; None where there are none."""
    from embedall_spark.sources import images
    from embedall_spark.sources.image_config import ImagesConfig
    from embedall_spark.sources.image_limits import Limits

    found, limits = [], Limits()
    for place in asked.images or names:
        given = _input(spark, place)
        if given is None and not asked.images:
            if (space := _of_space(spark, place)) is not None:
                found.append(space[0])
                limits = space[1]
            continue
        if given is not None:
            source = config.parse(ImagesConfig, given)
            limits = source.limits
            found.append(images.read(spark, source))
        else:
            found.append(schemas.conform(tables.read(spark, place), schemas.IMAGES))
    return (functools.reduce(DataFrame.unionByName, found), limits) if found else None


def _of_space(spark: SparkSession, table: str) -> tuple[DataFrame, Limits] | None:
    """Return the pictures of a latent space's left side; None where the table is none, or that side no pictures."""
    if run_manifest.producer_of(spark, table).get("kind") != "latent":
        return None
    try:
        return provenance.pictures(spark, table, None, "{id}")
    except EmbedallError as error:
        log.warning("no pictures are shown (give --images): %s", error)
        return None


def _input(spark: SparkSession, place: str) -> dict[str, Any] | None:
    """Return the configuration of a source of pictures; None where the place is a table that no such run has made."""
    if place.endswith((".yaml", ".yml")):
        return _section(place)
    if files.is_path(place) and not files.exists(f"{place}/_delta_log"):
        return {"path": place}
    commits = tables.history(spark, place).where("metadata IS NOT NULL").orderBy(F.desc("version"))
    made = [json.loads(row["metadata"]) for row in commits.select("metadata").limit(100).collect()]
    folder = next((one["run_folder"] for one in made if one.get("kind") == "images" and "run_folder" in one), None)
    return None if folder is None else _section(f"{folder}/config.yaml")


def _section(path: str) -> dict[str, Any]:
    """Return the section ``input`` of a configuration."""
    try:
        found = yaml.safe_load(files.read_bytes(path))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give --images a folder or a YAML file") from None
    section = found.get("input") if isinstance(found, dict) else None
    if isinstance(section, dict):
        return section
    raise ConfigError(f"{path}: has no section input; need a configuration of embedall images")


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/" if files.is_path(name) else ".")[2]


def _check_viewer(output: str) -> None:
    """Refuse to open what cannot be shown, before anything is written."""
    if importlib.util.find_spec("tensorboard") is None:
        raise SetupError("TensorBoard is not installed; pip install 'embedall_spark[projector]'")
    if not files.is_local(output):
        raise ConfigError(f"--output {output}: --open needs a folder on this machine; copy the files to one")


def _serve(output: str, port: int) -> None:
    """Show a folder in TensorBoard until the user ends it."""
    if not files.exists(f"{output}/{_CONFIG}"):
        raise ConfigError(f"{output}: holds no {_CONFIG}; write it first: embedall projector TABLE --output {output}")
    from tensorboard import program
    from tensorboard.program import TensorBoardServerException

    board = program.TensorBoard()
    # The fast reader is for event files, and another program.
    board.configure(argv=["tensorboard", "--logdir", output, "--port", str(port), "--load_fast=false"])
    try:
        address = board.launch()
    except TensorBoardServerException as error:
        raise SetupError(f"TensorBoard does not start: {error}; give another --port") from None
    console.console().print(f"TensorBoard shows it at {address}#projector (Ctrl-C ends it)")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.console().print("\nTensorBoard has ended")
