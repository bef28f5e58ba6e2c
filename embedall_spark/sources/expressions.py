"""Column expressions that readers share: any name quoted, no text, and why a row cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

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


def tags(value: Column, kind: T.DataType, separator: str) -> Column:
    """Return tags, an array of text or text with a separator, as an array; blanks around them and empty ones go."""
    if isinstance(kind, T.StringType):
        value = F.split(value, rf"\Q{separator}\E")
    return F.filter(F.transform(value, lambda tag: F.trim(F.make_valid_utf8(tag))), lambda tag: tag != "")


def null() -> Column:
    """Return no text."""
    return F.lit(None).cast("string")
