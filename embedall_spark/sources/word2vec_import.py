"""Vectors in, from word2vec's text or binary format or GloVe's text: one task streams the file."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import files
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.schemas import VECTORS, conform
from embedall_spark.sources import word2vec_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyspark.sql import DataFrame, SparkSession

    Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)

Layout = Literal["auto", "text", "binary"]
_ROWS = T.StructType([T.StructField("row", T.LongType(), False), *[VECTORS[name] for name in ("id", "vector", "norm")]])


@dataclass(frozen=True)
class Imported:
    """The vectors of a file, checked but not yet read, and the figures of the check."""

    vectors: DataFrame
    vector_size: int
    rows: int
    duplicates: int


def read(spark: SparkSession, path: str, layout: Layout = "auto", *, run_id: str) -> Imported:
    """Return the vectors of a file as VECTORS of kind ``words``, without counts, which the formats lack.

    word2vec's text and binary formats and GloVe's text, which has no header; compressed where the name ends in .gz
    or .bz2. The file is read by one task, with bounded memory, twice: once here, to check it to its end, and once
    when the vectors are used. Of rows with the same id the first is kept.

    Args:
        spark: the session.
        path: path or URI, seen by the driver and the tasks.
        layout: ``text``, ``binary``, or ``auto`` to look at the beginning of the file.
        run_id: goes into each row.

    Raises:
        BadData: the file is in neither format, malformed, cut short or longer than its header says; names the row.
        ConfigError: the file cannot be read.
    """
    source = os.path.abspath(path) if files.is_local(path) and "://" not in path else path
    try:
        head = word2vec_parser.head(source, layout)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give an existing file") from None
    task = spark.range(0, 1, 1, 1)
    checked = task.mapInArrow(_checker(source, head), "id string, problem string")
    counts = checked.agg(
        F.count("id").alias("rows"), F.count_distinct("id").alias("ids"), F.max("problem").alias("problem")
    ).first()
    assert counts is not None
    if counts["problem"]:
        raise BadData(counts["problem"])
    vectors = task.mapInArrow(_reader(source, head), _ROWS)
    duplicates = counts["rows"] - counts["ids"]
    if duplicates:
        log.warning("%s: %d rows repeat the id of an earlier one and are left out", path, duplicates)
        place = F.row_number().over(Window.partitionBy("id").orderBy("row"))
        vectors = vectors.withColumn("place", place).where("place = 1")
    vectors = vectors.withColumns({"kind": F.lit("words"), "run_id": F.lit(run_id)})
    return Imported(conform(vectors, VECTORS), head.dimension, counts["rows"], duplicates)


def _checker(source: str, head: word2vec_parser.Head) -> Callable[[Batches], Batches]:
    """Build the task's function that reads the whole file and returns its ids, and what is wrong with it."""

    def check(batches: Batches) -> Batches:
        for _ in batches:
            try:
                for ids, _ in word2vec_parser.read(source, head):
                    yield pa.record_batch(
                        {"id": pa.array(ids, pa.string()), "problem": pa.nulls(len(ids), pa.string())}
                    )
            except BadData as error:
                # An exception would reach the driver as Spark's own, with a stack of the task before the text.
                yield pa.record_batch({"id": pa.nulls(1, pa.string()), "problem": [str(error)]})

    return check


def _reader(source: str, head: word2vec_parser.Head) -> Callable[[Batches], Batches]:
    def read_file(batches: Batches) -> Batches:
        for _ in batches:
            row = 0
            for ids, matrix in word2vec_parser.read(source, head):
                offsets = np.arange(len(ids) + 1, dtype=np.int32) * head.dimension
                yield pa.record_batch(
                    {
                        "row": np.arange(row, row + len(ids)),
                        "id": pa.array(ids, pa.string()),
                        "vector": pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.ravel())),
                        "norm": np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64)),
                    }
                )
                row += len(ids)

    return read_file
