"""Metadata of ids, such as titles and labels: the one reader behind --names, --labels and evaluate.metadata."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import pyarrow as pa
from pydantic import Field, model_validator
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import files
from embedall_spark.config import MOVABLE, InputPath, Section
from embedall_spark.errors import ConfigError, SchemaMismatch
from embedall_spark.schemas import from_arrow
from embedall_spark.sources import csv_files, expressions, json_lines, reader_errors, tabular
from embedall_spark.sources import ids as id_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pyspark.sql import Column, DataFrame, SparkSession

log = logging.getLogger(__name__)

MAX_IDS = 1_000_000  # whose metadata come to the driver
_NAMES = ("id", "label", "title")
_COMPRESSED = (".gz", ".bz2")
_SUFFIXES: dict[str, tuple[tabular.Format, str]] = {
    ".csv": ("csv", ","),
    ".tsv": ("csv", "\t"),
    ".json": ("json", ","),
    ".jsonl": ("json", ","),
    ".parquet": ("parquet", ","),
}
_FIRST_BYTES = 1 << 16  # among which the first line is looked for


class Metadata(Section):
    """Where the labels and titles of ids come from."""

    OPTIONS: ClassVar[dict[str, str]] = {name: f"metadata.{name}" for name in ("path", *_NAMES)}
    """What errors tell to correct, by field."""

    path: InputPath | None = Field(
        None,
        description="a file (.csv, .tsv, .json, .jsonl, .parquet) or a Delta table; several rows where an id has "
        "several labels. A .csv or .tsv whose first line has none of the columns' names has no header: three columns "
        "or more are id, label and title, in this order; two are id and label, or id and title where label is null",
        json_schema_extra=MOVABLE,
    )
    prefix: str | None = Field(
        None,
        min_length=1,
        description="in place of path: an id's label is its part before this text ('.': numpy for numpy.linalg)",
        json_schema_extra=MOVABLE,
    )
    id: str = Field("id", description="the column of ids", json_schema_extra=MOVABLE)
    label: str | None = Field("label", description="the column of labels; null: none", json_schema_extra=MOVABLE)
    title: str | None = Field(
        None, description="the column of texts to show in place of ids; null: none", json_schema_extra=MOVABLE
    )
    split: str | None = Field(
        None,
        min_length=1,
        description="what stands between several labels in one row, such as '|'; null: one label",
        json_schema_extra=MOVABLE,
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.prefix is None):
            raise ValueError("give either path (a file or table of labels) or prefix (labels are parts of the ids)")
        if self.path is not None and self.label is None and self.title is None:
            raise ValueError("label and title are both null; name the column of one")
        return self


class Names(Metadata):
    """The same, as the command line says it by --names or --labels and the options beside these."""

    OPTIONS: ClassVar[dict[str, str]] = {"path": "the path"} | {name: f"--{name}-column" for name in _NAMES}


def check(config: Metadata) -> None:
    """Raise ConfigError, before Spark starts, if the file is missing or of an unknown format."""
    path = config.path
    if path is None:
        return
    if format_of(path)[0] == "delta":
        if Path(path).is_file():
            need = f"need {', '.join(_SUFFIXES)} or a Delta table's folder"
            raise ConfigError(f"{path}: the name tells no format; {need}: rename the file")
    elif not set(path) & set("*?[{") and not files.exists(path):
        raise ConfigError(f"{path}: no such file or folder; correct {config.OPTIONS['path']}")


def check_columns(spark: SparkSession, config: Metadata | None) -> None:
    """Raise what read() would raise for a missing or unreadable column, before long work."""
    if config is not None and config.path is not None:
        _open(spark, config)


def read(spark: SparkSession, config: Metadata, vectors: DataFrame | None = None) -> DataFrame:
    """Return id, label and title (strings) of every id; several rows where it has several labels, none twice.

    Rows without an id, or that cannot be read, are left out and counted in the log.

    Args:
        spark: the session.
        config: where they come from.
        vectors: VECTORS, or any table with a column ``id``; needed where labels are parts of the ids.

    Raises:
        BadData: there is nothing at the path, or it is of another format.
        ConfigError: labels are parts of the ids, and there are no ``vectors``.
        SchemaMismatch: a column is missing or is not of a simple type.
    """
    if config.prefix is not None:
        if vectors is None:
            raise ConfigError("metadata.prefix: labels are parts of the ids, so that it needs a table of vectors")
        first = F.substring_index("id", config.prefix, 1)
        return vectors.select("id", _filled(first).alias("label"), expressions.null().alias("title")).distinct()
    rows = _readable(_open(spark, config), config.path)
    types = {field.name: field.dataType for field in rows.schema}
    texts = {
        name: id_text.as_text(F.col(name), types[name]) if name in types else expressions.null() for name in _NAMES
    }
    rows = rows.select(*(text.alias(name) for name, text in texts.items()))
    label = rows["label"]
    if config.split is not None:
        label = F.explode_outer(F.split(label, f"\\Q{config.split}\\E"))
    rows = rows.where("id is not null").select("id", label.alias("label"), "title")
    return rows.withColumns({"label": _filled(F.trim("label")), "title": _filled(F.trim("title"))}).distinct()


def read_all(spark: SparkSession, config: Metadata, columns: Iterable[str] = ()) -> DataFrame:
    """Return all columns of a table or file of metadata, the column of ids as text under the name ``id``.

    Columns of .csv and .tsv are text; their rows that cannot be read are left out and counted in the log. In a file
    without header they are called id, label and title, as in read(), and then column_4 and so on.

    Args:
        spark: the session.
        config: where they are, with a path.
        columns: further column names by which a header is recognized.

    Raises:
        BadData: there is nothing at the path, or it is of another format.
        ConfigError: there is no such column of ids.
    """
    rows = open_all(spark, config, columns)
    return _readable(rows, config.path) if format_of(config.path or "")[0] in ("csv", "json") else rows


def open_all(spark: SparkSession, config: Metadata, columns: Iterable[str] = ()) -> DataFrame:
    """Return what read_all() returns, lazily; of .csv, .tsv and JSON Lines all rows, with their ``problem``."""
    assert config.path is not None
    path, id_column, (kind, separator) = config.path, config.id, format_of(config.path)
    if kind == "csv":
        header = read_header(path, separator, {*_columns(config).values(), *_NAMES, *columns})
        rows = reader_errors.opened(path, kind, lambda: _read_csv(spark, path, separator, header))
        id_column = "id" if header.absent else id_column
    elif kind == "json":
        rows = reader_errors.opened(path, kind, lambda: _read_json(spark, path))
    else:
        rows = reader_errors.opened(path, kind, lambda: tabular.stored(spark, path, kind))
    if (count := rows.columns.count(id_column)) != 1:
        has = ", ".join(rows.columns[:-1] if kind in ("csv", "json") else rows.columns)
        problem = "several columns" if count else "no column"
        raise ConfigError(f"{path}: {problem} {id_column!r} (columns: {has}); set {config.OPTIONS['id']}")
    if id_column != "id":
        rows = rows.drop("id").withColumnRenamed(id_column, "id")
    return rows.withColumn("id", id_text.as_text(F.col("id"), rows.schema["id"].dataType))


def metadata_by_id(metadata: DataFrame, ids: Collection[str], columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the values of some columns, as text, of those of a few ids that have any.

    Of several rows of an id the first value in order is taken; nulls are left out.

    Args:
        metadata: as read_all() returns it.
        ids: the ids.
        columns: which of its columns; they must be there.

    Raises:
        ConfigError: there are more than MAX_IDS ids.
    """
    if len(ids) > MAX_IDS:
        raise ConfigError(f"metadata of {len(ids):,} ids: need {MAX_IDS:,} ids or fewer; join the table in Spark")
    wanted = from_arrow(metadata.sparkSession, pa.table({"id": pa.array(sorted(set(ids)), pa.string())}))
    values = [F.min(expressions.column(name).cast("string")).alias(f"c{i}") for i, name in enumerate(columns)]
    if not values:
        return {}
    table = metadata.join(wanted, "id", "left_semi").groupBy("id").agg(*values).toArrow()
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return {
        name: {column: text for column, text in zip(columns, texts, strict=True) if text is not None}
        for name, *texts in rows
    }


class _Header(NamedTuple):
    absent: bool
    width: int
    """Columns of the first line; 0 where it cannot be looked at, as in a folder."""

    def names(self) -> list[str]:
        """Return the columns' names in a file without header."""
        if self.width == 2:
            return ["id", "title"]
        return [*_NAMES, *(f"column_{place}" for place in range(4, self.width + 1))][: self.width]


def _open(spark: SparkSession, config: Metadata) -> DataFrame:
    """Return those of the columns id, label and title that are wanted, as they are, and ``problem``."""
    assert config.path is not None
    kind, separator = format_of(config.path)
    columns = {f"metadata.{name}": column for name, column in _columns(config).items()}
    header = read_header(config.path, separator, columns.values()) if kind == "csv" else _Header(False, 0)
    if header.absent:
        # Of two columns the second is what is wanted.
        order = list(columns) if header.width == 2 else [f"metadata.{name}" for name in _NAMES]
        if missing := [name for name in columns if order.index(name) >= header.width]:
            raise SchemaMismatch(
                f"{config.path}: has {header.width} column{'s' * (header.width > 1)} and no header, need "
                f"{order.index(missing[-1]) + 1}: {', '.join(name.rpartition('.')[2] for name in order)}; write a "
                "header or the columns that are missing"
            )
        columns = {name: f"_c{order.index(name)}" for name in columns}
    try:
        return tabular.read(spark, config.path, kind, columns, separator=separator, header=not header.absent)
    except SchemaMismatch as error:
        message = str(error)
        for name, option in config.OPTIONS.items():
            message = message.replace(f"metadata.{name}", option)
        raise SchemaMismatch(message) from None


def _columns(config: Metadata) -> dict[str, str]:
    """Return the column that is wanted as id, label and title; those that are null are left out."""
    return {name: column for name in _NAMES if (column := getattr(config, name)) is not None}


def _read_csv(spark: SparkSession, path: str, separator: str, header: _Header) -> DataFrame:
    """Return all columns as text, and ``problem``; a column of that name gives way."""
    names, rows = csv_files.read(spark, path, separator, not header.absent, False, None, "utf-8")
    if header.absent:
        names = header.names()
    columns = [F.col(f"row.c{place}").alias(name) for place, name in enumerate(names) if name != "problem"]
    return rows.select(*columns, "problem")


def _read_json(spark: SparkSession, path: str) -> DataFrame:
    """Return all keys as columns of the types that Spark infers, and ``problem``; a key of that name gives way."""
    rows = json_lines.read(spark, path, {}, "utf-8", json_lines.MAX_BYTES, "a limit of JSON Lines")
    inferred = spark.read.json(files.spark_path(path)).schema
    fields = [field for field in inferred if field.name not in ("_corrupt_record", "problem")]
    return rows.select(F.from_json("value", T.StructType(fields)).alias("row"), "problem").select("row.*", "problem")


def _readable(rows: DataFrame, path: str | None) -> DataFrame:
    """Return the rows without a problem; the others are counted in the log."""
    bad = rows.where("problem is not null").agg(F.count("*").alias("rows"), F.min("problem").alias("first")).first()
    if bad and bad["rows"]:
        log.warning("%s: %d rows cannot be read and are left out; %s", path, bad["rows"], bad["first"])
    return rows.where("problem is null").drop("problem")


def format_of(path: str) -> tuple[tabular.Format, str]:
    """Return the format that a path's suffix tells, and the separator of its columns."""
    name = PurePosixPath(path)
    return _SUFFIXES.get((name.with_suffix("") if name.suffix in _COMPRESSED else name).suffix, ("delta", ","))


def read_header(path: str, separator: str, names: Iterable[str]) -> _Header:
    """Return whether the first line of a file lacks all of the columns' names, and how many columns it has."""
    try:
        filesystem, inside = files.resolve(path)
        with filesystem.open_input_stream(inside) as stream:
            start = bytes(stream.read(_FIRST_BYTES))
    except OSError:
        # A folder or a glob; or nothing, which the reader reports.
        return _Header(False, 0)
    line = re.split("[\r\n]", start.decode("utf-8-sig", "replace"), maxsplit=1)[0]
    fields = next(csv.reader([line], delimiter=separator), [])
    header = _Header(bool(fields) and {*names}.isdisjoint(fields), len(fields))
    if header.absent:
        log.info("%s: no header, since its first line has no column %s", path, " or ".join(sorted(map(repr, names))))
    return header


def _filled(text: Column) -> Column:
    return F.nullif(text, F.lit(""))
