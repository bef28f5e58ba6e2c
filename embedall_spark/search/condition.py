"""Conditions in SQL that choose among the rows of a table of vectors, by its columns and by those of metadata."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import functions as F

from embedall_spark.errors import ConfigError, NeedsSpark
from embedall_spark.schemas import VECTORS
from embedall_spark.search import local_condition
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import row_array

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from embedall_spark.search.local_table import Vectors


def where(vectors: Vectors, condition: str, metadata: DataFrame | pa.Table | None = None) -> Vectors:
    """Return the rows of a table that fulfill a condition in SQL.

    Args:
        vectors: VECTORS.
        condition: over the table's columns and, by id, those of ``metadata``; where both have a column of this name,
            it is ``vectors.NAME`` or ``names.NAME``. If an id has several rows in ``metadata``, one of them suffices.
        metadata: as sources.metadata.read_all() returns it.

    Raises:
        ConfigError: Spark rejects the condition, or it fails on some row; with the reason.
        NeedsSpark: the table is on the driver, and the condition is beyond local_condition.
    """
    if isinstance(vectors, LocalTable):
        return _local_rows(vectors, condition, metadata)
    left, types = vectors.alias("vectors"), vectors.dtypes
    try:
        if metadata is None:
            ids = rows = left.where(condition)
        else:
            # Joined by expression, not by name: the condition must be able to tell apart a name that both have.
            right, types = metadata.withColumnRenamed("id", "names_id").alias("names"), types + metadata.dtypes
            joined = left.join(right, F.col("vectors.id") == F.col("names.names_id"), "left")
            ids = joined.where(condition).select(F.col("vectors.id").alias("id")).distinct().persist()
            rows = vectors.join(ids, "id", "left_semi")
        # A text that is no number fails when its row is evaluated, which must not happen inside a search.
        ids.count()
    except PySparkException as error:
        if not isinstance(error, AnalysisException) and not error.getQueryContext():
            raise
        raise ConfigError(f"--where {condition!r}: {_reason(error, condition, types)}") from None
    return rows


def _local_rows(vectors: LocalTable, condition: str, metadata: pa.Table | None) -> LocalTable:
    """Return the rows of a table on the driver that fulfill a condition."""
    rows = places = None
    if metadata is not None:
        left = pa.table([vectors.ids, row_array(np.arange(len(vectors)))], ["id", "row"])
        right = pa.table([metadata["id"], row_array(np.arange(len(metadata)))], ["id", "place"])
        joined = left.join(right, "id", join_type="left outer")
        rows, places = joined["row"], joined["place"]

    def column(name: str) -> pa.ChunkedArray:
        *table, name = [part.strip("`") for part in re.findall(r"`[^`]+`|\w+", name)]
        own = table in ([], ["vectors"]) and name in VECTORS.names
        other = table in ([], ["names"]) and metadata is not None and name in metadata.column_names and name != "id"
        if own == other or (own and name not in vectors.columns.column_names):
            raise NeedsSpark(f"--where names the column {name}, which only Spark can look up")
        if own:
            return vectors.column(name) if rows is None else vectors.column(name).take(rows)
        assert metadata is not None
        return metadata[name].take(places)

    mask = local_condition.mask(condition, column)
    return vectors.where(mask) if rows is None else vectors.take(np.unique(rows.filter(mask).to_numpy()))


def _reason(error: PySparkException, condition: str, columns: list[tuple[str, str]]) -> str:
    """Return what is wrong with a condition, without Spark's query plan, and what to write instead."""
    parameters = error.getMessageParameters() or {}
    if error.getCondition() != "CAST_INVALID_INPUT":
        return f"Spark rejects it: {' '.join(str(error).partition('SQLSTATE')[0].split())[:500]}"
    # Spark's fragment of BETWEEN and IN lacks the column before them.
    part = next((context.fragment() for context in error.getQueryContext()), condition)
    texts = _texts(part, columns) or _texts(condition, columns) or ["text"]
    type_name = parameters["targetType"].strip('"')
    wider = "DOUBLE" if type_name in ("INT", "BIGINT") else type_name
    return (
        f"the column {' or '.join(texts)} is text (string) and is compared with {type_name}, which the value "
        f"{parameters['expression']} is not; put what it is compared with in quotes, or write "
        f"TRY_CAST({texts[0]} AS {wider}), which leaves out such rows"
    )


def _texts(part: str, columns: list[tuple[str, str]]) -> list[str]:
    """Return the text columns that a part of a condition names, quoted as SQL needs them."""
    named = [
        name for name, kind in columns if kind == "string" and re.search(rf"(?i)(?<!\w){re.escape(name)}(?!\w)", part)
    ]
    return [name if re.fullmatch(r"\w+", name) else f"`{name}`" for name in dict.fromkeys(named)]
