"""How a table of pictures or of a latent space was made, and where its pictures are."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from embedall_spark import config as configs
from embedall_spark import files, run_manifest, schemas, tables, tracking
from embedall_spark.config import Output
from embedall_spark.errors import ConfigError
from embedall_spark.search import exact, spelling

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.kinds import images, latent
    from embedall_spark.latent.latent_model import LatentModel
    from embedall_spark.sources.image_limits import Limits


class LatentTable(NamedTuple):
    """How a latent table was made."""

    config: latent.Config
    model: LatentModel
    run_id: str


def image_config_of(spark: SparkSession, table: str, instead: str) -> images.Config:
    """Return the configuration of the run of ``embedall images`` that has made a table.

    Args:
        spark: the session.
        table: the table.
        instead: the option to give where there is no such run.

    Raises:
        ConfigError: no run of ours has made the table of pictures, or its folder is gone.
    """
    from embedall_spark.kinds import images

    made = run_manifest.producer_of(spark, table)
    if made.get("kind") != "images" or "run_folder" not in made:
        raise ConfigError(f"{table} was not made by 'embedall images'; give {instead}")
    return configs.parse(images.Config, _configured(table, made, instead))


def latent_table(spark: SparkSession, table: str) -> LatentTable | None:
    """Return how a latent table was made; None where the table is none.

    Raises:
        ConfigError: the folder of the run that made it is gone.
        BadData: its model is gone, or cannot be read.
    """
    made = run_manifest.producer_of(spark, table)
    if made.get("kind") != "latent" or "run_folder" not in made:
        return None
    from embedall_spark.kinds import latent
    from embedall_spark.latent import latent_model

    config = configs.parse(latent.Config, _configured(table, made, "a table whose run is still there"))
    return LatentTable(config, latent_model.load(made["run_folder"]), made["run_id"])


def project_text(spark: SparkSession, made: LatentTable, text: str) -> NDArray[np.float32]:
    """Return a text in a latent space, float32 [k].

    Raises:
        UnknownId: no word of it is known; with the nearest spellings.
        BadData: the space has no words.
    """
    words, side = made.model.words(text), made.model.text
    vectors = {}
    if side is not None and side.composed is not None and side.table is not None:
        # Vectors that the run has learnt may be replaced by those of a later one whose gates fail.
        version = tables.committed(spark, side.table, made.run_id, 0)
        vectors = exact.find_vectors(schemas.conform(tables.read(spark, side.table, version), schemas.VECTORS), words)
    found = made.model.of_text(text, vectors)
    if found is not None:
        return found
    tokens = side.bags.tokens if side is not None else []
    known = spark.createDataFrame([(token, None) for token in tokens], "id string, count bigint")
    raise spelling.unknown(known, words or [text])


def embed_image(spark: SparkSession, table: str, path: str) -> NDArray[np.float32]:
    """Return the vector of a picture in a file, by the network that has made a table, float32 [d].

    Raises:
        ConfigError: as by().
        BadData: the file cannot be read, or is not a picture that can be used.
    """
    from embedall_spark.kinds import images

    return images.embed_file(image_config_of(spark, table, "--id or --vector"), path)


def project_image(spark: SparkSession, made: LatentTable, path: str) -> tuple[NDArray[np.float32], float]:
    """Return the vector of a picture in a file in a latent space of pictures, and its length before it was made 1.

    Raises:
        ConfigError: the left side is no table of pictures of ours.
        BadData: as embedded().
    """
    from embedall_spark.kinds import images

    return made.model.of_left(images.embed_file(image_config_of(spark, made.config.input.path, "--id"), path))


def metadata(spark: SparkSession, table: str) -> str | None:
    """Return the table of titles, tags and labels that a run has left beside a table; None where there is none."""
    beside = files.metadata_of(table)
    return beside if tables.exists(spark, beside) else None


def pictures(spark: SparkSession, table: str, folder: str | None, pattern: str) -> tuple[DataFrame, Limits]:
    """Return IMAGES of a table's ids, or more, and the limits of what is decoded.

    Args:
        spark: the session.
        table: the table.
        folder: where the pictures lie; none: where the run that made the table had them from.
        pattern: the path below the folder, with ``{id}`` in it.

    Raises:
        ConfigError: as by(), where there is no folder.
        BadData: there are no pictures any more where the run had them from.
    """
    from embedall_spark.sources import images
    from embedall_spark.sources.image_limits import Limits

    if folder is None:
        made = latent_table(spark, table)
        source = None if made is None else made.config.evaluate.pictures
        if source is None:
            source = image_config_of(spark, table if made is None else made.config.input.path, "--images FOLDER").input
        found = images.read(spark, source)
        if made is not None:
            found = found.withColumn("id", F.concat(F.lit(f"{made.model.left_kind}:"), "id"))
        return found, source.limits
    # An id comes from data, and must not lead out of the folder.
    inside = ~F.array_contains(F.split("id", "/"), "..")
    path = F.concat(F.lit(f"{folder.rstrip('/')}/"), F.replace(F.lit(pattern), F.lit("{id}"), F.col("id")))
    rows = tables.read(spark, table).where(inside).select("id", path.alias("path"))
    return schemas.conform(rows, schemas.IMAGES), Limits()


def log_to_producer(
    spark: SparkSession, table: str, figures: Mapping[str, float], pictures: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Add figures and files to the MLflow run that made a table, where a run of ours did."""
    found = run_manifest.producer_of(spark, table)
    if "mlflow_run_id" in found:
        # A table in a catalog has its store with its runs.
        folder = Output(table=table).folder or found["run_folder"].rpartition("/")[0]
        tracking.amend(folder, found["mlflow_run_id"], figures, pictures)


def _configured(table: str, made: dict[str, Any], instead: str) -> dict[str, Any]:
    """Return the configuration of the run that made a table."""
    try:
        return run_manifest.configuration(made["run_folder"])
    except OSError:
        file = f"{made['run_folder']}/config.yaml"
        raise ConfigError(f"{file}: the configuration of the run that made {table} is gone; give {instead}") from None
