"""The integers of a published table's ids, such as rows of an embedding layer: an id keeps its code forever."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark import row_numbers, run_manifest, tables
from embedall_spark.schemas import CODES, conform

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)

# One name for all commits: with the table's version as their number, of two writers the slower one writes nothing.
_WRITER = "codes"


def codes_table(published: str) -> str:
    """Return the name of the table with the codes of a published table's ids."""
    return f"{published.rstrip('/')}_codes"


def extend(spark: SparkSession, rows: DataFrame, published: str, version: int, run_id: str) -> None:
    """Give a code to each id that is to be published and has none, in one commit; all others keep theirs.

    New ids follow the codes that are there, by descending count, and then by id. Where all have one, nothing is
    written.

    Args:
        spark: the session.
        rows: VECTORS, all that is to be published.
        published: the table that others read.
        version: the version that it will have.
        run_id: of the publication.
    """
    name, ids = codes_table(published), rows.select("id", "count")
    while True:
        before = tables.version(spark, name)
        known = None if before is None else conform(tables.read(spark, name, before), CODES)
        new = ids if known is None else ids.join(known, "id", "left_anti")
        ordered = row_numbers.ordered(new, F.desc_nulls_last("count"), "id").persist()
        try:
            sizes = row_numbers.part_sizes(ordered)
            if not sizes:
                return
            first = 0 if known is None else known.count()
            code = (row_numbers.number(sizes) + first).alias("code")
            added = ordered.select("id", code, F.lit(version).cast("long").alias("version"))
            tables.write(
                spark, added if known is None else known.unionByName(added), name, CODES, mode="overwrite",
                run_id=_WRITER, txn_version=0 if before is None else before + 1,
                comment=f"Integers that ids of {published} keep", metadata={"publication": run_id},
            )  # fmt: skip
        finally:
            ordered.unpersist()
        if run_manifest.producer_of(spark, name)["publication"] == run_id:
            log.info("%s: %s new ids, codes from %s on", name, f"{sum(size for _, size in sizes):,}", f"{first:,}")
            return
