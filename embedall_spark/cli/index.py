"""The command that indexes a table for approximate search, and what it shares with search: tables and their indexes."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, NamedTuple

import typer

from embedall_spark import files, schemas, session, tables
from embedall_spark.cli import similar
from embedall_spark.cli.shared import console
from embedall_spark.config import Output
from embedall_spark.errors import ConfigError, TableError
from embedall_spark.search import ann
from embedall_spark.sources import input_version

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.search.ann import Manifest

INDEX = typer.Option(None, "--index", help="Folder of the index; unset: the table's path with _index.")
_RECALL = 0.95


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("index")(_index)


class TableSnapshot(NamedTuple):
    """A table as of one version, and how it is searched."""

    spark: SparkSession
    name: str
    vectors: DataFrame
    version: str  # the table's id and its version
    among: DataFrame | None = None  # the rows to find; none: all
    built: tuple[str, Manifest] | None = None  # its folder and what it holds; none: search is exact
    hubs: DataFrame | None = None  # batch.similarity() of its rows: CSLS; none: by cosine

    @property
    def rows(self) -> DataFrame:
        """The rows to find."""
        return self.vectors if self.among is None else self.among

    def is_called(self, table: str) -> bool:
        """Tell whether a name is that of this table, in whatever version."""
        return version(self.spark, table).rpartition("@")[0] == self.version.rpartition("@")[0]


def _index(
    table: str = similar.TABLE,
    index: str | None = INDEX,
    parts: int | None = typer.Option(None, "--parts", min=1, help="Number of parts; unset: by size and cores."),
    recall: float = typer.Option(_RECALL, "--recall", min=0, max=1, help="Least recall of the 10 nearest."),
    seed: int = typer.Option(1, "--seed", help="Of the lists, and of the rows by which recall is measured."),
    master: str | None = similar.MASTER,
) -> None:
    """Build an index for approximate search, or replace it; it serves one version of its table."""
    place = folder(table, index)
    opened = open_at_version(table, master)
    made = ann.build(opened.vectors, place, table=table, version=opened.version, parts=parts, recall=recall, seed=seed)
    _told(place, made)


def open_at_version(table: str, master: str | None) -> TableSnapshot:
    """Return a table of vectors as of its latest version, whatever is written to it meanwhile."""
    spark = session.get("embedall", master=master)
    latest = version(spark, table)
    vectors = schemas.conform(tables.read(spark, table, int(latest.rpartition("@")[2])), schemas.VECTORS)
    return TableSnapshot(spark, table, vectors, latest)


def version(spark: SparkSession, table: str) -> str:
    """Return a table's id and version, as ``id@version``.

    Raises:
        TableError: there is no such table.
    """
    if not tables.exists(spark, table):
        # It tells what a table's name looks like.
        tables.read(spark, table)
    return input_version.DeltaTable(table).version(spark)


def folder(table: str, index: str | None) -> str:
    """Return the folder of a table's index."""
    if index is None and not files.is_path(table):
        raise ConfigError(f"--index: required, because the table {table} is named in a catalog; give a folder")
    return absolute(index or f"{table.rstrip('/')}_index")


def absolute(folder: str) -> str:
    """Return a folder's path or URI as tasks know it, who may run in another folder."""
    return folder if "://" in folder or folder.startswith(("file:", "dbfs:")) else os.path.abspath(folder)


def temp_folder(table: str, work: str | None) -> str:
    """Return a new folder that all hosts share, below ``work`` or beside a table.

    Raises:
        ConfigError: neither says where.
    """
    beside = work or Output(table=table).folder
    if beside is None:
        raise ConfigError(f"--work: required, because the table {table} is named in a catalog; give a folder")
    return f"{absolute(beside).rstrip('/')}/.search-{uuid.uuid4().hex[:12]}"


def manifest(opened: TableSnapshot, place: str, rebuild: bool) -> Manifest:
    """Return what the index holds, of this version of the table; built anew where ``rebuild`` is and it holds another.

    Raises:
        TableError: there is no finished index of this version.
    """
    try:
        return ann.load(place, opened.version)
    except TableError:
        if not rebuild:
            raise
    made = ann.build(opened.vectors, place, table=opened.name, version=opened.version, recall=_RECALL)
    _told(place, made)
    return made


def _told(place: str, made: Manifest) -> None:
    looked = "all rows" if made.lists == 1 else f"{made.probes:,} of up to {made.lists:,} lists"
    typer.echo(
        f"{place}: {console.count(made.rows, 'row')} in {console.count(len(made.parts), 'part')}, {looked} looked at; "
        f"recall of the 10 nearest {made.recall:.3f} on {console.count(made.sample, 'row')}"
    )
