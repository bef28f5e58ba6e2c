"""A latent space that is published: its model follows the rotations of what it stands on, and its own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embedall_spark import files, mlflow_models, run_manifest, tables, tracking
from embedall_spark.errors import ConfigError, SetupError
from embedall_spark.latent import latent_model, rotation
from embedall_spark.schemas import ROTATION, VECTORS, conform
from embedall_spark.table_versions import versions
from embedall_spark.vectors import dimension

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import SparkSession

    from embedall_spark.latent.latent_model import LatentModel

log = logging.getLogger(__name__)

_SIDES = {"path": "left", "right": "right", "words": "words"}
"""Options of the input that name tables which are published, and the side of the model that maps their vectors."""


class LatentCandidate(NamedTuple):
    """The latent space of a candidate."""

    producer: Mapping[str, Any]
    """Facts of the commit of its table."""
    run_id: str
    model: LatentModel
    """Maps the vectors of what is published."""
    learned_words: str | None
    """The table of words' vectors that its run learned."""

    def publish(
        self, spark: SparkSession, candidate: str, published: str, run_id: str, matrix: NDArray[np.float64] | None
    ) -> dict[str, str]:
        """Keep the model of the published version, and log it; return the facts of the commit that name it.

        Args:
            spark: the session.
            candidate: the table of the candidate.
            published: the table that others read.
            run_id: of the publication.
            matrix: by which the candidate is rotated; None: it is not.
        """
        model = self.model if matrix is None else rotation.rotate_space(self.model, matrix)
        if self.learned_words is not None:
            assert model.text is not None
            name = files.words_of(published)
            model = model._replace(text=model.text._replace(table=name))
            # As this run wrote them: a later one whose gates failed may have replaced them.
            version = tables.committed(spark, self.learned_words, self.run_id, None)
            rows = conform(tables.read(spark, self.learned_words, version), VECTORS)
            tables.write(spark, rows, name, VECTORS, mode="overwrite", run_id=run_id, vector_size=dimension(rows))
        path = f"{self.producer['run_folder']}/artifacts/{run_id}.npz"
        files.write_bytes(path, latent_model.to_bytes(model))
        facts = {"model": path}
        if (mlflow_run_id := self.producer.get("mlflow_run_id")) is not None:
            store = run_manifest.store_folder(candidate, dict(self.producer))
            servable = latent_model.servable(model, None)
            try:
                facts["model_uri"] = tracking.apply(store, mlflow_models.log, mlflow_run_id, servable)
            except SetupError as error:
                log.warning("%s: its model is in %s, and not in MLflow: %s", published, path, error)
        return facts


def read(spark: SparkSession, candidate: str, producer: Mapping[str, Any], stands_on: Sequence[str]) -> LatentCandidate:
    """Return the latent space of a candidate, composed with the rotations of what it stands on.

    Args:
        spark: the session.
        candidate: a table of a latent space.
        producer: facts of its commit.
        stands_on: published tables of those that it was fitted to.

    Raises:
        ConfigError: a table of these is not published from one that it was fitted to, or from another version.
        BadData: the model is gone, or cannot be read.
    """
    model = latent_model.load(producer["run_folder"])
    manifest = run_manifest.read(producer["run_folder"])
    config, fitted_to = manifest["config"], (manifest.get("snapshot") or {}).get("tables", {})
    inputs = {option: config[f"input.{option}"] for option in _SIDES if config.get(f"input.{option}") is not None}
    for name in stands_on:
        model = _on(
            spark, candidate, model, name, {option: (inputs[option], fitted_to.get(option)) for option in inputs}
        )
    text = model.text
    learned = text is not None and text.composed is not None and "words" not in inputs
    return LatentCandidate(producer, manifest["run_id"], model, text.table if text is not None and learned else None)


def _on(
    spark: SparkSession,
    candidate: str,
    model: LatentModel,
    published: str,
    inputs: Mapping[str, tuple[str, int | None]],
) -> LatentModel:
    """Return a model that maps the vectors of a published table, which is one of those that it was fitted to."""
    commit = next((commit for commit in versions(spark, published) if "candidate" in commit), None)
    if commit is None:
        raise ConfigError(f"stands_on: {published} has no published version; publish it first")
    source = _absolute(commit["candidate"])
    option = next((option for option, (table, _) in inputs.items() if _absolute(table) == source), None)
    if option is None:
        tables_ = ", ".join(table for table, _ in inputs.values())
        raise ConfigError(f"stands_on: {published} is published from {source}, and {candidate} was fitted to {tables_}")
    version = _version(*inputs[option])
    if version != commit["candidate_version"]:
        raise ConfigError(
            f"{candidate}: was fitted to version {version} of {source}, and {published} has its version "
            f"{commit['candidate_version']}: fit the latent space again (embedall latent), then publish it"
        )
    side = _SIDES[option]
    if side == "words":
        assert model.text is not None
        model = model._replace(text=model.text._replace(table=files.input_path(published)))
    if not commit.get("rotated"):
        log.info("%s: %s was published without a rotation, and its model maps it as it is", candidate, published)
        return model
    log.info("%s: its %s is composed with the rotation of %s; nothing is fitted", candidate, _matrix(side), published)
    return rotation.rotate_side(model, side, _rotation(spark, published, commit["run_id"]))


def _matrix(side: str) -> str:
    return "P" if side == "left" else "Q"


def _version(table: str, at_fit: int | None) -> int | None:
    """Return the version of a table that a run read: the one it names, else the one that its manifest has."""
    version = files.table_and_version(table)[1]
    return at_fit if version is None else version


def _absolute(table: str) -> str:
    return files.input_path(files.table_and_version(table)[0]).rstrip("/")


def rotation_table(published: str) -> str:
    """Return the name of the table with the rotation of a publication beside a published table."""
    return f"{published.rstrip('/')}_rotation"


def keep_rotation(spark: SparkSession, published: str, run_id: str, matrix: NDArray[np.float64]) -> None:
    """Write the rotation of a publication, for latent spaces that stand on the table."""
    rows = [(position, row.tolist()) for position, row in enumerate(matrix)]
    frame = spark.createDataFrame(rows, ROTATION)
    tables.write(spark, frame, rotation_table(published), ROTATION, mode="overwrite", run_id=run_id)


def _rotation(spark: SparkSession, published: str, run_id: str) -> NDArray[np.float64]:
    """Return the rotation of a publication, float64 [d, d]."""
    name = rotation_table(published)
    # Of a version that a rollback brought back, it is not the latest.
    version = tables.committed(spark, name, run_id, None)
    rows = tables.read(spark, name, version).orderBy("position").toArrow()
    return np.array(rows["values"].to_pylist(), np.float64)
