"""The command that shows vectors in TensorBoard's embedding projector."""

from __future__ import annotations

import functools
import importlib.util
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
import yaml
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import config, files, run_manifest, schemas, tables
from embedall_spark.cli.shared import console, options, provenance, table_snapshot
from embedall_spark.errors import ConfigError, EmbedallError, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from embedall_spark.sources.image_limits import Limits
    from embedall_spark.visualize.projector import Tensor

log = logging.getLogger(__name__)

_TABLES = typer.Argument(None, help="Tables of vectors; each becomes a space of its own.", metavar="[TABLE...]")
_CONFIG = "projector_config.pbtxt"


class _Options(NamedTuple):
    """The options that concern the tables."""

    n: int
    ids: list[str] | None
    names: list[str]
    id_column: str
    columns: list[str]
    images: list[str]
    together: bool


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("projector")(_projector)


def _projector(
    tables_shown: list[str] = _TABLES,
    n: int = typer.Option(10_000, "-n", min=1, help="How many rows: the most frequent ones, uncounted ones by a hash."),
    ids: list[str] = typer.Option([], "--id", help="Show this id; may be repeated.", metavar="ID"),
    id_file: Path | None = typer.Option(None, "--ids", help="Show the ids in a file, one per line.", metavar="FILE"),
    names: list[str] = typer.Option(
        [],
        "--names",
        help="File (.csv, .tsv, .json, .parquet) or table of titles and other metadata; may be repeated. Default: "
        "TABLE_metadata.",
        metavar="TABLE_OR_FILE",
    ),
    id_column: str = options.ID_COLUMN,
    columns: list[str] = typer.Option(
        [],
        "--show",
        help="With --names: columns to show, such as label,tags; may be repeated. Default: all.",
        metavar="COLUMN[,COLUMN...]",
    ),
    images: list[str] = typer.Option(
        [],
        "--images",
        help="Where the pictures of the ids are: a folder, a table of pictures, a table made by 'embedall images', or "
        "the YAML file of that command; may be repeated. Default: where the run that made TABLE read them.",
        metavar="FOLDER_OR_TABLE",
    ),
    together: bool = typer.Option(
        False, "--together", help="Put the tables into one space, such as both latent sides."
    ),
    output: str = typer.Option("projector-output", "--output", help="Folder to write; without TABLE, to open."),
    show: bool = typer.Option(False, "--open", help="Start TensorBoard on the folder; Ctrl-C ends it."),
    port: int = typer.Option(0, "--port", min=0, max=65_535, help="With --open: 0 takes a free one."),
    master: str | None = options.MASTER,
) -> None:
    """Write vectors, titles and pictures for TensorBoard's embedding projector, and open it."""
    if not tables_shown and not show:
        raise ConfigError("nothing to do: give TABLE to write its files, --open to show a folder, or both")
    if show:
        _check_viewer(output)
    if tables_shown:
        shown = _Options(n, _ids(ids, id_file), names, id_column, options.split_columns(columns), images, together)
        spark, _ = table_snapshot.open_table(tables_shown[0], master)
        _write(spark, tables_shown, shown, output.rstrip("/"))
        if show:
            # TensorBoard may run for hours.
            spark.stop()
    if show:
        _serve(output, port)
    else:
        console.console().print(f"show it with: embedall projector --open --output {output}")


def _ids(ids: list[str], file: Path | None) -> list[str] | None:
    """Return the ids to show, from the command line and a file; None if none are named."""
    if file is None:
        return ids or None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--ids {file}: cannot be read ({error}); need a text file in UTF-8, one id per line"
        ) from None
    if all_ids := [*ids, *filter(None, lines)]:
        return all_ids
    raise ConfigError(f"--ids {file}: the file is empty; need one id per line")


def _write(spark: SparkSession, names: list[str], options: _Options, output: str) -> None:
    # Imported here, since --open alone needs no Spark.
    from embedall_spark.visualize import projector

    for name, content in projector.contents(_tensors(spark, names, options)):
        files.write_bytes(f"{output}/{name}", content)


def _tensors(spark: SparkSession, names: list[str], options: _Options) -> Iterator[Tensor]:
    """Yield a tensor for each table, or one for all of them, and print its size."""
    from embedall_spark.visualize import projector, projector_format

    spaces = {
        projector_format.name(_last_part(name)): schemas.conform(tables.read(spark, name), schemas.VECTORS)
        for name in names
    }
    if len(spaces) < len(names):
        raise ConfigError(
            f"{', '.join(names)}: two end in the same name, by which the projector tells them apart; write them to two "
            "folders"
        )
    if options.together:
        sides = [side.withColumn("kind", F.lit(name)) for name, side in spaces.items()]
        spaces = {"_".join(spaces): functools.reduce(DataFrame.unionByName, sides)}
    pictures, limits = _pictures(spark, names, options.images) or (None, None)
    metadata = _metadata(spark, names, options)
    for name, vectors in spaces.items():
        tensor = projector.tensor(
            vectors, options.n, name=name, ids=options.ids, metadata=metadata, pictures=pictures, limits=limits
        )
        sheet = f", pictures of {tensor.tile} pixels" if tensor.tile else ""
        points = console.count(tensor.rows, "point")
        console.console().print(f"{tensor.name}: {points} of {tensor.vector_size:,} dimensions{sheet}")
        yield tensor


def _metadata(spark: SparkSession, names: list[str], options: _Options) -> DataFrame | None:
    """Return the metadata of ids, as text; by default those beside the tables."""
    from embedall_spark.sources import metadata as metadata_source
    from embedall_spark.visualize import projector

    paths = options.names or [path for name in names if (path := provenance.metadata(spark, name)) is not None]
    sources = [metadata_source.Names(path=path, id=options.id_column) for path in paths]
    parts = [projector.as_text(metadata_source.read_all(spark, source, options.columns)) for source in sources]
    if not parts:
        return None
    union = functools.reduce(functools.partial(DataFrame.unionByName, allowMissingColumns=True), parts)
    if missing := [column for column in options.columns if column not in union.columns]:
        raise ConfigError(f"--show {', '.join(missing)}: no such column (columns: {', '.join(union.columns)})")
    return union.select("id", *options.columns) if options.columns else union


def _pictures(spark: SparkSession, names: list[str], sources: list[str]) -> tuple[DataFrame, Limits] | None:
    """Return IMAGES of the tables' ids, and which are too large to be decoded; None if there are no pictures."""
    if sources:
        parts = [_images(spark, source) for source in sources]
    else:
        parts = [part for name in names if (part := _producers_images(spark, name)) is not None]
    return (functools.reduce(DataFrame.unionByName, [rows for rows, _ in parts]), parts[-1][1]) if parts else None


def _producers_images(spark: SparkSession, table: str) -> tuple[DataFrame, Limits] | None:
    """Return the pictures that the run that made a table read; None, with a warning, if they are gone."""
    if run_manifest.producer_of(spark, table).get("kind") not in ("images", "latent"):
        return None
    try:
        return provenance.pictures(spark, table, None, "{id}")
    except EmbedallError as error:
        log.warning("no pictures are shown: %s", error)
        return None


def _images(spark: SparkSession, source: str) -> tuple[DataFrame, Limits]:
    """Return the pictures of --images: a configuration, a folder, or a table of pictures or of their vectors."""
    from embedall_spark.sources import images
    from embedall_spark.sources.image_config import ImagesConfig
    from embedall_spark.sources.image_limits import Limits

    is_file = source.endswith((".yaml", ".yml"))
    if is_file or (files.is_path(source) and not files.exists(f"{source}/_delta_log")):
        section = config.parse(ImagesConfig, _input_section(source) if is_file else {"path": source})
        return images.read(spark, section), section.limits
    if run_manifest.producer_of(spark, source).get("kind") == "images":
        return provenance.pictures(spark, source, None, "{id}")
    return schemas.conform(tables.read(spark, source), schemas.IMAGES), Limits()


def _input_section(path: str) -> dict[str, Any]:
    """Return the section ``input`` of a configuration file."""
    try:
        content = yaml.safe_load(files.read_bytes(path))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give --images a folder or a YAML file") from None
    section = content.get("input") if isinstance(content, dict) else None
    if isinstance(section, dict):
        return section
    raise ConfigError(f"{path}: has no section input; need a configuration of embedall images")


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/" if files.is_path(name) else ".")[2]


def _check_viewer(output: str) -> None:
    """Raise an error before anything is written if --open cannot work."""
    if importlib.util.find_spec("tensorboard") is None:
        raise SetupError("TensorBoard is not installed; pip install 'embedall_spark[projector]'")
    if not files.is_local(output):
        raise ConfigError(f"--output {output}: --open needs a folder on this machine; copy the files to one")


def _serve(output: str, port: int) -> None:
    """Show a folder in TensorBoard until Ctrl-C."""
    if not files.exists(f"{output}/{_CONFIG}"):
        raise ConfigError(f"{output}: holds no {_CONFIG}; write it first: embedall projector TABLE --output {output}")
    from tensorboard import program
    from tensorboard.program import TensorBoardServerException

    board = program.TensorBoard()
    # The fast loader is a separate program, and reads only event files.
    board.configure(argv=["tensorboard", "--logdir", output, "--port", str(port), "--load_fast=false"])
    try:
        address = board.launch()
    except TensorBoardServerException as error:
        raise SetupError(f"TensorBoard does not start: {error}; give another --port") from None
    console.console().print(f"TensorBoard shows the points at {address}#projector (Ctrl-C ends it)")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.console().print("\nTensorBoard has ended")
