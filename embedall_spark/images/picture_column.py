"""Vectors of the pictures of a column, beside the other columns of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark import devices
from embedall_spark.images import featurize
from embedall_spark.images.featurize import INPUT, TaskOptions

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession

    from embedall_spark.images.backbones import BackboneConfig
    from embedall_spark.images.featurize import FeaturizeConfig
    from embedall_spark.sources.image_limits import Limits


def features(
    spark: SparkSession,
    pictures: Column,
    backbone: BackboneConfig,
    config: FeaturizeConfig,
    limits: Limits,
    fingerprint: str,
    *,
    paths: bool,
) -> Column:
    """Return vector (array<float>) and problem of each picture of a column, as featurize.featurize() computes them.

    Args:
        spark: the session.
        pictures: encoded pictures, or paths (or URIs) of their files.
        backbone: the network.
        config: how tasks run it; ``gpus_per_task`` has no effect in a column.
        limits: which pictures are too large to be decoded.
        fingerprint: of the network.
        paths: whether the column holds paths.
    """
    cores = config.threads or devices.threads(spark, None)
    run = featurize.task(TaskOptions(backbone, config, limits, fingerprint, cores))

    def batch_of(values: pa.Array) -> pa.RecordBatch:
        nulls = pa.nulls(len(values), pa.string())
        columns = [values, nulls.cast(pa.binary()), values] if paths else [nulls.fill_null("picture"), values, nulls]
        return pa.RecordBatch.from_arrays([*columns, nulls, nulls], list(INPUT))

    # Spark reads the kind of the function from its types.
    def task(arrays: Iterator[pa.Array]) -> Iterator[pa.Array]:
        for batch in run(map(batch_of, arrays)):
            yield pa.StructArray.from_arrays([batch["vector"], batch["problem"]], ["vector", "problem"])

    return F.arrow_udf(task, "struct<vector: array<float>, problem: string>")(pictures)  # type: ignore[attr-defined,no-any-return]
