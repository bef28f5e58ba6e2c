"""Mean similarity of a table's rows to the queries' side, which CSLS subtracts; cached beside the table."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow.compute as pc
from pyspark.sql import functions as F

from embedall_spark import delta_files, files, schemas, tables
from embedall_spark.cli.shared import table_snapshot
from embedall_spark.errors import NeedsSpark
from embedall_spark.search import exact
from embedall_spark.search.local_table import LocalTable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from embedall_spark.cli.shared.table_snapshot import TableSnapshot


def with_similarity(snapshot: TableSnapshot, kind: str | None, k: int, work: str | None) -> TableSnapshot:
    """Return a table whose rows are ranked by CSLS; see cached_similarity()."""
    if snapshot.session is None:
        return replace(snapshot, subset=_local_rows(snapshot, kind, k))
    return replace(snapshot, similarity=cached_similarity(snapshot, kind, k, work))


def cached_similarity(snapshot: TableSnapshot, kind: str | None, k: int, work: str | None) -> DataFrame:
    """Return exact_batch.mean_similarity() of all rows of a table to those of a kind: id and similarity.

    It is a table beside the table of vectors (its name with ``_hubs``), written by the first search that needs it and
    again when the table has another version.

    Args:
        snapshot: the table.
        kind: of the rows that represent the queries' side; None: all rows.
        k: the K of CSLS.
        work: folder on storage that all hosts share; None: beside the table.

    Raises:
        ConfigError: ``work`` is None and the table is named in a catalog.
        TableError: the table beside it was not written by this command.
    """
    # Imported here: other questions need no faiss.
    from embedall_spark.search import exact_batch

    spark, name = snapshot.spark, _name(snapshot)
    is_wanted = F.col("side").eqNullSafe(F.lit(kind)) & (F.col("near") == k)
    current = None
    if tables.exists(spark, name):
        tables.check_replaceable(spark, name, schemas.HUBS, "overwrite", None)
        current = tables.read(spark, name).where(F.col("version") == snapshot.version)
        if not (cached := current.where(is_wanted)).isEmpty():
            # Two searches may have added the same rows at once.
            return cached.select("id", "similarity").distinct()
    rows = exact.in_spark(snapshot.vectors)
    queries = rows if kind is None else rows.where(F.col("kind") == kind)
    folder = table_snapshot.temp_folder(snapshot.name, work)
    # Rows of another version are replaced.
    mode = "append" if current is not None and not current.isEmpty() else "overwrite"
    try:
        means = exact_batch.mean_similarity(rows, queries, k, folder=folder, exclude_same_id=True)
        about = {"side": F.lit(kind).cast("string"), "near": F.lit(k), "version": F.lit(snapshot.version)}
        tables.write(
            spark,
            means.withColumns(about),
            name,
            schemas.HUBS,
            mode=mode,  # type: ignore[arg-type]
            run_id=f"hubs-{uuid.uuid4().hex[:12]}",
            comment=f"How near rows of {snapshot.name} are to the nearest of others, for CSLS",
            metadata={"kind": "hubs", "table": snapshot.name, "version": snapshot.version},
        )
    finally:
        files.delete(folder)
    written = tables.read(spark, name).where((F.col("version") == snapshot.version) & is_wanted)
    return written.select("id", "similarity").distinct()


def _local_rows(snapshot: TableSnapshot, kind: str | None, k: int) -> LocalTable:
    """Return the rows to find of a table on the driver, to be ranked by CSLS with what cached_similarity() has written.

    Raises:
        NeedsSpark: it has not been written for this version of the table.
    """
    candidates, name = snapshot.candidates, _name(snapshot)
    assert isinstance(candidates, LocalTable)
    hubs = snapshot.rows(name) if delta_files.exists(name) else None
    if hubs is not None:
        hubs = hubs.filter(pc.and_(pc.equal(hubs["near"], k), pc.equal(hubs["version"], snapshot.version)))
        hubs = hubs.filter(pc.is_null(hubs["side"]) if kind is None else pc.equal(hubs["side"], kind))
    if not hubs:
        raise NeedsSpark("CSLS compares all rows with each other once, which Spark does")
    places = pc.index_in(candidates.columns["id"], value_set=hubs["id"].combine_chunks())
    return replace(candidates, similarity=hubs["similarity"].take(places).fill_null(0).to_numpy())


def _name(snapshot: TableSnapshot) -> str:
    return f"{snapshot.name.rstrip('/')}_hubs"
