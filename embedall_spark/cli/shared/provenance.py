"""The run that made a table of pictures or of a latent space: its configuration, its model, its pictures."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from embedall_spark import config as configs
from embedall_spark import delta_files, files, run_manifest, schemas, table_cache, tables
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.search import exact, spelling
from embedall_spark.vectors import qualified_id, qualify

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.images.backbones import BackboneConfig
    from embedall_spark.kinds import images, latent
    from embedall_spark.latent.latent_model import LatentModel
    from embedall_spark.search.local_table import Vectors
    from embedall_spark.sources.image_limits import Limits


class LatentTable(NamedTuple):
    """How a latent table was made."""

    options: dict[str, Any]
    """The configuration of its run, every key."""
    model: LatentModel
    run_id: str

    def config(self) -> latent.Config:
        """Return the configuration as the kind reads it, whose import takes seconds."""
        from embedall_spark.kinds import latent

        return configs.parse(latent.Config, self.options)

    @property
    def left_table(self) -> str:
        """The table of the left side's vectors."""
        return str(self.options["input"]["path"])

    def metadata(self, name: str) -> str:
        """Return the table of titles and tags of the latent table of this name."""
        return str(self.options["output"].get("metadata") or files.metadata_of(name))


def image_config_of(spark: SparkSession | None, table: str, instead: str) -> images.Config:
    """Return the configuration of the run of ``embedall images`` that made a table.

    Args:
        spark: the session; None, here and below: tables are read without Spark.
        table: the table.
        instead: the option to give if there is no such run.

    Raises:
        ConfigError: no such run made the table, or its folder is gone.
    """
    from embedall_spark.kinds import images

    producer = run_manifest.producer_of(spark, table)
    if producer.get("kind") != "images" or "run_folder" not in producer:
        raise ConfigError(f"{table} was not made by 'embedall images'; give {instead}")
    return configs.parse(images.Config, _configuration(table, producer, instead))


def options_of(spark: SparkSession | None, table: str) -> dict[str, Any] | None:
    """Return every option of the run of ``embedall images`` that made a table; None if no such run made it.

    Raises:
        ConfigError: the run's folder is gone.
    """
    producer = run_manifest.producer_of(spark, table)
    if producer.get("kind") != "images" or "run_folder" not in producer:
        return None
    return _configuration(table, producer, "a table whose run is still there")


def latent_table(spark: SparkSession | None, table: str) -> LatentTable | None:
    """Return how a latent table was made; None if it is no latent table.

    Raises:
        ConfigError: the folder of the run that made it is gone.
        BadData: its model is gone, or cannot be read.
    """
    producer = run_manifest.producer_of(spark, table)
    if producer.get("kind") != "latent" or "run_folder" not in producer:
        return None
    from embedall_spark.latent import latent_model

    options = _configuration(table, producer, "a table whose run is still there")
    folder = producer["run_folder"]
    model = latent_model.load(folder, producer.get("model"))
    return LatentTable(options, _with_words_at_fit(model, options, folder), producer["run_id"])


def _with_words_at_fit(model: LatentModel, options: dict[str, Any], folder: str) -> LatentModel:
    """Return a model that is composed of the words as they were when it was fitted, not of those of a later run."""
    words = options["input"].get("words")
    if words is None or model.text is None or model.text.table != words:
        return model
    version = (run_manifest.read(folder).get("snapshot") or {}).get("tables", {}).get("words")
    known = version is not None and files.table_and_version(words)[1] is None
    return model._replace(text=model.text._replace(table=f"{words}@{version}")) if known else model


def project_text(spark: SparkSession | None, table: LatentTable, text: str) -> NDArray[np.float32]:
    """Return the vector of a text in a latent space, float32 [k].

    Raises:
        UnknownId: all its words are unknown; with the nearest spellings.
        BadData: the space has no words.
    """
    if (tower := table.model.tower) is not None:
        units, _ = table.model.right.latent(embed_text(tower.network, text)[None])
        latent: NDArray[np.float32] = units[0]
        return latent
    words, side = table.model.words(text), table.model.text
    vectors = {}
    if side is not None and side.composed is not None and side.table is not None:
        vectors = exact.find_vectors(_words_of(spark, side.table, table.run_id), words)
    vector = table.model.project_text(text, vectors)
    if vector is not None:
        return vector
    tokens = side.bags.tokens if side is not None else []
    raise spelling.unknown_of(tokens, words or [text])


def text_network(spark: SparkSession | None, table: str) -> BackboneConfig | None:
    """Return the network that made a table of pictures if it has a text side, with which texts find them."""
    from embedall_spark.images.backbones import BackboneConfig, is_pair

    try:
        options = options_of(spark, table)
    except ConfigError:
        return None
    network = None if options is None else BackboneConfig.model_validate(options["backbone"])
    return network if network is not None and is_pair(network) else None


def embed_text(network: BackboneConfig, text: str) -> NDArray[np.float32]:
    """Return the vector of a text by the text side of a network, float32 [d].

    Raises:
        ConfigError: its files are gone, or a package is missing.
    """
    from embedall_spark.images import backbones

    vector: NDArray[np.float32] = backbones.load_text(network).encode([text])[0]
    return vector


def _words_of(spark: SparkSession | None, table: str, run_id: str) -> Vectors:
    """Return the words' vectors that a run wrote: a later run whose gates failed may have replaced them."""
    table, version = files.table_and_version(table)
    if spark is not None:
        version = tables.committed(spark, table, run_id, None) if version is None else version
        return schemas.conform(tables.read(spark, table, version), schemas.VECTORS)
    latest = delta_files.open_version(table, version)
    versions = [commit["version"] for commit in table_cache.commits(latest) if commit["run_id"] == run_id]
    files_of_run = delta_files.open_version(table, max(versions)) if versions else latest
    return table_cache.vectors(files_of_run, table_cache.DEFAULT_LIMIT)


def embed_image(spark: SparkSession | None, table: str, path: str) -> NDArray[np.float32]:
    """Return the vector of a picture in a file, by the network that made a table, float32 [d].

    Raises:
        ConfigError: as image_config_of().
        BadData: the file cannot be read, or is not a picture that can be used.
    """
    from embedall_spark.kinds import images

    return images.embed_file(image_config_of(spark, table, "--id or --vector"), path)


def project_image(spark: SparkSession | None, table: LatentTable, path: str) -> tuple[NDArray[np.float32], float]:
    """Return the unit vector of a picture in a file in a latent space of pictures, float32 [k], and its length before.

    Raises:
        ConfigError: the left side's table was not made by ``embedall images``.
        BadData: as embed_image().
    """
    from embedall_spark.kinds import images

    return table.model.project_left(images.embed_file(image_config_of(spark, table.left_table, "--id"), path))


def metadata(spark: SparkSession | None, table: str) -> str | None:
    """Return the table of titles, tags and labels that a run wrote beside a table; None if there is none."""
    name = files.metadata_of(table)
    there = delta_files.exists(name) if spark is None else tables.exists(spark, name)
    return name if there else None


def picture_paths(table: str, latent: LatentTable | None) -> tuple[dict[str, str], Any]:
    """Return the paths of a table's pictures by id, and the limits of what is decoded, without Spark."""
    from embedall_spark.sources import image_files, openmoji
    from embedall_spark.sources.image_config import ImagesConfig

    source = None if latent is None else latent.options["evaluate"].get("pictures")
    if source is None:
        options = options_of(None, table if latent is None else latent.left_table)
        source = None if options is None else options["input"]
    if source is None:
        return {}, None
    config = configs.parse(ImagesConfig, source)
    if config.format == "openmoji":
        paths = {row[0]: row[1] for row in openmoji.pictures()}
    elif config.format == "files" and files.is_local(config.path):
        paths = image_files.paths_by_id(config)
    else:
        return {}, None
    kind = None if latent is None else latent.model.left_kind
    return {name if kind is None else qualified_id(kind, name): path for name, path in paths.items()}, config.limits


def pictures(spark: SparkSession, table: str, folder: str | None, pattern: str) -> tuple[DataFrame, Limits]:
    """Return IMAGES of a table's ids, or more, and the limits of what is decoded.

    Args:
        spark: the session.
        table: the table.
        folder: of the pictures; None: where the run that made the table read them.
        pattern: the path below the folder, with ``{id}`` in it.

    Raises:
        ConfigError: as image_config_of(), if no folder is given.
        BadData: the pictures are no longer where the run read them.
    """
    from embedall_spark.sources import images
    from embedall_spark.sources.image_limits import Limits

    if folder is None:
        latent = latent_table(spark, table)
        source = None if latent is None else latent.config().evaluate.pictures
        if source is None:
            made_of = table if latent is None else latent.left_table
            source = image_config_of(spark, made_of, "--images FOLDER").input
        try:
            rows = images.read(spark, source)
        except BadData as error:
            raise BadData(
                f"the pictures of {table} cannot be read from {source.path}, where its run read them ({error}); if "
                "they were moved, give --images FOLDER"
            ) from None
        if latent is not None:
            rows = rows.withColumn("id", qualify(latent.model.left_kind))
        return rows, source.limits
    # An id comes from data, and must not lead out of the folder.
    inside = ~F.array_contains(F.split("id", "/"), "..")
    path = F.concat(F.lit(f"{folder.rstrip('/')}/"), F.replace(F.lit(pattern), F.lit("{id}"), F.col("id")))
    rows = tables.read(spark, table).where(inside).select("id", path.alias("path"))
    return schemas.conform(rows, schemas.IMAGES), Limits(svg=pattern.endswith(".svg"))


def log_to_producer(
    spark: SparkSession | None,
    table: str,
    figures: Mapping[str, float],
    pictures: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Add figures and files to the MLflow run that made a table, if an MLflow run did."""
    # Imported here: only commands that measure need MLflow.
    from embedall_spark import tracking

    producer = run_manifest.producer_of(spark, table)
    if "mlflow_run_id" in producer:
        tracking.amend(run_manifest.store_folder(table, producer), producer["mlflow_run_id"], figures, pictures)


def _configuration(table: str, producer: dict[str, Any], instead: str) -> dict[str, Any]:
    """Return the configuration of the run that made a table."""
    try:
        return run_manifest.configuration(producer["run_folder"])
    except OSError:
        file = f"{producer['run_folder']}/config.yaml"
        raise ConfigError(f"{file}: the configuration of the run that made {table} is gone; give {instead}") from None
