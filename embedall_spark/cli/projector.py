"""The command that shows vectors in TensorBoard's embedding projector."""

from __future__ import annotations

import functools
import importlib.util
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import typer
import yaml
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import config, files, run_manifest, schemas, tables
from embedall_spark.cli.shared import console, options, provenance, table_snapshot
from embedall_spark.errors import ConfigError, EmbedallError, NeedsSpark, SetupError
from embedall_spark.search import exact
from embedall_spark.sources import local_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from embedall_spark.cli.shared.table_snapshot import TableSnapshot
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
    limit: float = options.LIMIT,
    master: str | None = options.MASTER,
) -> None:
    """Write vectors, titles and pictures for TensorBoard's embedding projector, and open it."""
    if not tables_shown and not show:
        raise ConfigError("nothing to do: give TABLE to write its files, --open to show a folder, or both")
    if show:
        _check_viewer(output)
    if tables_shown:
        shown = _Options(n, _ids(ids, id_file), names, id_column, options.split_columns(columns), images, together)

        def write(first: TableSnapshot) -> SparkSession | None:
            others = [_open(first, name) for name in tables_shown[1:]]
            _write([first, *others], shown, output.rstrip("/"))
            return first.session

        spark = table_snapshot.answer(tables_shown[0], master, limit, write)
        if show and spark is not None:
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


def _open(first: TableSnapshot, name: str) -> TableSnapshot:
    """Return a further table, read as the first one is."""
    if first.session is None:
        return table_snapshot.open_local(name, first.limit)
    return replace(first, name=name, vectors=table_snapshot.read_vectors(first.session, name))


def _write(snapshots: list[TableSnapshot], options: _Options, output: str) -> None:
    # Imported here, since --open alone needs no Spark.
    from embedall_spark.visualize import projector

    for name, content in projector.contents(_tensors(snapshots, options)):
        files.write_bytes(f"{output}/{name}", content)


def _tensors(snapshots: list[TableSnapshot], options: _Options) -> Iterator[Tensor]:
    """Yield a tensor for each table, or one for all of them, and print its size."""
    from embedall_spark.visualize import projector, projector_format

    spaces = {projector_format.name(_last_part(snapshot.name)): snapshot.vectors for snapshot in snapshots}
    if len(spaces) < len(snapshots):
        raise ConfigError(
            f"{', '.join(snapshot.name for snapshot in snapshots)}: two end in the same name, by which the projector "
            "tells them apart; write them to two folders"
        )
    if options.together:
        sides = [exact.in_spark(side).withColumn("kind", F.lit(name)) for name, side in spaces.items()]
        spaces = {"_".join(spaces): functools.reduce(DataFrame.unionByName, sides)}
    metadata = _metadata(snapshots, options)
    pictures, limits = _pictures(snapshots, options.images) or (None, None)
    for name, vectors in spaces.items():
        tensor = projector.tensor(
            vectors, options.n, name=name, ids=options.ids, metadata=metadata, pictures=pictures, limits=limits
        )
        sheet = f", pictures of {tensor.tile} pixels" if tensor.tile else ""
        points = console.count(tensor.rows, "point")
        console.console().print(f"{tensor.name}: {points} of {tensor.vector_size:,} dimensions{sheet}")
        yield tensor


def _metadata(snapshots: list[TableSnapshot], options: _Options) -> DataFrame | pa.Table | None:
    """Return the metadata of ids, as text; by default those beside the tables."""
    from embedall_spark.sources import metadata as metadata_source
    from embedall_spark.visualize import projector

    spark = snapshots[0].session
    beside = (provenance.metadata(spark, snapshot.name) for snapshot in snapshots)
    paths = options.names or [path for path in beside if path is not None]
    sources = [metadata_source.Names(path=path, id=options.id_column) for path in paths]
    if not sources:
        return None
    if spark is None:
        read = [local_metadata.read_all(source, snapshots[0].rows, options.columns) for source in sources]
        here = pa.concat_tables([projector.as_text_here(rows) for rows in read], promote_options="default")
        _check_shown(options.columns, here.column_names)
        return here.select(["id", *options.columns]) if options.columns else here
    parts = [projector.as_text(metadata_source.read_all(spark, source, options.columns)) for source in sources]
    union = functools.reduce(functools.partial(DataFrame.unionByName, allowMissingColumns=True), parts)
    _check_shown(options.columns, union.columns)
    return union.select("id", *options.columns) if options.columns else union


def _check_shown(columns: list[str], known: list[str]) -> None:
    if missing := [column for column in columns if column not in known]:
        raise ConfigError(f"--show {', '.join(missing)}: no such column (columns: {', '.join(known)})")


def _pictures(snapshots: list[TableSnapshot], sources: list[str]) -> tuple[DataFrame | dict[str, str], Limits] | None:
    """Return IMAGES of the tables' ids, or the files of these, and which are too large; None: there are no pictures."""
    if snapshots[0].session is None and not sources:
        return _picture_files([snapshot.name for snapshot in snapshots])
    spark = snapshots[0].spark
    if sources:
        parts = [_images(spark, source) for source in sources]
    else:
        parts = [part for each in snapshots if (part := _producers_images(spark, each.name)) is not None]
    return (functools.reduce(DataFrame.unionByName, [rows for rows, _ in parts]), parts[-1][1]) if parts else None


def _picture_files(names: list[str]) -> tuple[dict[str, str], Limits] | None:
    """Return the files of the tables' pictures by id; raises NeedsSpark where they are not files of this machine."""
    files_by_id: dict[str, str] = {}
    limits = None
    for name in names:
        if run_manifest.producer_of(None, name).get("kind") not in ("images", "latent"):
            continue
        try:
            paths, its_limits = provenance.picture_paths(name, provenance.latent_table(None, name))
        except EmbedallError as error:
            raise NeedsSpark(f"its pictures are not found ({error})") from None
        if its_limits is None:
            raise NeedsSpark("its pictures are not files of this machine")
        files_by_id |= paths
        limits = its_limits
    return None if limits is None else (files_by_id, limits)


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
