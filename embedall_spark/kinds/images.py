"""Images: pictures -> pixels -> a pretrained network without its last layer -> vectors."""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field, PrivateAttr
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import cluster_slots, committed_files, extras, files
from embedall_spark.cluster import cluster_montage, kmeans, label_agreement
from embedall_spark.config import MOVABLE, MergedOutput, OutputPath, Section
from embedall_spark.errors import BadData
from embedall_spark.evaluate import label_metrics
from embedall_spark.images import featurize, thumbnails
from embedall_spark.images.backbones import BackboneConfig
from embedall_spark.images.featurize import BackboneInfo, FeaturizeConfig
from embedall_spark.kinds._evaluation import LabelledEvaluation, MapSize, TwoOrNone
from embedall_spark.schemas import IMAGES, ITEMS, conform, vectors_of
from embedall_spark.sources import images, input_version, tabular
from embedall_spark.sources import metadata as metadata_source
from embedall_spark.sources.image_config import ImagesConfig
from embedall_spark.sources.metadata import Metadata
from embedall_spark.visualize import scatter_map

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import Column, SparkSession

    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)

# Vectors are stored after so many pictures; a killed run loses at most so many.
_PART = 20_000
# A table that holds the pictures' bytes is read once for each part.
_MAX_PARTS_OF_A_TABLE = 16
_PROBED = 32
_MAX_NEAREST = 16


class ImagesOutput(MergedOutput):
    """Where the vectors of pictures are written."""

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
    _backbone_info: BackboneInfo | None = PrivateAttr(None)

    def backbone_info(self, spark: SparkSession) -> BackboneInfo:
        """Return dimension and fingerprint of the network; a task loads it once to tell them."""
        self._backbone_info = self._backbone_info or featurize.describe(spark, self.backbone)
        return self._backbone_info


def check(config: Config) -> None:
    """Raise ConfigError for mistakes that can be found before Spark starts."""
    extras.check(extras.IMAGES, f"backbone.name: the network {config.backbone.name}")
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
    return f"{input_version.version(spark, config.input)}+{config.backbone_info(spark).fingerprint}"


def vector_size(spark: SparkSession, config: Config) -> int:
    """Return the dimension of the vectors."""
    return config.backbone_info(spark).size


def estimate(spark: SparkSession, config: Config) -> dict[str, float]:
    """Return roughly what a run costs if nothing is embedded yet; a few pictures are embedded to measure the time."""
    info, pictures = config.backbone_info(spark), read(spark, config).where("problem IS NULL")
    sample = pictures.limit(_PROBED).withColumn("known", _null("string"))
    since = time.monotonic()
    features = featurize.featurize(sample, config.backbone, config.featurize, config.input.limits, info.fingerprint)
    embedded = features.count()
    seconds = (time.monotonic() - since) / max(1, embedded)
    rows = pictures.count()
    return {
        "pictures": rows,
        "vector_size": info.size,
        "table_bytes": 4 * info.size * rows,
        "core_seconds": round(seconds * rows),
    }


def embed(run: Run, inputs: DataFrame, config: Config) -> DataFrame:
    """Return one vector per picture, as VECTORS.

    Method: the activations before the last layer of a network trained to classify pictures (Razavian et al. 2014, "CNN
    Features off-the-shelf"). With output.mode merge, a picture whose content and network are those of its row in the
    table is not embedded again; the row is returned as it is.

    Args:
        run: where stages, figures and rejects go.
        inputs: IMAGES.
        config: the configuration.

    Raises:
        BadData: too many pictures were refused, or none is left.
        ConfigError: the network is unknown, or its weights are missing.
    """
    info = config.backbone_info(run.spark)
    pictures = run.stage("pictures", lambda: conform(inputs, IMAGES).drop("content"))
    refused, seen = tabular.reject_counts(pictures)
    run.reject(tabular.rejects(pictures))
    run.check_reject_share(refused, seen)
    previous = run.previous_output() if config.output.merges else None
    # A table that holds the pictures' bytes is read again, since no stage stores them.
    usable = pictures.where("problem IS NULL")
    in_table = not usable.where("path IS NULL").isEmpty()
    source = (
        conform(inputs, IMAGES).where("problem IS NULL") if in_table else usable.withColumn("content", _null("binary"))
    )
    suffix = _digest_suffix(config.featurize)
    known = _null("string") if previous is None else F.regexp_extract("digest", f"^([^/]*){suffix}$", 1)
    rows = source if previous is None else source.join(previous.select("id", "digest"), "id", "left")
    rows = rows.select("id", "content", "path", "origin", known.alias("known"))

    def features_of(part: int, parts: int) -> DataFrame:
        chosen = rows.where(F.pmod(F.xxhash64("id"), F.lit(parts)) == part)
        spread = chosen.repartition(cluster_slots.shuffle_partitions(run.spark), "id")
        return featurize.featurize(spread, config.backbone, config.featurize, config.input.limits, info.fingerprint)

    features = _in_parts(run, features_of, seen - refused, _MAX_PARTS_OF_A_TABLE if in_table else None)
    run.reject(tabular.rejects(features))
    broken = tabular.reject_counts(features)[0]
    run.check_reject_share(broken, seen)
    _write_metadata(run, pictures, config)
    features = features.withColumn("digest", F.concat("digest", F.lit(suffix)))
    new = vectors_of(features.where("vector IS NOT NULL"), "images", run.id, run.model_uri)
    if previous is None:
        return new
    # A picture that could not be read this time keeps the vector that it has.
    retained = previous.join(pictures.select("id"), "id", "left_semi").join(new.select("id"), "id", "left_anti")
    embedded = new.count()
    unchanged = seen - refused - broken - embedded
    log.info("pictures: %s embedded, %s unchanged", f"{embedded:,}", f"{unchanged:,}")
    run.metric("images/embedded", embedded)
    run.metric("images/unchanged", unchanged)
    run.facts["unchanged"] = unchanged
    return new.unionByName(retained)


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return how pictures agree with their labels; record a map, and the pictures nearest to each cluster's center."""
    options = config.evaluate
    pictures = run.read_stage("pictures")
    labels = pictures.select("id", "label", "title")
    if options.metadata is not None:
        labels = metadata_source.read(run.spark, options.metadata, vectors)
    labels = labels.where("id IS NOT NULL").persist()
    has_labels = not labels.where("label IS NOT NULL").isEmpty()
    figures = label_metrics.purity(vectors, labels, seed=options.seed) if has_labels else {}
    if options.clusters:
        assignments = kmeans.fit(vectors, options.clusters, options.seed).persist()
        figures |= label_agreement.purity_nmi(assignments, labels) if has_labels else {}
        # Labels may come from a file without titles, and titles from the input.
        titled = labels if options.metadata is None or options.metadata.title is not None else pictures
        run.artifact("clusters.png", _draw_clusters(assignments, titled, config))
        assignments.unpersist()
    if options.map_images and vectors.limit(2).count() == 2:
        run.artifact("map.png", _draw_map(vectors, labels, config))
    labels.unpersist()
    return figures


def embed_file(config: Config, path: str) -> NDArray[np.float32]:
    """Return the vector of a picture in a file, float32 [d], as this configuration's run computes it.

    Raises:
        BadData: the file cannot be read, or is not a picture that can be used.
    """
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror or error}); give the path of a picture") from None
    return featurize.featurize_one(content, config.backbone, config.featurize, config.input.limits)


def _in_parts(
    run: Run, features_of: Callable[[int, int], DataFrame], pictures: int, max_parts: int | None
) -> DataFrame:
    """Return the features of all pictures, computed in a stage for each part, which a resumed run does not repeat."""
    parts = min(max(1, -(-pictures // _PART)), max_parts or sys.maxsize)
    stages = []
    for part in range(parts):
        run.progress("features", part, parts)
        stages.append(run.stage(f"features-{part:05d}", partial(features_of, part, parts)))
    run.progress("features", parts, parts)
    folders = [run.stage_path(f"features-{part:05d}") for part in range(parts)]
    return committed_files.read(run.spark.read.schema(stages[0].schema), folders)


def _write_metadata(run: Run, pictures: DataFrame, config: Config) -> None:
    """Write titles, tags and labels to their table, if the input has any."""
    items = conform(pictures.where("problem IS NULL"), ITEMS)
    if not items.where("title IS NOT NULL OR tags IS NOT NULL OR label IS NOT NULL").isEmpty():
        run.write_table(config.output.metadata_table, items, ITEMS, "Titles, tags and labels of the pictures")


def _draw_clusters(assignments: DataFrame, titled: DataFrame, config: Config) -> bytes:
    """Return a montage of the pictures nearest to each cluster's center."""
    count = min(_MAX_NEAREST, thumbnails.MAX_IDS // config.evaluate.clusters)
    members: dict[int, list[str]] = {}
    for row in kmeans.nearest(assignments, count).orderBy("cluster", "rank").collect():
        members.setdefault(row["cluster"], []).append(row["id"])
    sizes = {row["cluster"]: row["count"] for row in assignments.groupBy("cluster").count().collect()}
    fields = metadata_source.metadata_by_id(titled, [name for ids in members.values() for name in ids], ["title"])
    titles = {name: values["title"] for name, values in fields.items() if values}
    pictures = images.read(assignments.sparkSession, config.input)
    return cluster_montage.draw(members, sizes, pictures, config.input.limits, titles)


def _draw_map(vectors: DataFrame, labels: DataFrame, config: Config) -> bytes:
    """Return a map with the pictures themselves as its points."""
    pictures = images.read(vectors.sparkSession, config.input)
    find = partial(thumbnails.thumbnails_by_id, pictures, limits=config.input.limits)
    options = config.evaluate
    return scatter_map.draw_pictures(vectors, options.map_images, find, seed=options.seed, metadata=labels)


def _digest_suffix(config: FeaturizeConfig) -> str:
    """Return the end of the digests of vectors with unusual options, so that a table never mixes these with others."""
    return "" if config.normalize and config.dtype == "float32" else f"/{config.dtype}/{config.normalize}"


def _null(kind: str) -> Column:
    return F.lit(None).cast(kind)
