"""Mean similarity of a table's rows to the queries' side, which CSLS subtracts; cached beside the table."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark import files, schemas, tables
from embedall_spark.cli.shared import table_snapshot
from embedall_spark.search import exact_batch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from embedall_spark.cli.shared.table_snapshot import TableSnapshot


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
    spark, name = snapshot.spark, f"{snapshot.name.rstrip('/')}_hubs"
    is_wanted = F.col("side").eqNullSafe(F.lit(kind)) & (F.col("near") == k)
    current = None
    if tables.exists(spark, name):
        tables.check_replaceable(spark, name, schemas.HUBS, "overwrite", None)
        current = tables.read(spark, name).where(F.col("version") == snapshot.version)
        if not (cached := current.where(is_wanted)).isEmpty():
            # Two searches may have added the same rows at once.
            return cached.select("id", "similarity").distinct()
    queries = snapshot.vectors if kind is None else snapshot.vectors.where(F.col("kind") == kind)
    folder = table_snapshot.temp_folder(snapshot.name, work)
    # Rows of another version are replaced.
    mode = "append" if current is not None and not current.isEmpty() else "overwrite"
    try:
        means = exact_batch.mean_similarity(snapshot.vectors, queries, k, folder=folder, exclude_same_id=True)
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
