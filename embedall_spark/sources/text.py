"""Text files and tables to DOCUMENTS; what cannot be read becomes a row that says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from pyspark.sql import functions as F

from embedall_spark.config import InputPath, Section
from embedall_spark.errors import BadData, SchemaMismatch
from embedall_spark.schemas import DOCUMENTS, conform
from embedall_spark.sources import csv_files, python_docstrings, reader_errors, tabular

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import Column, DataFrame, SparkSession

_SAMPLE = 1000


class TextConfig(Section):
    """Where documents come from."""

    path: InputPath = Field(description="a folder, glob or file (also gzip, bz2), or a table catalog.schema.table")
    format: Literal["text", "json", "csv", "parquet", "delta", "docstrings"] = Field(
        "text",
        description="text: text files; json: JSON Lines; csv: with a header line; parquet; delta: a path or a table; "
        "docstrings: the docstrings of every .py file below the folder",
    )
    per: Literal["line", "file"] = Field(
        "line", description="with format: text, what a document is (a file of 0 bytes is none)"
    )
    column: str = Field("text", description="the column (in JSON Lines the key) that holds the text")
    id_column: str | None = Field(
        None,
        description="the column of the documents' ids, integers as they are and others hashed; else text is hashed",
    )
    multi_line: bool = Field(
        True,
        description="with format: csv, quoted text may hold line breaks; false where none does: big files are then "
        "read by several tasks",
    )
    max_document_bytes: int = Field(
        1 << 24, ge=1, le=1 << 28, description="larger documents are rejected unread; JSON Lines: at most 16 MiB a line"
    )

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if self.per == "file" and self.format != "text":
            raise ValueError(f"per: file goes with format: text only, found format: {self.format}")
        if self.id_column is not None and self.format in ("text", "docstrings"):
            raise ValueError(f"id_column: format {self.format} has no columns; remove it, found {self.id_column!r}")
        return self


def read(spark: SparkSession, config: TextConfig) -> DataFrame:
    """Return DOCUMENTS, lazily, one row per document or unreadable record.

    Ids are those of ``id_column``, or the xxhash64 of the text: the same however the input is cut into files. A
    problem's text after its first ": " is the beginning of the record.

    Raises:
        BadData: there is nothing at the path, or nothing in it, or it is of another format.
        SchemaMismatch: a column is missing or is not text.
    """
    readers: dict[str, Callable[[SparkSession, TextConfig], DataFrame]] = {
        "text": _read_files if config.per == "file" else _read_lines,
        "json": _read_json,
        "csv": _read_csv,
        "parquet": _read_table,
        "delta": _read_table,
    }
    if config.format == "docstrings":
        # It looks at the files itself; a first row would cost the parsing of all of them.
        return conform(python_docstrings.read(spark, config.path), DOCUMENTS)
    found = reader_errors.opened(config.path, config.format, lambda: readers[config.format](spark, config), "document")
    return conform(found, DOCUMENTS)


def _documents(df: DataFrame, config: TextConfig, identity: Column | None = None) -> DataFrame:
    """Complete (text, origin, problem) with ids and with the problems that all sources share."""
    limit = config.max_document_bytes
    problem = F.coalesce(
        F.col("problem"),
        F.when(F.col("text").isNull(), "null"),
        F.when(F.octet_length("text") > limit, f"document over {limit} bytes"),
    )
    if identity is not None:
        problem = F.coalesce(problem, F.when(identity.isNull(), f"{config.id_column} is null"))
    key = F.xxhash64(F.coalesce("text", "problem"))
    return df.select(
        (key if identity is None else F.coalesce(identity, key)).alias("id"),
        F.when(problem.isNull(), F.col("text")).alias("text"),
        "origin",
        problem.alias("problem"),
    )


def _read_lines(spark: SparkSession, config: TextConfig) -> DataFrame:
    lines = reader_errors.lines(spark, config.path)
    return _documents(
        lines.select(F.col("value").alias("text"), "origin", reader_errors.null().alias("problem")), config
    )


def _read_files(spark: SparkSession, config: TextConfig) -> DataFrame:
    limit = config.max_document_bytes
    whole = reader_errors.strict(spark).text(config.path, wholetext=True).where(F.col("_metadata.file_size") <= limit)
    small = whole.select(
        F.ltrim("value", F.lit("\ufeff")).alias("text"),
        reader_errors.origin(),
        reader_errors.null().alias("problem"),
    )
    # This source knows a file's length without opening it.
    large = reader_errors.strict(spark).format("binaryFile").load(config.path).where(F.col("length") > limit)
    over = F.lit(f"document over {limit} bytes")
    return _documents(
        small.unionByName(
            large.select(reader_errors.null().alias("text"), reader_errors.origin(), over.alias("problem"))
        ),
        config,
    )


def _read_json(spark: SparkSession, config: TextConfig) -> DataFrame:
    lines = reader_errors.lines(spark, config.path)
    limit = min(config.max_document_bytes, reader_errors.JSON_LIMIT)
    fits = F.octet_length("value") <= limit
    # The parser would replace broken bytes in silence.
    valid = F.is_valid_utf8("value")
    parsed = lines.withColumn("row", F.when(fits & valid, F.try_parse_json("value")))
    kind = F.schema_of_variant(F.variant_get("row", reader_errors.json_path(config.column), "variant"))
    record = F.make_valid_utf8("value")
    problem = (
        F.when(~fits, F.lit(f"document over {limit} bytes"))
        .when(~valid, reader_errors.problem("broken UTF-8", record))
        .when(F.col("row").isNull(), reader_errors.problem("not JSON", record))
        .when(F.coalesce(kind, F.lit("")) != "STRING", reader_errors.problem(f"no text under {config.column}", record))
    )
    rows = parsed.select(
        F.when(problem.isNull(), F.variant_get("row", reader_errors.json_path(config.column), "string")).alias("text"),
        "origin",
        problem.alias("problem"),
        "row",
    )
    _check_keys(rows, lines, config)
    if config.id_column is None:
        return _documents(rows, config)
    return _documents(
        rows, config, _from_text(F.variant_get("row", reader_errors.json_path(config.id_column), "string"))
    )


def _check_keys(rows: DataFrame, lines: DataFrame, config: TextConfig) -> None:
    """Look at the first lines, so that a wrong key is found before long work."""
    sample = rows.limit(_SAMPLE).agg(F.count("*").alias("rows"), F.count("text").alias("texts")).first()
    if sample is None or sample.rows == 0 or sample.texts > 0:
        return
    first = lines.select(F.json_object_keys("value").alias("keys")).limit(_SAMPLE).where("keys is not null").first()
    if first is None:
        raise BadData(f"{config.path}: none of the first {sample.rows} lines is JSON; need one JSON object per line")
    raise SchemaMismatch(
        f"{config.path}: none of the first {sample.rows} lines has text under {config.column!r} "
        f"(keys found: {', '.join(first['keys'])}); set column"
    )


def _read_csv(spark: SparkSession, config: TextConfig) -> DataFrame:
    names, rows = csv_files.read(spark, config.path, ",", True, config.multi_line, "input.multi_line")
    _check_columns(dict.fromkeys(names, "string"), config)
    text = F.col(f"row.c{names.index(config.column)}")
    # The reader puts this character where bytes are broken.
    broken = F.contains(text, F.lit("\ufffd"))
    problem = F.coalesce("problem", F.when(broken, reader_errors.problem("broken UTF-8", text)))
    identity = _from_text(F.col(f"row.c{names.index(config.id_column)}")) if config.id_column else None
    kept = rows.select(text.alias("text"), "origin", problem.alias("problem"), *_named(identity))
    return _documents(kept, config, None if identity is None else F.col("identity"))


def _read_table(spark: SparkSession, config: TextConfig) -> DataFrame:
    table = tabular.stored(spark, config.path, config.format)
    kinds = {field.name: field.dataType.simpleString() for field in table.schema}
    _check_columns(kinds, config)
    identity = None
    if config.id_column:
        column = reader_errors.column(config.id_column)
        whole = kinds[config.id_column] in ("tinyint", "smallint", "int", "bigint")
        identity = column.cast("bigint") if whole else F.when(column.isNotNull(), F.xxhash64(column))
    text = reader_errors.column(config.column).alias("text")
    kept = table.select(
        text, F.lit(config.path).alias("origin"), reader_errors.null().alias("problem"), *_named(identity)
    )
    return _documents(kept, config, None if identity is None else F.col("identity"))


def _check_columns(kinds: dict[str, str], config: TextConfig) -> None:
    found = ", ".join(f"{name} {kind}" for name, kind in kinds.items()) or "none"
    for option, name in (("column", config.column), ("id_column", config.id_column)):
        if name is not None and name not in kinds:
            raise SchemaMismatch(f"{config.path}: no column {name!r} (columns: {found}); set {option}")
    if kinds[config.column] != "string":
        raise SchemaMismatch(
            f"{config.path}: column {config.column!r} is {kinds[config.column]}, need string (columns: {found})"
        )


def _named(identity: Column | None) -> list[Column]:
    return [] if identity is None else [identity.alias("identity")]


def _from_text(value: Column) -> Column:
    """Return an id from its text: an integer as it is, anything else hashed."""
    return F.when(
        value.isNotNull(),
        F.coalesce(F.when(value.rlike("^(0|-?[1-9][0-9]{0,18})$"), value.try_cast("bigint")), F.xxhash64(value)),
    )
