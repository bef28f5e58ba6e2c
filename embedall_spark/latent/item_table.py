"""The titles and tags of the left side's ids: a Delta table, or a file of a format that metadata may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.errors import ConfigError, SchemaMismatch
from embedall_spark.schemas import ITEMS, conform
from embedall_spark.sources import expressions, ids, input_version, metadata, tabular

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from embedall_spark.latent.config import LatentInput
    from embedall_spark.run_context import Run

_TAGS = "array<string>"


class _Items(metadata.Metadata):
    OPTIONS: ClassVar[dict[str, str]] = {"path": "input.items"} | {
        name: f"input.item_columns.{name}" for name in ("id", "title", "tags", "label")
    }


def check(source: LatentInput) -> None:
    """Raise ConfigError, before Spark starts, if the file of the items is missing or of an unknown format."""
    metadata.check(_config(source))


def read(spark: SparkSession, source: LatentInput) -> DataFrame:
    """Return ITEMS with ``origin`` and ``problem``, lazily; an id may be there several times.

    Rows of a Delta table or of Parquet have no problem; those without an id are left out.

    Raises:
        BadData: there is nothing at the path, or it is of another format.
        ConfigError: there is no column of ids, or none with text, or one that is configured is missing.
        SchemaMismatch: a column is there twice, or is of another type.
    """
    path, columns = source.items_table, source.item_columns
    rows = metadata.open_all(spark, _config(source), [columns.tags])
    names = {field: getattr(columns, field) for field in ("title", "tags", "label")}
    _check_columns(path, rows.columns, names, columns.model_fields_set, source.text.use)
    types = {field.name: field.dataType for field in rows.schema}
    values = {
        field: _value(path, field, name, types[name], columns.tags_separator)
        if name in types
        else F.lit(None).cast(ITEMS[field].dataType)
        for field, name in names.items()
    }
    no_id, problem = F.coalesce("id", F.lit("")) == "", expressions.null()
    if is_text(source):
        record = F.to_json(F.struct(*(value.alias(field) for field, value in values.items())))
        problem = F.coalesce("problem", F.when(no_id, expressions.problem("no id", record)))
    else:
        rows = rows.where(~no_id)
    clean = [F.when(problem.isNull(), value).alias(field) for field, value in {"id": F.col("id"), **values}.items()]
    return rows.select(*clean, F.lit(path).alias("origin"), problem.alias("problem"))


def load(run: Run, source: LatentInput) -> DataFrame:
    """Return ITEMS, each id once: of several rows with one id the least counts, so that their order does not matter."""
    rows = _rows(run, source).where("problem IS NULL")
    each = rows.groupBy("id").agg(F.min(F.struct("title", "tags", "label")).alias("row"))
    return conform(each.select("id", "row.*"), ITEMS)


def refuse(run: Run, source: LatentInput) -> int:
    """Make rejects of the rows that cannot be read; return how many there are."""
    if not is_text(source):
        return 0
    rows = _rows(run, source)
    run.reject(tabular.rejects(rows))
    return tabular.reject_counts(rows)[0]


def version(spark: SparkSession, source: LatentInput) -> str:
    """Return the version of the items' table or files; raises as read() does."""
    read(spark, source)
    storage = input_version.storage_of(source.items_table, metadata.format_of(source.items_table)[0])
    return storage.version(spark)


def is_text(source: LatentInput) -> bool:
    """Tell whether the items are in files of text, which may have rows that cannot be read."""
    return metadata.format_of(source.items_table)[0] in ("csv", "json")


def _rows(run: Run, source: LatentInput) -> DataFrame:
    """Return what read() returns; text is parsed once in a run."""
    if is_text(source):
        return run.stage("items", lambda: read(run.spark, source))
    return read(run.spark, source)


def _config(source: LatentInput) -> metadata.Metadata:
    columns = source.item_columns
    return _Items(path=source.items_table, id=columns.id, title=columns.title, label=columns.label)


def _check_columns(
    path: str, columns: list[str], names: dict[str, str], configured: set[str], use: tuple[str, ...]
) -> None:
    """Raise what read() raises for columns that are missing or there twice."""
    listed = ", ".join(column for column in columns if column != "problem")
    for field, name in names.items():
        option = _Items.OPTIONS[field]
        if columns.count(name) > 1:
            raise SchemaMismatch(f"{path}: two columns are called {name!r} (columns: {listed}); rename one of them")
        if field in configured and name not in columns:
            raise ConfigError(f"{path}: no column {name!r} (columns: {listed}); set {option}")
    if not any(names[field] in columns for field in use):
        need = " or ".join(repr(names[field]) for field in use)
        options = " or ".join(_Items.OPTIONS[field] for field in use)
        raise ConfigError(
            f"{path}: no column {need} with the text of the items (columns: {listed}); set {options}. Columns are "
            "separated by commas in .csv and by tabs in .tsv"
        )


def _value(path: str, field: str, name: str, kind: T.DataType, separator: str) -> Column:
    """Return a column as text, or as an array of texts where it holds tags."""
    value = expressions.column(name)
    if field == "tags" and kind.simpleString() in (_TAGS, "string"):
        return expressions.tags(value, kind, separator)
    if field == "tags" or not isinstance(kind, T.StringType | T.NumericType | T.BooleanType):
        need = "an array of text, or text" if field == "tags" else "text or a number"
        raise SchemaMismatch(
            f"{path}: column {name!r} is {kind.simpleString()}, need {need}; set {_Items.OPTIONS[field]} to such a "
            "column or cast this one"
        )
    return F.nullif(F.trim(ids.as_text(value, kind)), F.lit(""))
