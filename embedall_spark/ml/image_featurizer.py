"""ImageFeaturizer: a column of pictures to vectors of a pretrained network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.ml import Transformer
from pyspark.ml.functions import array_to_vector
from pyspark.ml.param.shared import HasInputCol, HasOutputCol
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.errors import SchemaMismatch
from embedall_spark.images import featurize, picture_column
from embedall_spark.images.backbones import BackboneConfig
from embedall_spark.images.featurize import BackboneInfo, FeaturizeConfig
from embedall_spark.ml import columns
from embedall_spark.ml.options import accessors, params_of, text_param
from embedall_spark.ml.persistence import Saved
from embedall_spark.sources.image_limits import Limits

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@accessors("inputCol", "outputCol", "errorCol", "backbone")
@params_of(BackboneConfig, include=("weights",))
@params_of(FeaturizeConfig, exclude=("gpus_per_task",))
@params_of(Limits)
class ImageFeaturizer(HasInputCol, HasOutputCol, Saved, Transformer):
    """Adds the vectors of a column of pictures: encoded ones (binary), or paths or URIs of files (string).

    Where a picture cannot be used, the vector is null, and ``errorCol`` says why. Method and options are those of
    ``embedall images``.
    """

    inputCol = text_param("inputCol", "column of pictures: binary content, or paths")
    errorCol = text_param("errorCol", "column that says why a picture has no vector, else null")
    backbone = text_param("backbone", str(BackboneConfig.model_fields["name"].description))
    _info: tuple[BackboneConfig, BackboneInfo] | None = None

    def __init__(self, **params: Any) -> None:
        """Build the transformer with params by their names."""
        super().__init__()
        self._setDefault(backbone=BackboneConfig().name, errorCol=f"{self.uid}__error")
        self.setParams(**params)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Return the dataset with ``outputCol`` and ``errorCol``.

        A task loads the network once before that, to learn its fingerprint.

        Raises:
            ConfigError: the network is unknown, or its weights are missing.
            SchemaMismatch: the column is missing, or neither binary nor string.
        """
        name = self.required("inputCol")
        kind = columns.kind_of(dataset, name, "inputCol")
        if not isinstance(kind, T.BinaryType | T.StringType):
            raise SchemaMismatch(
                f"inputCol: the column {name} is {kind.simpleString()}; need binary, or string (paths)"
            )
        spark, config = dataset.sparkSession, self.section(FeaturizeConfig)
        backbone = self.section(BackboneConfig, name=self.getOrDefault("backbone"))
        fingerprint = self._describe(spark, backbone).fingerprint
        features = picture_column.features(
            spark,
            F.col(name),
            backbone,
            config,
            self.section(Limits),
            fingerprint,
            paths=isinstance(kind, T.StringType),
        )
        # Computed once for both columns.
        rows = dataset.withColumn(f"{self.uid}__features", features)
        vector = F.col(f"{self.uid}__features.vector")
        added = {
            self.getOutputCol(): F.when(vector.isNotNull(), array_to_vector(vector)),
            self.getOrDefault("errorCol"): F.col(f"{self.uid}__features.problem"),
        }
        return rows.withColumns(added).drop(f"{self.uid}__features")

    def _describe(self, spark: SparkSession, backbone: BackboneConfig) -> BackboneInfo:
        """Return the network's size and fingerprint, which a task reports once per network."""
        if self._info is None or self._info[0] != backbone:
            self._info = (backbone, featurize.describe(spark, backbone))
        return self._info[1]
