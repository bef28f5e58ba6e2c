"""Images: pictures -> decoded -> a pretrained network without its last layer -> vectors."""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field, PrivateAttr
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import files
from embedall_spark.cluster import cluster_montage, kmeans, label_agreement
from embedall_spark.config import MOVABLE, MergedOutput, OutputPath, Section
from embedall_spark.errors import BadData
from embedall_spark.evaluate import label_metrics
from embedall_spark.evaluate.label_metrics import Metadata
from embedall_spark.images import featurize, thumbnails
from embedall_spark.images.backbones import BackboneConfig
from embedall_spark.images.featurize import BackboneInfo, FeaturizeConfig
from embedall_spark.kinds._evaluation import LabelledEvaluation, MapSize, TwoOrNone
from embedall_spark.schemas import IMAGES, ITEMS, conform, vectors_of
from embedall_spark.search import title_lookup
from embedall_spark.sources import images, input_version, tabular
from embedall_spark.sources.images import ImagesConfig
from embedall_spark.visualize import scatter_map

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import Column, SparkSession

    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)

# Pictures whose vectors are kept as soon as they are there; a killed run loses at most so many.
_PART = 20_000
# Each part reads the whole of a table that holds the pictures themselves.
_PARTS_OF_A_TABLE = 16
_PROBED = 32
_NEAREST = 16


class ImagesOutput(MergedOutput):
    """Where the vectors of pictures go."""

    metadata: OutputPath | None = Field(
        None, description="table of the pictures' titles, tags and labels; unset: the table's name with _metadata"
    )

    @property
    def metadata_table(self) -> str:
        """The table of titles, tags and labels."""
        return self.metadata or files.metadata_of(self.table)


class ImagesEvaluation(LabelledEvaluation):
    """What to measure before the table is changed."""

    metadata: Metadata | None = Field(
        None,
        description="labels and titles of pictures; unset: those of the input. Keys:",
        json_schema_extra=MOVABLE,
    )
    clusters: TwoOrNone = Field(
        0, ge=0, le=1000, description="k-means clusters: their agreement with labels and a montage; 0: none",
        json_schema_extra=MOVABLE,
    )  # fmt: skip
    map_images: MapSize = Field(400, description="pictures on the map; 0: no map", json_schema_extra=MOVABLE)
    seed: int = Field(1, description="of clusters, samples and the map", json_schema_extra=MOVABLE)


class Config(Section):
    """Configuration of ``embedall images``."""

    input: ImagesConfig
    output: ImagesOutput
    backbone: BackboneConfig = BackboneConfig()
    featurize: FeaturizeConfig = FeaturizeConfig()
    evaluate: ImagesEvaluation = ImagesEvaluation()
    _facts: BackboneInfo | None = PrivateAttr(None)

    def facts(self, spark: SparkSession) -> BackboneInfo:
        """Return what a task has found of the network; asked for once, since it has to be built for that."""
        self._facts = self._facts or featurize.describe(spark, self.backbone)
        return self._facts


def check(config: Config) -> None:
    """Refuse what can be seen to be wrong before Spark starts."""
    known = set()
    if config.input.label is not None or config.evaluate.metadata is not None:
        known = {"purity/neighbours"} | ({"clusters/purity", "clusters/nmi"} if config.evaluate.clusters else set())
    config.evaluate.check_metadata()
    config.evaluate.check_gates(known, "none, give input.label or evaluate.metadata")


def read(spark: SparkSession, config: Config) -> DataFrame:
    """Return the IMAGES that the configuration names."""
    return images.read(spark, config.input)


def version(spark: SparkSession, config: Config) -> str:
    """Return a digest of the input's files or its table's version, and of the network."""
    return f"{input_version.version(spark, config.input)}+{config.facts(spark).fingerprint}"


def vector_size(spark: SparkSession, config: Config) -> int:
    """Return the length of the vectors."""
    return config.facts(spark).size


def estimate(spark: SparkSession, config: Config) -> dict[str, float]:
    """Return about what a run costs where nothing is embedded yet; a few pictures are, to see how long they take."""
    facts, pictures = config.facts(spark), read(spark, config).where("problem IS NULL")
    few = pictures.limit(_PROBED).withColumn("known", F.lit(None).cast("string"))
    since = time.monotonic()
    probed = featurize.featurize(few, config.backbone, config.featurize, config.input.limits, facts.fingerprint).count()
    each = (time.monotonic() - since) / max(1, probed)
    found = pictures.count()
    return {
        "pictures": found,
        "vector_size": facts.size,
        "table_bytes": 4 * facts.size * found,
        "core_seconds": round(each * found),
    }


def embed(run: Run, given: DataFrame, config: Config) -> DataFrame:
    """Return one vector per picture, as VECTORS.

    Method: the activations before the last layer of a network trained to classify pictures (Razavian et al. 2014, "CNN
    Features off-the-shelf"). With output.mode merge, a picture whose content is what the table was made of, by
    the same network, is not embedded again: its row is the table's.

    Args:
        run: where stages, figures and rejects go.
        given: IMAGES.
        config: the configuration.

    Raises:
        BadData: too many pictures were refused, or none is left.
        ConfigError: the network cannot be built, or its weights are not there.
    """
    facts = config.facts(run.spark)
    pictures = run.stage("pictures", lambda: conform(given, IMAGES).drop("content"))
    refused, seen = tabular.reject_counts(pictures)
    run.reject(tabular.rejects(pictures))
    run.check_reject_share(refused, seen)
    before = run.previous_output() if config.output.merges else None
    # A table that holds the pictures is read again, since no stage keeps them.
    good = pictures.where("problem IS NULL")
    held = not good.where("path IS NULL").isEmpty()
    source = conform(given, IMAGES).where("problem IS NULL") if held else good.withColumn("content", _nothing("binary"))
    mark = _mark(config.featurize)
    known = _nothing("string") if before is None else F.regexp_extract("digest", f"^([^/]*){mark}$", 1)
    todo = source if before is None else source.join(before.select("id", "digest"), "id", "left")
    todo = todo.select("id", "content", "path", "origin", known.alias("known"))

    def made(part: int, parts: int) -> DataFrame:
        rows = todo.where(F.pmod(F.xxhash64("id"), F.lit(parts)) == part)
        spread = rows.repartition(int(str(run.spark.conf.get("spark.sql.shuffle.partitions"))), "id")
        return featurize.featurize(spread, config.backbone, config.featurize, config.input.limits, facts.fingerprint)

    features = _in_parts(run, made, seen - refused, _PARTS_OF_A_TABLE if held else None)
    run.reject(tabular.rejects(features))
    broken = tabular.reject_counts(features)[0]
    run.check_reject_share(broken, seen)
    _keep_metadata(run, pictures, config)
    features = features.withColumn("digest", F.concat("digest", F.lit(mark)))
    new = vectors_of(features.where("vector IS NOT NULL"), "images", run.id, run.model_uri)
    if before is None:
        return new
    # A picture that could not be read tonight keeps the vector that it has.
    stayed = before.join(pictures.select("id"), "id", "left_semi").join(new.select("id"), "id", "left_anti")
    embedded = new.count()
    run.metric("images/embedded", embedded)
    run.metric("images/unchanged", seen - refused - broken - embedded)
    return new.unionByName(stayed)


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return how pictures agree with their labels; record a map, and the pictures nearest to each cluster's centre."""
    asked = config.evaluate
    pictures = run.read_stage("pictures")
    known = pictures.select("id", "label", "title")
    if asked.metadata is not None:
        known = label_metrics.read(run.spark, asked.metadata, vectors)
    known = known.where("id IS NOT NULL").persist()
    labelled = not known.where("label IS NOT NULL").isEmpty()
    figures = label_metrics.purity(vectors, known, seed=asked.seed) if labelled else {}
    if asked.clusters:
        found = kmeans.fit(vectors, asked.clusters, asked.seed).persist()
        figures |= label_agreement.purity_nmi(found, known) if labelled else {}
        run.artifact("clusters.png", _clusters(found, known, config))
        found.unpersist()
    if asked.map_images and vectors.limit(2).count() == 2:
        run.artifact("map.png", _map(vectors, known, config))
    known.unpersist()
    return figures


def embed_file(config: Config, path: str) -> NDArray[np.float32]:
    """Return the vector of a picture in a file, float32 [d], as this configuration's table has them.

    Raises:
        BadData: the file cannot be read, or is not a picture that can be used.
    """
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror or error}); give the path of a picture") from None
    return featurize.featurize_one(content, config.backbone, config.featurize, config.input.limits)


def _in_parts(run: Run, made: Callable[[int, int], DataFrame], pictures: int, most: int | None) -> DataFrame:
    """Return the features of all pictures, a stage for each part, so that a killed run keeps what it had finished."""
    parts = min(max(1, -(-pictures // _PART)), most or sys.maxsize)
    done = []
    for part in range(parts):
        run.progress("features", part, parts)
        done.append(run.stage(f"features-{part:05d}", partial(made, part, parts)))
    run.progress("features", parts, parts)
    return run.spark.read.schema(done[0].schema).parquet(
        *[files.spark_path(run.stage_path(f"features-{p:05d}")) for p in range(parts)]
    )


def _keep_metadata(run: Run, pictures: DataFrame, config: Config) -> None:
    """Write titles, tags and labels to their table, where the input has any."""
    items = conform(pictures.where("problem IS NULL"), ITEMS)
    if not items.where("title IS NOT NULL OR tags IS NOT NULL OR label IS NOT NULL").isEmpty():
        run.write_table(config.output.metadata_table, items, ITEMS, "Titles, tags and labels of the pictures")


def _clusters(found: DataFrame, known: DataFrame, config: Config) -> bytes:
    """Return a montage of the pictures nearest to each cluster's centre."""
    few = min(_NEAREST, thumbnails.MAX_IDS // config.evaluate.clusters)
    members: dict[int, list[str]] = {}
    for row in kmeans.nearest(found, few).orderBy("cluster", "rank").collect():
        members.setdefault(row["cluster"], []).append(row["id"])
    sizes = {row["cluster"]: row["count"] for row in found.groupBy("cluster").count().collect()}
    called = title_lookup.titles_by_id(known, [name for some in members.values() for name in some])
    shown = images.read(found.sparkSession, config.input)
    return cluster_montage.draw(members, sizes, shown, config.input.limits, called)


def _map(vectors: DataFrame, known: DataFrame, config: Config) -> bytes:
    """Return a map with the pictures themselves as its points."""
    asked = config.evaluate
    find = partial(
        thumbnails.thumbnails_by_id, images.read(vectors.sparkSession, config.input), limits=config.input.limits
    )
    return scatter_map.draw_pictures(vectors, asked.map_images, find, seed=asked.seed, metadata=known)


def _mark(config: FeaturizeConfig) -> str:
    """Return what a digest ends with where vectors are not made as usual, so that a table never mixes the two."""
    return "" if config.normalize and config.dtype == "float32" else f"/{config.dtype}/{config.normalize}"


def _nothing(kind: str) -> Column:
    return F.lit(None).cast(kind)
