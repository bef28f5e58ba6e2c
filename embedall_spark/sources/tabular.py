"""Named columns of tables and files; a row that cannot be read says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pyspark.errors import AnalysisException
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.errors import BadData, SchemaMismatch
from embedall_spark.schemas import REJECTS, conform
from embedall_spark.sources import csv_files, input_version, reader_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession

Format = Literal["delta", "parquet", "csv", "json"]

_SAMPLE = 1000
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
    types: Mapping[str, Collection[str]] | None = None,
) -> DataFrame:
    """Return the columns of a table or of files, lazily, one row per row or line, with ``origin`` and ``problem``.

    A row that cannot be read has its ``problem``, whose text after the first ": " is the beginning of the record, and
    nulls for the rest. ``origin`` is the file's path or the table's name.

    Args:
        spark: the session.
        path: a folder, glob or file (gzip and bz2 are unpacked), or a table catalog.schema.table.
        format: json: JSON Lines; csv: quotes are doubled inside quotes; delta: a path or a table.
        columns: the column (in JSON the key) of each option, such as {"input.key": "user_id"}. The column comes back
            under the last part of the option, here ``key``, since its own name might be ``origin``. Types are kept; all
            is text where the format is csv or json.
        separator: what stands between the columns of csv.
        header: whether csv files begin with a line of names; else columns are called _c0, _c1, ...
        multiline: whether quoted values of csv may hold line breaks; else a row is a line. None: likewise, and there is
            no option for it that a problem could name.
        types: Spark's names of the types that an option's column may have in a table, where those are not the simple
            ones, such as {"input.content": ["binary"]}.

    Raises:
        BadData: there is nothing at the path, or nothing in it, or it is of another format.
        SchemaMismatch: a column is missing or is of none of the types that it may have.
    """

    def make() -> DataFrame:
        if format == "csv":
            return _read_csv(spark, path, columns, separator, header, multiline)
        if format == "json":
            return _read_json(spark, path, columns)
        return _read_table(spark, path, format, columns, types or {})

    return reader_errors.opened(path, format, make)


def rejects(rows: DataFrame) -> DataFrame:
    """Return the rows with a problem, of any table with ``origin`` and ``problem``, as REJECTS."""
    cut = F.instr("problem", ": ")
    reason = F.when(cut > 0, F.left("problem", cut - 1)).otherwise(F.col("problem"))
    record = F.when(cut > 0, F.substring(F.col("problem"), cut + 2, F.lit(reader_errors.EXCERPT)))
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
    if not input_version.is_path(path):
        return spark.table(path)
    reader = reader_errors.strict(spark)
    if kind == "parquet" and _is_delta(reader, path):
        raise BadData(f"{path}: found a Delta table, need Parquet files; set input.format=delta")
    return reader.format(kind).load(path)


def _is_delta(reader: DataFrameReader, path: str) -> bool:
    try:
        return bool(reader.format("delta").load(path).schema)
    except AnalysisException:
        return False


def as_text(name: str, kind: T.DataType) -> Column:
    """Return a column of this type as text."""
    value = F.col(name)
    if isinstance(kind, T.FractionalType) and not isinstance(kind, T.DecimalType):
        # What pandas writes for a missing number.
        value = F.when(~F.isnan(value), value)
    return value.cast("string")


def _read_table(
    spark: SparkSession, path: str, kind: str, columns: Mapping[str, str], types: Mapping[str, Collection[str]]
) -> DataFrame:
    table = stored(spark, path, kind)
    kinds = {field.name: field.dataType for field in table.schema}
    _check_columns(path, {key: value.simpleString() for key, value in kinds.items()}, columns)
    for option, key in columns.items():
        allowed, found = types.get(option), kinds[key].simpleString()
        if found not in allowed if allowed else not isinstance(kinds[key], _SIMPLE):
            need = " or ".join(allowed) if allowed else "text, a number, a truth value, a date or a timestamp"
            raise SchemaMismatch(
                f"{path}: column {key!r} is {found}, need {need}; set {option} to such a column or cast this one"
            )
    # Writers of Parquet may store any bytes as text.
    text = [
        reader_errors.column(key) for key in dict.fromkeys(columns.values()) if isinstance(kinds[key], T.StringType)
    ]
    broken = [
        F.when(~F.is_valid_utf8(value), reader_errors.problem("broken UTF-8", F.make_valid_utf8(value)))
        for value in text
    ]
    problem = F.coalesce(reader_errors.null(), *broken)
    return _rows(
        table, {name(o): reader_errors.column(key) for o, key in columns.items()}, F.lit(path).alias("origin"), problem
    )


def _read_csv(
    spark: SparkSession, path: str, columns: Mapping[str, str], separator: str, header: bool, multiline: bool | None
) -> DataFrame:
    option = None if multiline is None else "input.multiline"
    names, rows = csv_files.read(spark, path, separator, header, bool(multiline), option)
    _check_columns(path, dict.fromkeys(names, "text"), columns)
    values = {name(option): F.col(f"row.c{names.index(key)}") for option, key in columns.items()}
    # The reader puts this character where bytes are broken.
    broken = [
        F.when(F.contains(value, F.lit("\ufffd")), reader_errors.problem("broken UTF-8", value))
        for value in values.values()
    ]
    return _rows(rows, values, F.col("origin"), F.coalesce("problem", *broken))


def _read_json(spark: SparkSession, path: str, columns: Mapping[str, str]) -> DataFrame:
    lines = reader_errors.lines(spark, path).where(F.trim("value") != "")
    fits = F.octet_length("value") <= reader_errors.JSON_LIMIT
    # The parser would replace broken bytes in silence.
    valid = F.is_valid_utf8("value")
    parsed = lines.withColumn("row", F.when(fits & valid, F.try_parse_json("value")))
    record = F.make_valid_utf8("value")
    kinds = {
        key: F.schema_of_variant(F.variant_get("row", reader_errors.json_path(key), "variant"))
        for key in columns.values()
    }
    deep = [
        F.when(
            kind.startswith("OBJECT") | kind.startswith("ARRAY"),
            reader_errors.problem(f"no simple value under {key}", record),
        )
        for key, kind in kinds.items()
    ]
    problem = F.coalesce(
        F.when(~fits, f"line over {reader_errors.JSON_LIMIT} bytes"),
        F.when(~valid, reader_errors.problem("broken UTF-8", record)),
        F.when(F.col("row").isNull(), reader_errors.problem("not JSON", record)),
        F.when(~F.schema_of_variant("row").startswith("OBJECT"), reader_errors.problem("not a JSON object", record)),
        *deep,
    )
    _check_keys(path, parsed, columns)
    values = {
        name(option): F.variant_get("row", reader_errors.json_path(key), "string") for option, key in columns.items()
    }
    return _rows(parsed, values, F.col("origin"), problem)


def _rows(table: DataFrame, values: Mapping[str, Column], origin: Column, problem: Column) -> DataFrame:
    """Return the values, null where there is a problem, with origin and problem."""
    clean = [F.when(problem.isNull(), value).alias(key) for key, value in values.items()]
    return table.select(*clean, origin, problem.alias("problem"))


def _check_columns(path: str, kinds: Mapping[str, str], columns: Mapping[str, str]) -> None:
    for option, key in columns.items():
        if key not in kinds:
            found = ", ".join(f"{key} {kind}" for key, kind in kinds.items()) or "none"
            raise SchemaMismatch(f"{path}: no column {key!r} (columns: {found}); set {option}")


def _check_keys(path: str, parsed: DataFrame, columns: Mapping[str, str]) -> None:
    """Look at the first lines, so that a wrong key is found before long work."""
    there = [
        F.count(F.variant_get("row", reader_errors.json_path(key), "variant")).alias(f"n{i}")
        for i, key in enumerate(columns.values())
    ]
    sample = parsed.limit(_SAMPLE).agg(F.count("*").alias("rows"), F.count("row").alias("parsed"), *there).first()
    if sample is None or sample["rows"] == 0:
        return
    if not sample["parsed"]:
        raise BadData(f"{path}: none of the first {sample['rows']} lines is JSON; need one JSON object per line")
    for i, (option, key) in enumerate(columns.items()):
        if not sample[f"n{i}"]:
            first = parsed.select(F.json_object_keys("value").alias("keys")).where("keys is not null").first()
            found = ", ".join(first["keys"]) if first else "none"
            raise SchemaMismatch(
                f"{path}: none of the first {sample['rows']} lines has a key {key!r} (keys found: {found}); "
                f"set {option}"
            )
