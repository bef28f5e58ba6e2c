"""A table of vectors as of one version, and what a search of it uses: the rows to find, an index, a correction."""

from __future__ import annotations

import logging
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import typer

from embedall_spark import delta_files, files, schemas, session, table_cache, table_versions, tables
from embedall_spark.cli.shared import console
from embedall_spark.config import Output
from embedall_spark.errors import ConfigError, NeedsSpark, SchemaMismatch, TableError
from embedall_spark.search import exact
from embedall_spark.sources import input_version

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.search.ann import Manifest
    from embedall_spark.search.local_table import Vectors


log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

INDEX = typer.Option(None, "--index", help="Folder of the index; unset: the table's path with _index.")
RECALL = 0.95  # that an index has at least


class Index(NamedTuple):
    """An index for approximate search."""

    folder: str
    manifest: Manifest


@dataclass(frozen=True)
class TableSnapshot:
    """A table of vectors as of one version, and how it is searched."""

    session: SparkSession | None
    """None: the table is read without Spark."""
    name: str
    vectors: Vectors
    """VECTORS"""
    version: str
    """The table's id and version, as input_version.version() returns them."""
    subset: Vectors | None = None
    """The rows to find; None: all."""
    index: Index | None = None
    """None: the search is exact."""
    similarity: DataFrame | None = None
    """exact_batch.mean_similarity() of the rows, to rank by CSLS; None: by cosine, or as the subset says."""
    limit: float = table_cache.DEFAULT_LIMIT
    """GiB of a table that is read without Spark, at most."""

    @property
    def spark(self) -> SparkSession:
        """The session; raises NeedsSpark if there is none."""
        if self.session is None:
            raise NeedsSpark("a part of this question is for Spark")
        return self.session

    def rows(self, name: str) -> pa.Table:
        """Return all rows of another table, without Spark."""
        return table_cache.rows(delta_files.open_version(name), self.limit)

    @property
    def candidates(self) -> Vectors:
        """The rows to find."""
        return self.vectors if self.subset is None else self.subset

    def is_same_table(self, table: str) -> bool:
        """Return whether a name is that of this table, in whatever version."""
        return _version(self.spark, table).rpartition("@")[0] == self.version.rpartition("@")[0]


def stored_map(snapshot: TableSnapshot) -> DataFrame | pa.Table | None:
    """Return MAP, the places that the run of the table's version has given its ids; None if it has not."""
    spark, name = snapshot.session, files.map_of(snapshot.name)
    if not (delta_files.exists(name) if spark is None else tables.exists(spark, name)):
        return None
    version = int(snapshot.version.rpartition("@")[2])
    made = (commit for commit in table_versions.versions(spark, snapshot.name) if commit["version"] <= version)
    run_id = next((commit["run_id"] for commit in made if "run_id" in commit), None)
    maps = [commit["version"] for commit in table_versions.versions(spark, name) if commit.get("run_id") == run_id]
    if not maps:
        return None
    if spark is None:
        return table_cache.rows(delta_files.open_version(name, maps[0]), snapshot.limit)
    return tables.read(spark, name, maps[0])


def open_table(table: str, master: str | None) -> tuple[SparkSession, DataFrame]:
    """Return the session and the VECTORS of a table.

    Raises:
        SchemaMismatch: it is no table of vectors.
        TableError: there is no such table.
    """
    spark = session.get("embedall", master=master)
    return spark, read_vectors(spark, table)


def open_snapshot(table: str, master: str | None) -> TableSnapshot:
    """Return a table of vectors as of its latest version, whatever is written to it meanwhile.

    Raises:
        SchemaMismatch: it is no table of vectors.
        TableError: there is no such table.
    """
    spark = session.get("embedall", master=master)
    version = _version(spark, table)
    return TableSnapshot(spark, table, read_vectors(spark, table, int(version.rpartition("@")[2])), version)


def answer(table: str, master: str | None, limit: float, question: Callable[[TableSnapshot], Answer]) -> Answer:
    """Return the answer to a question about a table of vectors: without Spark where that is possible, else with it.

    Args:
        table: the table.
        master: of Spark.
        limit: GiB of vectors that are read without Spark at most.
        question: prints nothing before it has its answer, since it is asked again if it raises NeedsSpark.

    Raises:
        SchemaMismatch: it is no table of vectors.
        TableError: there is no such table.
    """
    try:
        return question(open_local(table, limit))
    except NeedsSpark as reason:
        # A path without a table is an error at once.
        if files.is_path(table) and files.is_local(table) and not files.exists(table):
            raise tables.no_such_table(table) from None
        if session.is_running():
            log.debug("%s: answered by Spark: %s", table, reason)
        else:
            log.info("%s: answered by Spark, which takes half a minute to start: %s", table, reason)
    return question(open_snapshot(table, master))


def open_local(table: str, limit: float) -> TableSnapshot:
    """Return a table of vectors as of its latest version, read without Spark; raises NeedsSpark if it cannot be."""
    if limit <= 0:
        raise NeedsSpark("--limit 0")
    opened = delta_files.open_version(table)
    return TableSnapshot(None, table, table_cache.vectors(opened, limit), opened.version, limit=limit)


def read_vectors(spark: SparkSession, table: str, version: int | None = None) -> DataFrame:
    """Return the VECTORS of a table, of its latest version unless one is given.

    Raises:
        SchemaMismatch: it is no table of vectors; names it and what to give instead.
    """
    try:
        return schemas.conform(tables.read(spark, table, version), schemas.VECTORS)
    except SchemaMismatch as error:
        raise SchemaMismatch(
            f"{table}: is not a table of vectors: {error}; give one that a command of embedall has written, "
            "or read a file of vectors into one with 'embedall import'"
        ) from None


def index_folder(table: str, folder: str | None) -> str:
    """Return the folder of a table's index.

    Raises:
        ConfigError: ``folder`` is None and the table is named in a catalog.
    """
    if folder is None and not files.is_path(table):
        raise ConfigError(f"--index: required, because the table {table} is named in a catalog; give a folder")
    return _absolute(folder or f"{table.rstrip('/')}_index")


def open_index(snapshot: TableSnapshot, folder: str, rebuild: bool) -> Index:
    """Return the index of this version of a table; with ``rebuild`` a missing or stale one is built first.

    Raises:
        TableError: there is no finished index of this version.
    """
    from embedall_spark.search import ann

    try:
        return Index(folder, ann.load(folder, snapshot.version))
    except TableError:
        if not rebuild:
            raise
    return build_index(snapshot, folder)


def build_index(
    snapshot: TableSnapshot, folder: str, parts: int | None = None, recall: float = RECALL, seed: int = 1
) -> Index:
    """Build an index of a table, print what it holds and how good it is, and return it."""
    # Imported here: other questions need no faiss.
    from embedall_spark.search import ann

    vectors, table, version = exact.in_spark(snapshot.vectors), snapshot.name, snapshot.version
    manifest = ann.build(vectors, folder, table=table, version=version, parts=parts, recall=recall, seed=seed)
    searched = f"nprobe={manifest.probes:,} of up to {manifest.lists:,} lists"
    recalled = f"recall of the 10 nearest {manifest.recall:.3f} on {console.count(manifest.sample, 'row')}"
    size = f"{console.count(manifest.rows, 'row')} in {console.count(len(manifest.parts), 'part')}"
    typer.echo(
        f"{folder}: {size}, {searched if manifest.lists > 1 else 'all rows compared'}; "
        f"{recalled if manifest.rows > 1 else 'a single row has no neighbors to measure recall by'}"
    )
    return Index(folder, manifest)


def temp_folder(table: str, work: str | None) -> str:
    """Return a new folder that all hosts share, below ``work`` or beside a table.

    Raises:
        ConfigError: ``work`` is None and the table is named in a catalog.
    """
    parent = work or Output(table=table).folder
    if parent is None:
        raise ConfigError(f"--work: required, because the table {table} is named in a catalog; give a folder")
    return f"{_absolute(parent).rstrip('/')}/.search-{uuid.uuid4().hex[:12]}"


def _version(spark: SparkSession, table: str) -> str:
    """Return a table's id and version, as ``id@version``."""
    if not tables.exists(spark, table):
        # Its error says what a table's name looks like.
        tables.read(spark, table)
    return input_version.DeltaTable(table).version(spark)


def _absolute(folder: str) -> str:
    """Return a folder's path or URI as it is for tasks, whose working folder may be another one."""
    return folder if "://" in folder or folder.startswith(("file:", "dbfs:")) else os.path.abspath(folder)
