"""Named columns of tables and files; a row that cannot be read says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pyspark.errors import AnalysisException
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import files
from embedall_spark.errors import BadData, SchemaMismatch
from embedall_spark.schemas import REJECTS, conform
from embedall_spark.sources import csv_files, expressions, ids, input_version, json_lines, reader_errors
from embedall_spark.sources.expressions import problem

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession

Format = Literal["delta", "parquet", "csv", "json"]

_SIMPLE = (T.StringType, T.NumericType, T.BooleanType, T.DateType, T.TimestampType, T.TimestampNTZType)


def read(
    spark: SparkSession,
    path: str,
    format: Format,
    columns: Mapping[str, str],
    *,
    separator: str = ",",
    header: bool = True,
    multiline: bool | None = None,
    multiline_option: str = "input.multiline",
    encoding: str = "utf-8",
    types: Mapping[str, Collection[str]] | None = None,
    typed: Collection[str] = (),
    max_bytes: int = json_lines.MAX_BYTES,
    max_option: str = "a limit of JSON Lines",
) -> DataFrame:
    """Return the columns of a table or of files, lazily, one row per row or line, with ``origin`` and ``problem``.

    Values are text, numbers as ids.as_text() writes them. A row that cannot be read has its ``problem``, whose text
    after the first ": " is the beginning of the record, and nulls for the rest. ``origin`` is the file's path or the
    table's name.

    Args:
        spark: the session.
        path: a folder, glob or file (gzip and bz2 are unpacked), or a table catalog.schema.table.
        format: json: JSON Lines; csv: quotes are doubled inside quotes; delta: a path or a table.
        columns: the column (in JSON the key) of each option, such as {"input.key": "user_id"}. The column comes back
            under the last part of the option, here ``key``, since its own name might be ``origin``.
        separator: what stands between the columns of csv.
        header: whether csv files begin with a line of names; else columns are called _c0, _c1, ...
        multiline: whether quoted values of csv may hold line breaks; else a row is a line. None: likewise, and there is
            no option for it that a problem could name.
        multiline_option: that option.
        encoding: of csv and json without a byte order mark.
        types: Spark's names of the types that an option's column may have in a table, where those are not the simple
            ones, such as {"input.content": ["binary"]}; where it is only string, JSON must have text there, too.
        typed: the options whose columns keep their types in tables.
        max_bytes: of a line of json.
        max_option: what allows for longer ones.

    Raises:
        BadData: there is nothing at the path, or nothing in it, or it is of another format.
        SchemaMismatch: a column is missing, is there twice, or is of none of the types that it may have.
    """
    if format == "csv":
        option = None if multiline is None else multiline_option
        names, rows = csv_files.read(spark, path, separator, header, bool(multiline), option, encoding)
        csv_files.check_columns(path, names, dict(columns), separator, header)
        return _csv_values(rows, names, columns)
    if format == "json":
        rows = json_lines.read(spark, path, columns, encoding, max_bytes, max_option)
        return _json_values(rows, columns, types or {})
    table = reader_errors.opened(path, format, lambda: stored(spark, path, format))
    return _table_values(table, path, columns, types or {}, typed)


def rejects(rows: DataFrame) -> DataFrame:
    """Return the rows with a problem, of any table with ``origin`` and ``problem``, as REJECTS."""
    cut = F.instr("problem", ": ")
    reason = F.when(cut > 0, F.left("problem", cut - 1)).otherwise(F.col("problem"))
    record = F.when(cut > 0, F.substring(F.col("problem"), cut + 2, F.lit(expressions.EXCERPT)))
    bad = rows.where("problem is not null")
    return conform(bad.select("origin", reason.alias("reason"), record.alias("record")), REJECTS)


def reject_counts(rows: DataFrame) -> tuple[int, int]:
    """Return how many rows have a problem, and how many there are."""
    row = rows.agg(F.count("problem"), F.count("*")).first()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def name(option: str) -> str:
    """Return what the column of an option is called in read()'s result."""
    return option.rpartition(".")[2]


def stored(spark: SparkSession, path: str, kind: str) -> DataFrame:
    """Return a table of a path or a catalog.

    Raises:
        BadData: it is a Delta table, whose files are to be read as Parquet: rows that were deleted would be among them.
    """
    reader = reader_errors.strict(spark)
    if kind == "delta":
        path, version = input_version.table_and_version(path)
        reader = reader if version is None else reader.option("versionAsOf", version)
    if not input_version.is_path(path):
        return reader.table(path)
    if kind == "parquet" and _is_delta(reader, path):
        raise BadData(f"{path}: found a Delta table, need Parquet files; set input.format=delta")
    return reader.format(kind).load(files.spark_path(path) if kind == "parquet" else path)


def _is_delta(reader: DataFrameReader, path: str) -> bool:
    try:
        return bool(reader.format("delta").load(path).schema)
    except AnalysisException:
        return False


def _table_values(
    table: DataFrame,
    path: str,
    columns: Mapping[str, str],
    types: Mapping[str, Collection[str]],
    typed: Collection[str],
) -> DataFrame:
    kinds = {field.name: field.dataType for field in table.schema}
    _check_columns(path, kinds, columns, types)
    values, problems = {}, []
    for option, column in columns.items():
        value, kind = expressions.column(column), kinds[column]
        if isinstance(kind, T.StringType):
            # Writers of Parquet may store any bytes as text.
            problems.append(F.when(~F.is_valid_utf8(value), problem("broken UTF-8", F.make_valid_utf8(value))))
        if option in typed or option in types:
            values[name(option)] = value
        else:
            problems.append(F.when(ids.is_inexact(value, kind), problem(ids.INEXACT, value.cast("string"))))
            values[name(option)] = ids.as_text(value, kind)
    return _rows(table, values, F.lit(path).alias("origin"), F.coalesce(expressions.null(), *problems))


def _csv_values(rows: DataFrame, names: list[str], columns: Mapping[str, str]) -> DataFrame:
    values = {name(option): F.col(f"row.c{names.index(column)}") for option, column in columns.items()}
    # The parser puts this character where bytes are broken.
    broken = [F.when(F.contains(value, F.lit("\ufffd")), problem("broken UTF-8", value)) for value in values.values()]
    return _rows(rows, values, F.col("origin"), F.coalesce("problem", *broken))


def _json_values(rows: DataFrame, columns: Mapping[str, str], types: Mapping[str, Collection[str]]) -> DataFrame:
    record = F.make_valid_utf8("value")
    problems = []
    for option, key in columns.items():
        kind = json_lines.kind_of(key)
        if list(types.get(option, ())) == ["string"]:
            wrong, need = F.coalesce(kind, F.lit("")) != "STRING", "text"
        else:
            wrong, need = kind.startswith("OBJECT") | kind.startswith("ARRAY"), "simple value"
        problems.append(F.when(wrong, problem(f"no {need} under {key}", record)))
        problems.append(F.when(json_lines.is_inexact(key), problem(ids.INEXACT, record)))
    values = {name(option): json_lines.text_of(key) for option, key in columns.items()}
    return _rows(rows, values, F.col("origin"), F.coalesce("problem", *problems))


def _rows(table: DataFrame, values: Mapping[str, Column], origin: Column, reason: Column) -> DataFrame:
    """Return the values, null where there is a problem, with origin and problem."""
    clean = [F.when(reason.isNull(), value).alias(key) for key, value in values.items()]
    return table.select(*clean, origin, reason.alias("problem"))


def _check_columns(
    path: str,
    kinds: Mapping[str, T.DataType],
    columns: Mapping[str, str],
    types: Mapping[str, Collection[str]],
) -> None:
    names = ", ".join(f"{column} {kind.simpleString()}" for column, kind in kinds.items()) or "none"
    for option, column in columns.items():
        if column not in kinds:
            raise SchemaMismatch(f"{path}: no column {column!r} (columns: {names}); set {option}")
        allowed, kind = types.get(option), kinds[column].simpleString()
        if kind not in allowed if allowed else not isinstance(kinds[column], _SIMPLE):
            need = " or ".join(allowed) if allowed else "text, a number, a truth value, a date or a timestamp"
            raise SchemaMismatch(
                f"{path}: column {column!r} is {kind}, need {need}; set {option} to such a column or cast this one"
            )
