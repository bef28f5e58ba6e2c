"""LatentSpace: pairs of vectors to one space of both kinds, searched from either side."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml import Estimator, Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from embedall_spark import files, tables
from embedall_spark.config import parse
from embedall_spark.errors import BadData, ConfigError, SchemaMismatch
from embedall_spark.kinds import latent
from embedall_spark.latent import latent_model
from embedall_spark.latent.fit.model_selection import FitConfig
from embedall_spark.latent.split import SplitConfig
from embedall_spark.ml import columns, work_folder
from embedall_spark.ml.options import accessors, params_of, text_param
from embedall_spark.ml.persistence import Saved
from embedall_spark.schemas import PAIRS, VECTORS, conform
from embedall_spark.search import exact_batch
from embedall_spark.vectors import dimension, to_column, to_matrix, unqualify

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from embedall_spark.latent.latent_model import LatentModel
    from embedall_spark.latent.projection import Side

    SideName = Literal["left", "right"]

_SIDES = ("left", "right")


@accessors("run_root", "idCol", "leftCol", "rightCol", "weightCol", "leftOutputCol", "rightOutputCol", "k")
@params_of(SplitConfig)
@params_of(FitConfig)
class LatentSpaceOptions(Saved):
    """Params of LatentSpace: columns, and the options of ``embedall latent`` under their own names."""

    idCol = text_param("idCol", "column of the pairs' ids; both sides of a pair are found by it")
    leftCol = text_param("leftCol", "column of the left side's vectors")
    rightCol = text_param("rightCol", "column of the right side's vectors")
    weightCol = text_param("weightCol", "column of how much a pair counts; unset: 1")
    leftOutputCol = text_param("leftOutputCol", "column of the left side's vectors in the latent space")
    rightOutputCol = text_param("rightOutputCol", "column of the right side's vectors in the latent space")
    k: Param[list[int]] = Param(
        Params._dummy(), "k", str(FitConfig.model_fields["k"].description), typeConverter=TypeConverters.toListInt
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(idCol="id", leftCol="left", rightCol="right", k=list(FitConfig().k))
        self._setDefault(leftOutputCol=f"{self.uid}__left", rightOutputCol=f"{self.uid}__right")


class LatentSpace(LatentSpaceOptions, Estimator["LatentSpaceModel"]):
    """Regularized CCA of pairs of vectors (``leftCol``, ``rightCol``); its options are chosen on validation pairs."""

    def __init__(self, **params: Any) -> None:
        """Build the estimator with params by their names."""
        super().__init__()
        self.setParams(**params)

    def _fit(self, dataset: DataFrame) -> LatentSpaceModel:
        """Return the model of both sides.

        Raises:
            BadData: there are too few pairs.
            ConfigError: a param is out of range.
            SchemaMismatch: a column is missing or of another type.
        """
        spark, rows = dataset.sparkSession, self._pairs(dataset)
        fit = self.section(FitConfig, k=tuple(self.getOrDefault("k")))
        folder = work_folder.new(spark, self)
        paths = {name: f"{folder}/run/input/{name}" for name in ("left", "right", "pairs")}
        source = {"path": paths["left"], "kind": "left", "right": paths["right"], "right_kind": "right"}
        values = {
            "input": source | {"pairs": paths["pairs"]},
            "output": {"table": f"{folder}/run/latent"},
            "fit": fit.model_dump(exclude_unset=True),
            **self.sections(split=SplitConfig),
        }
        config = parse(latent.Config, values)
        with work_folder.run(spark, folder, config.output.max_reject_share) as run:
            stored = run.stage("dataset", lambda: rows)
            for side in _SIDES:
                size = dimension(stored, side)
                if size is None:
                    raise BadData("LatentSpace: the dataset has no pairs")
                tables.write(
                    spark, _vectors(stored, side), paths[side], VECTORS, mode="error", run_id=run.id, vector_size=size
                )
            pairs = stored.select(F.col("id").alias("left"), F.col("id").alias("right"), "weight")
            tables.write(spark, pairs, paths["pairs"], PAIRS, mode="error", run_id=run.id)
            vectors = latent.embed(run, latent.read(spark, config), config)
            vectors.select("kind", unqualify(F.col("kind")), "vector").write.parquet(f"{folder}/vectors")
            model = self._copyValues(LatentSpaceModel()._resetUid(self.uid))
            model._location = folder
            content = files.read_bytes(f"{run.folder}/artifacts/{latent_model.FILE}")
            files.write_bytes(f"{folder}/{latent_model.FILE}", content)
        return model

    def _pairs(self, dataset: DataFrame) -> DataFrame:
        """Return id, left, right (array<float>) and weight."""
        name = columns.text(dataset, self.getOrDefault("idCol"), "idCol")
        left, right = (columns.floats(dataset, self.getOrDefault(f"{side}Col"), f"{side}Col") for side in _SIDES)
        weight = F.lit(None)
        if (column := self.optional("weightCol")) is not None:
            columns.kind_of(dataset, column, "weightCol")
            weight = F.col(column)
        return dataset.select(
            name.alias("id"), left.alias("left"), right.alias("right"), weight.cast("double").alias("weight")
        )


class LatentSpaceModel(Model, LatentSpaceOptions):
    """Both sides' maps into the latent space, and the fitted pairs in it."""

    _loaded: LatentModel | None = None

    def getVectors(self) -> DataFrame:
        """Return the fitted pairs' vectors in the latent space: kind (left or right), id, vector (of pyspark.ml)."""
        return self._rows().withColumn("vector", array_to_vector(F.col("vector")))

    def search(
        self, dataset: DataFrame, k: int = 10, *, side: SideName = "left", among: SideName = "right"
    ) -> DataFrame:
        """Return the fitted ids of side ``among`` nearest to each row of side ``side``: query, rank, id, score.

        Args:
            dataset: with ``idCol`` and the column of the side's vectors.
            k: how many.
            side: whose vectors the dataset has.
            among: whose fitted vectors are searched.

        Raises:
            ConfigError: ``k`` is out of range, or a side is neither left nor right.
            SchemaMismatch: a column is missing or of another type.
        """
        for value in (side, among):
            if value not in _SIDES:
                raise ConfigError(f"side {value!r}: need left or right")
        name = columns.text(dataset, self.getOrDefault("idCol"), "idCol")
        queries = dataset.select(name.alias("id"), self._map(dataset, side).alias("vector")).where("vector IS NOT NULL")
        rows = self._rows().where(F.col("kind") == among).select("id", "vector")
        folder = f"{work_folder.new(SparkSession.active(), self)}/queries-{uuid.uuid4().hex[:12]}"
        return exact_batch.top_k(rows, queries, k, folder=folder)

    def suggest(self, dataset: DataFrame, k: int = 10) -> DataFrame:
        """Return what of the right side goes best with rows of the left side: query, rank, id, score."""
        return self.search(dataset, k)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Return the dataset with the latent vectors of the sides that it has; null for one without a direction."""
        present = [side for side in _SIDES if self.getOrDefault(f"{side}Col") in dataset.columns]
        if not present:
            names = " nor ".join(self.getOrDefault(f"{side}Col") for side in _SIDES)
            raise SchemaMismatch(f"leftCol, rightCol: there is neither {names} (columns: {', '.join(dataset.columns)})")
        for side in present:
            mapped = self._map(dataset, side)
            vector = F.when(mapped.isNotNull(), array_to_vector(mapped))
            dataset = dataset.withColumn(self.getOrDefault(f"{side}OutputCol"), vector)
        return dataset

    def _map(self, dataset: DataFrame, side: str) -> Column:
        """Return a side's vectors in the latent space, array<float> of length 1."""
        projection: Side = getattr(self._model(), side)
        name, d = f"{side}Col", len(projection.matrix)

        # Spark reads the kind of the function from its types.
        def task(vectors: pa.Array) -> pa.Array:
            present = vectors.drop_null()
            if not len(present):
                return pa.nulls(len(vectors), pa.list_(pa.float32()))
            matrix = to_matrix(present)
            if matrix.shape[1] != d:
                raise BadData(f"{name}: the vectors have {matrix.shape[1]} dimensions; the model maps vectors of {d}")
            units, lengths = projection.latent(matrix)
            mapped = to_column(units, ~(lengths > 0))
            places = pc.cumulative_sum(vectors.is_valid().cast(pa.int64()))
            return mapped.take(pc.if_else(vectors.is_valid(), pc.subtract(places, 1), None))

        column = columns.floats(dataset, self.getOrDefault(name), name)
        return F.arrow_udf(task, "array<float>")(column)  # type: ignore[attr-defined,no-any-return]

    def _model(self) -> LatentModel:
        """Return both maps, read once."""
        if not self._location:
            raise ConfigError("LatentSpaceModel: has no maps; get a model by fit() or load()")
        if self._loaded is None:
            self._loaded = latent_model.from_bytes(files.read_bytes(f"{self._location}/{latent_model.FILE}"))
        return self._loaded

    def _rows(self) -> DataFrame:
        self._model()
        return SparkSession.active().read.parquet(files.spark_path(f"{self._location}/vectors"))

    def _save_data(self, spark: SparkSession, path: str) -> dict[str, Any]:
        self._rows().write.parquet(f"{path}/vectors")
        files.write_bytes(f"{path}/{latent_model.FILE}", latent_model.to_bytes(self._model()))
        return {}

    def _load_data(self, path: str, metadata: dict[str, Any]) -> None:
        self._location, self._loaded = path, None


def _vectors(rows: DataFrame, side: str) -> DataFrame:
    """Return a side of the pairs as VECTORS."""
    squares = F.aggregate(side, F.lit(0.0), lambda total, value: total + value.cast("double") * value.cast("double"))
    fixed = {"kind": F.lit(side), "run_id": F.lit("dataset")}
    vectors = rows.select("id", F.col(side).alias("vector"), F.sqrt(squares).alias("norm"))
    return conform(vectors.withColumns(fixed), VECTORS)
