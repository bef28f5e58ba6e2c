"""Ids as text, by one rule for all readers and queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

if TYPE_CHECKING:
    from pyspark.sql import Column

INEXACT = "an id stored as a floating-point number beyond 2^53 (float: 2^24), its last digits are lost"
"""Reason to refuse an id; see is_inexact()."""
# Above these, neighboring whole numbers have become one.
_EXACT: dict[type[T.DataType], int] = {T.DoubleType: 1 << 53, T.FloatType: 1 << 24}


def as_text(value: Column, kind: T.DataType) -> Column:
    """Return ids as text; null for null and NaN, which is what pandas writes for a missing number.

    A whole number is written as that integer, whatever type it is stored as: 12345678.0 is ``12345678``, 1e3 ``1000``.

    Args:
        value: the ids.
        kind: their type: text, a number, a truth value, a date or a time.
    """
    if type(kind) in _EXACT:
        text = value.cast("string")
        whole = F.when(is_inexact(value, kind), text).otherwise(value.try_cast("bigint").cast("string"))
        decimal = text.try_cast("decimal(38,20)")
        # Without an exponent, where that is the same number.
        fraction = F.when(decimal.cast(kind) == value, _without_zeros(decimal)).otherwise(text)
        return F.when(value % 1 == 0, whole).when(~F.isnan(value), fraction)
    if isinstance(kind, T.DecimalType):
        return _without_zeros(value)
    return value.cast("string")


def is_inexact(value: Column, kind: T.DataType) -> Column:
    """Return whether ids are floating-point numbers too large to tell neighboring whole numbers apart."""
    limit = _EXACT.get(type(kind))
    return F.lit(False) if limit is None else F.coalesce((F.abs(value) > limit) & ~F.isnan(value), F.lit(False))


def _without_zeros(value: Column) -> Column:
    """Return a decimal as text without zeros at its end."""
    text = value.cast("string")
    short = F.regexp_replace(text, r"\.?0+$", "")
    return F.when(value == 0, F.lit("0")).when(F.contains(text, F.lit(".")), short).otherwise(text)
