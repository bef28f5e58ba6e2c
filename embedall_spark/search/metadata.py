"""What a table of metadata says about ids: to choose among the rows of a table of vectors, and to show."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import functions as F

from embedall_spark.errors import ConfigError
from embedall_spark.sources import expressions, ids, input_version, reader_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pyspark.sql import DataFrame, SparkSession

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PACKED = (".gz", ".bz2")
MAX_SHOWN = 1_000_000  # ids whose metadata are brought to the driver


def read(spark: SparkSession, path: str, id_column: str) -> DataFrame:
    """Return all columns of a table or file of metadata, the column of ids as text under the name ``id``.

    Args:
        spark: the session.
        path: a file (.csv, .tsv with a line of names; .json, .jsonl; .parquet) or a Delta table. Columns of .csv and
            .tsv are text.
        id_column: the column of ids.

    Raises:
        BadData: there is nothing at the path, or it is of another format.
        ConfigError: there is no such column.
    """
    name = PurePosixPath(path)
    suffix = (name.with_suffix("") if name.suffix in _PACKED else name).suffix

    def make() -> DataFrame:
        if suffix in _SEPARATORS:
            # A quote inside quotes is doubled (RFC 4180).
            return spark.read.csv(path, sep=_SEPARATORS[suffix], header=True, escape='"')
        if suffix in (".json", ".jsonl"):
            return spark.read.json(path)
        if suffix == ".parquet":
            return spark.read.parquet(path)
        return spark.read.format("delta").load(path) if input_version.is_path(path) else spark.table(path)

    found = reader_errors.opened(path, {"": "delta", ".tsv": "csv"}.get(suffix, suffix.removeprefix(".")), make)
    if id_column not in found.columns:
        raise ConfigError(f"{path}: no column {id_column!r} (columns: {', '.join(found.columns)}); set --id-column")
    others = [column for column in found.columns if column not in (id_column, "id")]
    id_text = ids.as_text(expressions.column(id_column), found.schema[id_column].dataType)
    return found.select(id_text.alias("id"), *map(expressions.column, others))


def where(vectors: DataFrame, condition: str, known: DataFrame | None = None) -> DataFrame:
    """Return the rows of a table for which a condition in SQL holds.

    Args:
        vectors: VECTORS.
        condition: over the table's columns and, by id, those of ``known``; where both have a column of this name, it
            is ``vectors.NAME`` or ``names.NAME``. Of several rows of an id in ``known`` one has to fit.
        known: as read() returns it.

    Raises:
        ConfigError: Spark does not take the condition, or it fails on some row; with the reason.
    """
    left, beside = vectors.alias("vectors"), []
    try:
        if known is None:
            chosen = found = left.where(condition)
        else:
            # By hand and not by name: a name that both have must stay one that the condition can tell apart.
            right, beside = known.withColumnRenamed("id", "known_id").alias("names"), known.dtypes
            joined = left.join(right, F.col("vectors.id") == F.col("names.known_id"), "left")
            chosen = joined.where(condition).select(F.col("vectors.id").alias("id")).distinct().persist()
            found = vectors.join(chosen, "id", "left_semi")
        # A text that is no number fails where its row is looked at, which must not be inside a search.
        chosen.count()
    except PySparkException as error:
        if not isinstance(error, AnalysisException) and not error.getQueryContext():
            raise
        raise ConfigError(f"--where {condition!r}: {_reason(error, condition, vectors.dtypes + beside)}") from None
    return found


def _reason(error: PySparkException, condition: str, columns: list[tuple[str, str]]) -> str:
    """Return what is wrong with a condition, without the plan that Spark shows, and what to write."""
    said = error.getMessageParameters() or {}
    if error.getCondition() != "CAST_INVALID_INPUT":
        return f"Spark does not take it: {' '.join(str(error).partition('SQLSTATE')[0].split())[:500]}"
    # BETWEEN and IN are told without what stands before them.
    part = next((context.fragment() for context in error.getQueryContext()), condition)
    texts = _texts(part, columns) or _texts(condition, columns) or ["text"]
    kind = said["targetType"].strip('"')
    wider = "DOUBLE" if kind in ("INT", "BIGINT") else kind
    return (
        f"the column {' or '.join(texts)} is text (string) and is compared with {kind}, which the value "
        f"{said['expression']} is not; put what it is compared with in quotes, or write "
        f"TRY_CAST({texts[0]} AS {wider}), which leaves out such rows"
    )


def _texts(part: str, columns: list[tuple[str, str]]) -> list[str]:
    """Return the columns of text that a part of a condition names, as it has to write them."""
    named = [
        name for name, kind in columns if kind == "string" and re.search(rf"(?i)(?<!\w){re.escape(name)}(?!\w)", part)
    ]
    return [name if re.fullmatch(r"\w+", name) else f"`{name}`" for name in dict.fromkeys(named)]


def metadata_by_id(known: DataFrame, ids: Collection[str], columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the values of some columns, as text, of those of a few ids that have any.

    Of several rows of an id the first value in order is taken; what is null is left out.

    Args:
        known: as read() returns it.
        ids: the ids.
        columns: which of its columns; they must be there.

    Raises:
        ConfigError: there are more than MAX_SHOWN ids.
    """
    if len(ids) > MAX_SHOWN:
        raise ConfigError(f"metadata of {len(ids):,} ids asked for, at most {MAX_SHOWN:,} are at once; join the table")
    names = known.sparkSession.createDataFrame(pa.table({"id": pa.array(sorted(set(ids)), pa.string())}))
    values = [F.min(expressions.column(column).cast("string")).alias(f"c{at}") for at, column in enumerate(columns)]
    if not values:
        return {}
    table = known.join(names, "id", "left_semi").groupBy("id").agg(*values).toArrow()
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return {
        name: {column: text for column, text in zip(columns, texts, strict=True) if text is not None}
        for name, *texts in rows
    }
