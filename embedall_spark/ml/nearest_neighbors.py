"""NearestNeighbors: a search as a join, exact or by an index."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from pyspark.ml import Estimator, Model
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from embedall_spark import files
from embedall_spark.errors import ConfigError
from embedall_spark.ml import columns, work_folder
from embedall_spark.ml.options import accessors, text_param
from embedall_spark.ml.persistence import Saved
from embedall_spark.search import ann, exact_batch
from embedall_spark.vectors import dimension

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ALGORITHMS = ("exact", "index")


@accessors("run_root", "idCol", "inputCol", "outputCol", "k", "algorithm", "recall")
class NearestNeighborsOptions(HasInputCol, HasOutputCol, Saved):
    """Params of NearestNeighbors."""

    idCol = text_param("idCol", "column of ids")
    inputCol = text_param("inputCol", "column of vectors, of pyspark.ml or arrays of numbers")
    algorithm = text_param("algorithm", "exact: all vectors are compared; index: faiss indexes, one per partition")
    k: Param[int] = Param(Params._dummy(), "k", "how many neighbors", typeConverter=TypeConverters.toInt)
    recall: Param[float] = Param(
        Params._dummy(), "recall", "least recall of the 10 nearest by an index", typeConverter=TypeConverters.toFloat
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(idCol="id", inputCol="vector", algorithm="exact", k=5, recall=0.95)

    def _vectors(self, dataset: DataFrame) -> DataFrame:
        """Return id and vector (array<float>); rows without a vector are left out."""
        name = columns.text(dataset, self.required("idCol"), "idCol")
        vector = columns.floats(dataset, self.required("inputCol"), "inputCol")
        return dataset.select(name.alias("id"), vector.alias("vector")).where("vector IS NOT NULL")


class NearestNeighbors(NearestNeighborsOptions, Estimator["NearestNeighborsModel"]):
    """Nearest neighbors by cosine among the vectors of a column, as scikit-learn's class of this name."""

    def __init__(self, **params: Any) -> None:
        """Build the estimator with params by their names."""
        super().__init__()
        self.setParams(**params)

    def _fit(self, dataset: DataFrame) -> NearestNeighborsModel:
        """Return the model, which has the vectors in a table, and an index of it where ``algorithm`` is index.

        Raises:
            BadData: there are no vectors.
            ConfigError: ``algorithm`` is unknown.
            SchemaMismatch: a column is missing or of another type.
        """
        if self.getOrDefault("algorithm") not in _ALGORITHMS:
            raise ConfigError(f"algorithm {self.getOrDefault('algorithm')}: need one of {', '.join(_ALGORITHMS)}")
        rows, spark = self._vectors(dataset), dataset.sparkSession
        folder = work_folder.new(spark, self)
        model = self._copyValues(NearestNeighborsModel()._resetUid(self.uid))
        model._location = folder
        model._write(rows, folder)
        return model


class NearestNeighborsModel(Model, NearestNeighborsOptions):
    """Vectors to search among."""

    def kneighbors(self, dataset: DataFrame | None = None, k: int | None = None) -> DataFrame:
        """Return the ``k`` nearest rows of each query by cosine: query, rank (1: the nearest), id, score.

        Args:
            dataset: the queries, with ``idCol`` and ``inputCol``; None: the model's own rows, each without itself.
            k: how many; None: the param.

        Raises:
            BadData: there are no queries.
            ConfigError: ``k`` is out of range, or queries and vectors differ in dimension.
        """
        queries = self._rows() if dataset is None else self._vectors(dataset)
        number = self.getOrDefault("k") if k is None else k
        folder = f"{self._work()}/queries-{uuid.uuid4().hex[:12]}"
        if self.getOrDefault("algorithm") == "exact":
            return exact_batch.top_k(self._rows(), queries, number, folder=folder, exclude_same_id=dataset is None)
        index = f"{self._location}/index"
        manifest = ann.load(index, self.uid)
        return ann.top_k(queries, number, index, manifest, folder=folder, exclude_same_id=dataset is None)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Return the dataset with the neighbors of each row, an array of (id, score), the nearest first."""
        hits = self.kneighbors(dataset.dropDuplicates([self.getOrDefault("idCol")]))
        ranked = F.array_sort(F.collect_list(F.struct("rank", "id", "score")))
        pairs = F.transform(ranked, lambda hit: F.struct(hit["id"].alias("id"), hit["score"].alias("score")))
        found = hits.groupBy(F.col("query").alias("_query")).agg(pairs.alias(self.getOutputCol()))
        name = columns.text(dataset, self.getOrDefault("idCol"), "idCol")
        return dataset.join(found, name == F.col("_query"), "left").drop("_query")

    def _rows(self) -> DataFrame:
        """Return the model's rows: id, vector."""
        if not self._location:
            raise ConfigError("NearestNeighborsModel: has no vectors; get a model by fit() or load()")
        return SparkSession.active().read.parquet(files.spark_path(f"{self._location}/vectors"))

    def _work(self) -> str:
        """Return a folder for queries, which stays until the process ends."""
        return work_folder.new(SparkSession.active(), self)

    def _write(self, rows: DataFrame, folder: str) -> None:
        rows.write.parquet(f"{folder}/vectors")
        stored = rows.sparkSession.read.parquet(files.spark_path(f"{folder}/vectors"))
        if self.getOrDefault("algorithm") == "index":
            ann.build(stored, f"{folder}/index", table=self.uid, version=self.uid, recall=self.getOrDefault("recall"))
        elif dimension(stored) is None:
            raise ConfigError("NearestNeighbors: the dataset has no vectors; need one row at least")

    def _save_data(self, spark: SparkSession, path: str) -> dict[str, Any]:
        self._write(self._rows(), path)
        return {}

    def _load_data(self, path: str, metadata: dict[str, Any]) -> None:
        self._location = path
