"""Column expressions that readers share: any name quoted, no text, and why a row cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column

EXCERPT = 200
"""Letters of a record that its problem quotes."""


def problem(reason: str, record: Column) -> Column:
    """Return a problem: the reason, and the beginning of the record."""
    return F.concat(F.lit(f"{reason}: "), F.left(record, F.lit(EXCERPT)))


def column(name: str) -> Column:
    """Return the column of exactly this name, whatever it is made of."""
    return F.col("`" + name.replace("`", "``") + "`")


def null() -> Column:
    """Return no text."""
    return F.lit(None).cast("string")
