"""Models that are a table of vectors: on storage, in no driver's memory; read by searches, joins and mapped lookups."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import float32, float64, int32, int64, njit, types, void
from pyspark.ml import Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vector
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import files, host_cache, list_offsets
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.errors import ConfigError
from embedall_spark.ml.persistence import Saved
from embedall_spark.search import exact
from embedall_spark.vectors import to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow.fs as pafs
    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame

    from embedall_spark.ml.options import HasOptions
    from embedall_spark.run_context import Run

    M = TypeVar("M", bound="VectorsModel")
    Hits = list[tuple[str, float]]

_FILE_BYTES = 256 << 20
_READ_ROWS = 1 << 14
TABLE = T.StructType(
    [
        T.StructField("id", T.IntegerType(), False, {"comment": "0, 1, 2 ... in the order of the files"}),
        T.StructField("token", T.StringType(), False, {"comment": "what was embedded"}),
        T.StructField("count", T.LongType(), False, {"comment": "how often it occurred in training"}),
        T.StructField("vector", T.ArrayType(T.FloatType(), False), True, {"comment": "null: it learned nothing"}),
    ]
)
_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)
_MATRIX = types.Array(float32, 2, "C", readonly=True)


class VectorsModel(Model, Saved):
    """A fitted model whose vectors are a table in Parquet files.

    The table of a fitted model lies in the work folder until the process ends; save() copies it. That of a loaded model
    is the one below the path that it was loaded from.
    """

    _size = 0
    _dimension = 0

    def getVectors(self) -> DataFrame:
        """Return the vectors: id (string), vector (of pyspark.ml)."""
        return self._rows().select(F.col("token").alias("id"), array_to_vector(F.col("vector")).alias("vector"))

    def findSimilar(self, item: str | Vector | Sequence[float], num: int) -> DataFrame:
        """Return the ``num`` ids nearest by cosine to an id, itself left out, or to a vector: id, similarity."""
        return self._as_table(self.findSimilarArray(item, num), "id")

    def findSimilarArray(self, item: str | Vector | Sequence[float], num: int) -> Hits:
        """Return what findSimilar() does as a list of (id, cosine).

        Raises:
            UnknownId: the model has no such id.
            ConfigError: ``num`` is not above 0, or the vector is of another dimension.
        """
        rows = self._rows().select(F.col("token").alias("id"), "vector", "count")
        if isinstance(item, str):
            return exact.neighbors(rows, [item], num)[0]
        vector = np.asarray(item.toArray() if isinstance(item, Vector) else item, np.float32)
        exact.check_dimension(len(vector), self._dimension)
        return exact.top_k(rows, vector[None], num, same_table=True)[0]

    def _as_table(self, hits: Hits, name: str) -> DataFrame:
        rows = [(item, float(score)) for item, score in hits]
        return SparkSession.active().createDataFrame(rows, f"{name} string, similarity double")

    def _rows(self) -> DataFrame:
        """Return the table, without the rows that have no vector."""
        if not self._location:
            raise ConfigError(f"{type(self).__name__}: has no vectors; get a model by fit() or load()")
        reader = SparkSession.active().read.schema(TABLE)
        return reader.parquet(files.spark_path(self._location)).where("vector IS NOT NULL")

    def _save_data(self, spark: SparkSession, path: str) -> dict[str, Any]:
        table = spark.read.schema(TABLE).parquet(files.spark_path(self._location))
        write(table, f"{path}/data", self._size, self._dimension)
        return {"numVectors": self._size, "dimension": self._dimension}

    def _load_data(self, path: str, metadata: dict[str, Any]) -> None:
        self._location = f"{path}/data"
        self._size, self._dimension = metadata["numVectors"], metadata["dimension"]

    def _means(self, items: str) -> Column:
        """Return the mean of the vectors of a column's items, a vector of pyspark.ml; unknown ones count as zeros."""
        return self._looked_up(partial(_mean, self._location, self._dimension), F.col(items))

    def _vector_of(self, item: Column) -> Column:
        """Return the vectors of a column of ids, vectors of pyspark.ml; null where the model has no such id."""
        return self._looked_up(partial(_vector, self._location, self._dimension), item)

    def _looked_up(self, lookup: Callable[[pa.Array], pa.Array], column: Column) -> Column:
        if not self._location:
            raise ConfigError(f"{type(self).__name__}: has no vectors; get a model by fit() or load()")

        # Spark reads the kind of the function from its types.
        def task(values: pa.Array) -> pa.Array:
            return lookup(values)

        rows = F.arrow_udf(task, "array<double>")(column)  # type: ignore[attr-defined]
        return F.when(rows.isNotNull(), array_to_vector(rows))


def write(table: DataFrame, folder: str, rows: int, d: int) -> None:
    """Write TABLE to files that are in the order of its ids, and so are their names."""
    parts = -(-rows * d * 4 // _FILE_BYTES) or 1
    ordered = table.coalesce(1) if parts == 1 else table.repartitionByRange(parts, "id")
    ordered.select(*TABLE.names).sortWithinPartitions("id").write.parquet(folder)


def fitted(stage: HasOptions, model: M, run: Run, vectors: DataFrame, d: int, location: str) -> M:
    """Return a stage's model: its params, and VECTORS [n, d] with ids and counts of the run's vocabulary in a table."""
    tokens, named = run.read_stage("vocabulary"), vectors.select(F.col("id").alias("token"), "vector")
    size = tokens.count()
    write(tokens.join(named, "token", "left"), location, size, d)
    model._resetUid(stage.uid)
    model._location, model._size, model._dimension = location, size, d
    return stage._copyValues(model)


def _matrix(location: str, d: int) -> NDArray[np.float32]:
    """Return the table's vectors in the order of its ids, float32 [n, d], mapped from the host's copy; NaN: none."""

    def copy(filesystem: pafs.FileSystem, paths: list[str], folder: Path) -> None:
        with (folder / "matrix").open("wb") as file:
            for path in paths:
                with filesystem.open_input_file(path) as source:
                    for batch in pq.ParquetFile(source).iter_batches(_READ_ROWS, columns=["vector"]):
                        file.write(_with_gaps(batch.column("vector"), d).data)

    folder, _ = host_cache.make("model", location, copy)
    return host_cache.mapped(folder / "matrix", np.float32).reshape(-1, d)


def _with_gaps(column: pa.ListArray, d: int) -> NDArray[np.float32]:
    """Return a column of vectors as float32 [n, d], with NaN for null."""
    if not column.null_count:
        return np.ascontiguousarray(to_matrix(column))
    matrix = np.full((len(column), d), np.nan, np.float32)
    matrix[column.is_valid().to_numpy(zero_copy_only=False)] = column.flatten().to_numpy().reshape(-1, d)
    return matrix


def _mean(location: str, d: int, sentences: pa.ListArray) -> pa.ListArray:
    """Return the mean vectors of sentences as MLlib computes them: the sum over known tokens by the number of all."""
    index, matrix = VocabularyIndex.open(location), _matrix(location, d)
    lengths = sentences.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ends = list_offsets.from_lengths(lengths)
    tokens = sentences.flatten()
    ids = index.ids(tokens if not tokens.null_count else tokens.fill_null(""))
    if tokens.null_count:
        ids = np.where(tokens.is_null().to_numpy(zero_copy_only=False), np.int32(-1), ids)
    means = np.zeros((len(sentences), d))
    _add_means(ids, ends, matrix, means)
    return _column(means, sentences.is_null().to_numpy(zero_copy_only=False))


def _vector(location: str, d: int, items: pa.StringArray) -> pa.ListArray:
    """Return the vectors of ids; null for one that is null or unknown."""
    index, matrix = VocabularyIndex.open(location), _matrix(location, d)
    ids = index.ids(items.fill_null(""))
    unknown = (ids < 0) | items.is_null().to_numpy(zero_copy_only=False)
    rows = matrix[np.where(unknown, 0, ids)].astype(np.float64)
    return _column(rows, unknown | np.isnan(rows[:, 0]))


def _column(rows: NDArray[np.float64], missing: NDArray[np.bool_]) -> pa.ListArray:
    ends = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
    return pa.ListArray.from_arrays(ends, pa.array(rows.ravel()), mask=pa.array(missing))


@njit(void(_INTS, _LONGS, _MATRIX, float64[:, ::1]), nogil=True, cache=True)
def _add_means(
    ids: NDArray[np.int32], ends: NDArray[np.int64], matrix: NDArray[np.float32], means: NDArray[np.float64]
) -> None:
    for row in range(len(ends) - 1):
        for place in range(ends[row], ends[row + 1]):
            if ids[place] >= 0 and not np.isnan(matrix[ids[place], 0]):
                means[row] += matrix[ids[place]]
        if ends[row + 1] > ends[row]:
            means[row] /= ends[row + 1] - ends[row]
