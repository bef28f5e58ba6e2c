"""Rows of csv files: a line each, unless quoted values may hold line breaks; a line that is no row says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.sources import reader_errors

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession

MULTILINE = (
    "with format: csv, quoted values may hold line breaks; a file is then not split but read by one task, and a quote "
    "that is never closed takes in the rest of it"
)
"""What the option of a source says."""
_BAD = "_not_a_row"
# A character that lines have not; where one has it, the line is found whole in _BAD.
_NOWHERE = "\u0001"


def check_multiline(multiline: bool, kind: str) -> None:
    """Raise ValueError where line breaks in quotes are asked for in a format that has no quotes."""
    if multiline and kind != "csv":
        raise ValueError(f"multiline: need format: csv, found format: {kind}; remove it")


def read(
    spark: SparkSession, path: str, separator: str, header: bool, multiline: bool, option: str | None
) -> tuple[list[str], DataFrame]:
    """Return the names of the columns of csv files, and their rows: ``row``, ``origin`` and ``problem``.

    ``row`` is a struct of text, c0, c1, ... in the order of the names. ``option`` is that of ``multiline``, for a
    problem to name.
    """

    def reader(**options: Any) -> DataFrameReader:
        # Without columnPruning every row's width is checked.
        found = reader_errors.strict(spark).options(header=header, enforceSchema=False, columnPruning=False, **options)
        return found.option("columnNameOfCorruptRecord", _BAD)

    # escape: a quote inside quotes is doubled (RFC 4180).
    quoted = {"sep": separator, "escape": '"'}
    names = [field.name for field in reader(**quoted, multiLine=multiline).csv(path).schema]
    if multiline:
        rows = reader(**quoted, multiLine=True).schema(_texts([*names, _BAD])).csv(path)
        values = [reader_errors.column(name).alias(f"c{at}") for at, name in enumerate(names)]
        line = F.col(_BAD)
        problem = F.when(line.isNotNull(), reader_errors.problem("not a row of this CSV", line))
        return names, rows.select(F.struct(*values).alias("row"), reader_errors.origin(), problem.alias("problem"))
    # Lines as they are, the first one of each file compared to the others: the reader of columns would take a quote
    # that is still open at the end of a line for closed.
    whole = {"sep": _NOWHERE, "quote": ""}
    title = reader(**whole).csv(path).schema[0].name
    lines = reader(**whole).schema(_texts([title, _BAD])).csv(path)
    lines = lines.select(F.coalesce(_BAD, reader_errors.column(title)).alias("line"), reader_errors.origin())
    places = ", ".join(f"{place} string" for place in [*(f"c{at}" for at in range(len(names))), _BAD])
    parsed = lines.withColumn("row", F.from_csv("line", places, {**quoted, "columnNameOfCorruptRecord": _BAD}))
    return names, parsed.select("row", "origin", _line_problem(title, separator, header, len(names), option))


def _line_problem(title: str, separator: str, header: bool, width: int, option: str | None) -> Column:
    """Return why a line is no row of csv as ``problem``."""
    line, last = F.col("line"), F.col(f"row.c{width - 1}")
    tail = F.concat(F.lit('"'), F.replace(last, F.lit('"'), F.lit('""')))
    alone = F.lit('"')
    ends = [F.endswith(line, F.concat(F.lit(separator), end)) | (line == end) for end in (tail, alone)]
    short = F.col(f"row.{_BAD}").isNotNull()
    is_open = F.when(short, F.regexp_count(line, alone) % 2 == 1).otherwise(ends[0] | ((last == alone) & ends[1]))
    hint = f" (set {option}=true)" if option else ""
    again = F.lit(header and width > 1)
    return F.coalesce(
        F.when(is_open, reader_errors.problem(f"not a row of this CSV, a quote is open at its end{hint}", line)),
        F.when(short, reader_errors.problem("not a row of this CSV", line)),
        # A single value may well be the name of its column.
        F.when(again & (line == title), reader_errors.problem("the names of the columns once more", line)),
    ).alias("problem")


def _texts(names: list[str]) -> T.StructType:
    return T.StructType([T.StructField(name, T.StringType()) for name in names])
