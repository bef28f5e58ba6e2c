"""How near a table's rows are to the queries' side, by which CSLS takes hubs down; kept beside the table."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark import files, schemas, tables
from embedall_spark.cli import index
from embedall_spark.search import exact_batch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from embedall_spark.cli.shared import provenance


def query_kind(
    opened: index.TableSnapshot,
    space: provenance.LatentTable | None,
    name: str | None,
    image: str | None,
    text: str | None,
) -> str | None:
    """Return the kind of the rows that stand for the queries' side; None: all rows.

    In a latent table these are the rows of the query's kind: titles for words, the left kind for a picture, a row's own
    kind for an id. Of a vector in a file the kind is not known, and other tables are of one kind.
    """
    if space is None:
        return None
    if name is not None:
        row = opened.vectors.where(F.col("id") == name).select("kind").first()
        return None if row is None else str(row["kind"])
    if image is not None:
        return space.model.left_kind
    return space.model.right_kind if text is not None else None


def cached_similarity(opened: index.TableSnapshot, side: str | None, near: int, work: str | None) -> DataFrame:
    """Return batch.similarity() of all rows of a table to those of a kind.

    It is a table beside the table of vectors (its name with ``_hubs``), made by the first search that needs it and made
    again when the table has another version.

    Args:
        opened: the table.
        side: as side() returns it.
        near: the K of CSLS.
        work: folder on storage that all hosts share; None: beside the table.

    Raises:
        ConfigError: ``work`` is None and the table is named in a catalog.
        TableError: the table beside it is none of ours.
    """
    spark, name = opened.spark, f"{opened.name.rstrip('/')}_hubs"
    which = F.col("side").eqNullSafe(F.lit(side)) & (F.col("near") == near)
    current = None
    if tables.exists(spark, name):
        tables.check_replaceable(spark, name, schemas.HUBS, "overwrite", None)
        current = tables.read(spark, name).where(F.col("version") == opened.version)
        if not (known := current.where(which)).isEmpty():
            # Two searches may have added the same rows at once.
            return known.select("id", "similarity").distinct()
    others = opened.vectors if side is None else opened.vectors.where(F.col("kind") == side)
    folder = index.temp_folder(opened.name, work)
    # What is of another version goes.
    mode = "append" if current is not None and not current.isEmpty() else "overwrite"
    try:
        found = exact_batch.mean_similarity(opened.vectors, others, near, folder=folder, exclude_same_id=True)
        about = {"side": F.lit(side).cast("string"), "near": F.lit(near), "version": F.lit(opened.version)}
        tables.write(
            spark,
            found.withColumns(about),
            name,
            schemas.HUBS,
            mode=mode,  # type: ignore[arg-type]
            run_id=f"hubs-{uuid.uuid4().hex[:12]}",
            comment=f"How near rows of {opened.name} are to the nearest of others, for CSLS",
            metadata={"kind": "hubs", "table": opened.name, "version": opened.version},
        )
    finally:
        files.delete(folder)
    made_now = tables.read(spark, name).where((F.col("version") == opened.version) & which)
    return made_now.select("id", "similarity").distinct()
