"""Rows of CSV files: a line each, unless quoted values may hold line breaks; a line that is no row says why."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark.errors import BadData, SchemaMismatch
from embedall_spark.sources import file_lines
from embedall_spark.sources.expressions import EXCERPT, problem

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

PATH = "a folder (searched to any depth), glob or file (gzip and bz2 are unpacked), or a table catalog.schema.table"
MULTILINE = (
    "with format: csv, quoted values may hold line breaks; a file is then not split but read by one task, and a quote "
    "that is never closed costs its own line"
)
SEPARATOR = "with format: csv, what separates columns"
HEADER = "with format: csv, the first line has the names of the columns; false: they are called _c0, _c1, ..."
"""Descriptions of the options that several sources have."""
_BAD = "_not_a_row"


def check_multiline(multiline: bool, kind: str) -> None:
    """Raise ValueError if line breaks in quotes are configured for a format without quotes."""
    if multiline and kind != "csv":
        raise ValueError(f"multiline: need format: csv, found format: {kind}; remove it")


def read(
    spark: SparkSession, path: str, separator: str, header: bool, multiline: bool, option: str | None, encoding: str
) -> tuple[list[str], DataFrame]:
    """Return the names of the columns of CSV files, and their rows: ``row``, ``origin`` and ``problem``.

    ``row`` is a struct of text, c0, c1, ... in the order of the names. ``option`` is that of ``multiline``, for a
    problem to name.

    Raises:
        BadData: there is no file with content, or their first lines differ though they have the names.
    """
    titles = _titles(path, separator, header, multiline, encoding)
    width = len(titles)
    if multiline:
        # Imported here: its compiler takes a second.
        from embedall_spark.sources import csv_records

        lines = file_lines.rows(
            spark, path, encoding, lambda part: csv_records.read(part, encoding, separator), whole=True
        )
    else:
        lines = file_lines.read(spark, path, encoding, option="a limit of CSV")
    # escape: a quote inside quotes is doubled (RFC 4180).
    options = {"sep": separator, "escape": '"', "columnNameOfCorruptRecord": _BAD}
    columns = ", ".join(f"{name} string" for name in [*(f"c{place}" for place in range(width)), _BAD])
    rows = lines.where(F.trim("value") != "").withColumn("row", F.from_csv("value", columns, options))
    values = [F.coalesce(F.col(f"row.c{place}"), F.lit("")) for place in range(width)]
    is_title = F.array(*values) == F.array(*map(F.lit, titles))
    if header:
        differs = F.raise_error(F.concat("origin", F.lit(_differs(titles))))
        rows = rows.where(F.when(F.col("first"), F.when(is_title, False).otherwise(differs.isNull())).otherwise(True))
    # A single value may well be the name of its column.
    again = is_title & F.lit(header and width > 1)
    names = [title if header and title else f"_c{place}" for place, title in enumerate(titles)]
    return names, rows.select("row", "origin", _problem(again, separator, width, multiline, option))


def check_columns(path: str, names: list[str], columns: dict[str, str], separator: str, header: bool) -> None:
    """Raise SchemaMismatch where a column is missing or its name stands twice; says what may be the reason.

    Args:
        path: the input, to be named.
        names: of all columns.
        columns: the column of each option.
        separator: what separates columns.
        header: whether the first line has the names.
    """
    for option, column in columns.items():
        if names.count(column) > 1:
            raise SchemaMismatch(
                f"{path}: two columns are called {column!r} (columns: {', '.join(names)}); rename one of them in the "
                f"first line, or set {option} to another"
            )
        if column not in names:
            guess = _guess(names, separator, header) if option.startswith("input.") else ""
            raise SchemaMismatch(
                f"{path}: no column {column!r} (columns: {', '.join(names) or 'none'}); set {option}{guess}"
            )


def _guess(names: list[str], separator: str, header: bool) -> str:
    """Return why a column may be missing, and what to set then."""
    marks = [mark for mark in ",;\t|" if len(names) == 1 and mark != separator and mark in names[0]]
    guess = f"; columns seem to be separated by {marks[0]!r}, set input.separator to it" if marks else ""
    if header:
        guess += "; if the first line is a row, set input.header=false, and columns are called _c0, _c1, ..."
    return guess


def _titles(path: str, separator: str, header: bool, multiline: bool, encoding: str) -> list[str]:
    """Return the values of the first row, which must be the same in the first files where they are names."""
    titles: list[str] = []
    for _, head in file_lines.heads(path, encoding):
        lines = head.decode("utf-8", "replace").lstrip("\r\n").splitlines(keepends=True)
        try:
            row = next(csv.reader(lines if multiline else lines[:1], delimiter=separator), [])
        except csv.Error as error:
            raise BadData(f"{path}: the first line is no row of CSV ({error}); correct path or format") from None
        if not header:
            return row
        if titles and row and row != titles:
            raise BadData(f"{path}: the first line of one file is {','.join(row)}{_differs(titles)}")
        titles = titles or row
    return titles


def _differs(titles: list[str]) -> str:
    names = ", ".join(titles)
    return f": the first line has not the names of columns of the other files ({names}); make them the same"


def _problem(again: Column, separator: str, width: int, multiline: bool, option: str | None) -> Column:
    """Return why a line or record is no row of CSV as ``problem``."""
    line = F.col("value")
    short = F.col(f"row.{_BAD}").isNotNull()
    reasons = [
        F.concat("problem", F.lit(": "), F.left(F.make_valid_utf8(line), F.lit(EXCERPT))),
        F.when(short, problem("not a row of this CSV", line)),
        F.when(again, problem("the names of the columns once more", line)),
    ]
    if not multiline:
        hint = f" (set {option}=true)" if option else ""
        reason = problem(f"not a row of this CSV, a quote is open at its end{hint}", line)
        reasons.insert(1, F.when(_is_open(separator, width, short), reason))
    return F.coalesce(*reasons).alias("problem")


def _is_open(separator: str, width: int, short: Column) -> Column:
    """Return whether a quote is open at a line's end: the parser would take it for closed."""
    line, last, quote = F.col("value"), F.col(f"row.c{width - 1}"), F.lit('"')
    tail = F.concat(quote, F.replace(last, quote, F.lit('""')))
    ends = [F.endswith(line, F.concat(F.lit(separator), end)) | (line == end) for end in (tail, quote)]
    return F.when(short, F.regexp_count(line, quote) % 2 == 1).otherwise(ends[0] | ((last == quote) & ends[1]))
