"""Consecutive numbers for rows in an order: partitions are counted, and no row passes through the driver or one task.

The ordered rows are to be stored before they are numbered: computed twice, they could be divided differently.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def ordered(rows: DataFrame, *order: Column | str) -> DataFrame:
    """Return rows in an order, with the columns part and position, which together are a row's place."""
    return _placed(rows.orderBy(*order))


def ordered_in_one_part(rows: DataFrame, *order: Column | str) -> DataFrame:
    """Return what ordered() does, sorted by one task; ``order`` must tell all rows apart."""
    return _placed(rows.coalesce(1).sortWithinPartitions(*order))


def _placed(rows: DataFrame) -> DataFrame:
    # The low 33 bits of this id are the row's position in its partition, the others the partition's number.
    placed = rows.withColumn("place", F.monotonically_increasing_id())
    return placed.select(
        *rows.columns,
        F.shiftright("place", 33).alias("part"),
        F.col("place").bitwiseAND(F.lit((1 << 33) - 1)).alias("position"),
    )


def part_sizes(ordered: DataFrame) -> list[tuple[int, int]]:
    """Return the numbers of the parts, in order, and their rows; parts without rows are left out."""
    return sorted((row["part"], row["count"]) for row in ordered.groupBy("part").count().collect())


def number(sizes: list[tuple[int, int]]) -> Column:
    """Return the column with the number of each row, from 0, given the sizes of all parts, of which there are some."""
    starts = accumulate((size for _, size in sizes), initial=0)
    pairs = [F.lit(value) for (part, _), start in zip(sizes, starts, strict=False) for value in (part, start)]
    return F.create_map(*pairs)[F.col("part")] + F.col("position")
