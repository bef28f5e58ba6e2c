"""A candidate becomes the next version of the table that others read, or is held back."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from embedall_spark import files, run_manifest, tables
from embedall_spark.errors import ConfigError, QualityGateFailed
from embedall_spark.evaluate import word_benchmarks
from embedall_spark.publish import drift, gates, procrustes
from embedall_spark.schemas import DRIFT, VECTORS, conform
from embedall_spark.table_versions import RESTORED, versions
from embedall_spark.vectors import dimension

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.publish.drift import Drift
    from embedall_spark.publish.gates import Evaluation, Publication
    from embedall_spark.publish.procrustes import Rotation

log = logging.getLogger(__name__)

# A run of such a kind has a model of its own, which would no longer give the vectors of a rotated table.
_WITH_MODEL = {"images", "latent"}


class Result(NamedTuple):
    """What has been published."""

    version: int
    figures: dict[str, float]
    rotation: Rotation | None
    """None: published as it is, because there was nothing to rotate onto."""
    drift: Drift | None
    repeated: bool = False
    """Whether it had been published before, so that nothing was done."""


def publish(
    spark: SparkSession,
    candidate: str,
    published: str,
    config: Publication,
    *,
    new_space: bool = False,
    again: bool = False,
) -> Result:
    """Rotate a candidate onto the published table, measure both, and replace the published table in one commit.

    Readers see the version before or the whole new one. A call that is repeated after it was killed does what is
    missing; one for what is the published version already does nothing. Beside the table are PUBLISHED_drift and, where
    the candidate has titles and labels, PUBLISHED_metadata.

    Args:
        spark: the session.
        candidate: the table to publish.
        published: the table that others read; made if it does not exist.
        config: what is measured, and when the candidate is held back.
        new_space: do not rotate: nothing computed from earlier versions is comparable with this one.
        again: publish a candidate also if it was published and then rolled back.

    Raises:
        ConfigError: the tables differ in dimension, the candidate was rolled back, or it is of a kind whose model maps
            further things into its space.
        BadData: the tables share too few ids.
        QualityGateFailed: the candidate is held back; the published table is left as it is.
        TableError: a table is missing or is no table of vectors, or another writer was faster.
    """
    version = tables.version(spark, candidate)
    # As of that version, whatever is written to the candidate meanwhile.
    rows, producer = conform(tables.read(spark, candidate, version), VECTORS), _producer(spark, candidate)
    source = {"candidate": candidate, "candidate_version": version}
    current, before = None, None
    if tables.exists(spark, published):
        commits = versions(spark, published)
        before = int(commits[0]["version"])
        # Delta's own commits, such as OPTIMIZE, change no row.
        ours = [commit for commit in commits if "candidate" in commit]
        if ours and source.items() <= ours[0].items():
            return Result(before, ours[0]["figures"], None, None, repeated=True)
        if not again and any(source.items() <= commit.items() and RESTORED not in commit for commit in ours):
            raise ConfigError(
                f"{candidate}: its version {version} was published before, and another one came in "
                f"its place, such as by a rollback of {published}; give --again to publish it again"
            )
        current = conform(tables.read(spark, published, before), VECTORS)
    rotation, changes, drift_rows = None, None, None
    figures = _figures(rows, config.evaluate)
    if current is not None and not new_space:
        rotation = procrustes.fit(rows, current)
        log.info("rotation: %s anchors, mean cosine %.4f", f"{rotation.anchors:,}", rotation.fit)
        drift_rows = drift.table(rows, current, rotation.matrix).persist()
        changes = drift.measure(rows, current, drift_rows)
        rows = procrustes.rotate(rows, rotation.matrix)
    incumbent = _figures(current, config.evaluate) if current is not None else {}
    if reasons := gates.failures(config.gates, changes, figures, incumbent):
        raise QualityGateFailed(f"{candidate} is held back: {'; '.join(reasons)}. {published} was left as it is")
    run_id = f"publish-{_digest(candidate, version, published, before)}"
    # What the candidate's run says of its pictures and files holds for the published table, too.
    facts = {**producer, **source, "figures": figures, "user": getpass.getuser()}
    facts |= changes.metrics() if changes is not None else {}
    if drift_rows is not None:
        tables.write(
            spark, drift_rows, f"{published}_drift", DRIFT, mode="overwrite", run_id=run_id,
            comment=f"How far the ids of {published} have moved from version {before}", metadata=source,
        )  # fmt: skip
    _publish_metadata(spark, candidate, published, run_id)
    written = tables.write(
        spark, rows, published, VECTORS, mode="overwrite", run_id=run_id, vector_size=dimension(rows),
        comment=f"Published from {candidate}", metadata=facts,
    )  # fmt: skip
    if drift_rows is not None:
        drift_rows.unpersist()
    return Result(written, figures, rotation, changes)


def is_published(spark: SparkSession, candidate: str, published: str) -> bool:
    """Tell whether the latest version of a published table is the latest one of a candidate."""
    if not tables.exists(spark, published):
        return False
    ours = [commit for commit in versions(spark, published) if "candidate" in commit]
    source = {"candidate": candidate, "candidate_version": tables.version(spark, candidate)}
    return bool(ours) and source.items() <= ours[0].items()


def _producer(spark: SparkSession, name: str) -> dict[str, Any]:
    """Return kind, run_folder and mlflow_run_id of the run that made a candidate.

    Raises:
        ConfigError: its vectors come from a model.
    """
    names = ("kind", "run_folder", "mlflow_run_id")
    producer = {key: value for key, value in run_manifest.producer_of(spark, name).items() if key in names}
    kind = producer.get("kind")
    if kind in _WITH_MODEL:
        raise ConfigError(
            f"{name}: vectors of {kind} come from a model, which maps further things into their space and would not "
            "follow a rotation; let readers read the table of its run"
        )
    return producer


def _figures(vectors: DataFrame, config: Evaluation) -> dict[str, float]:
    """Return how vectors score on the files of an evaluation, by name."""
    figures: dict[str, float] = {}
    if config.analogies is not None:
        figures |= word_benchmarks.analogies(vectors, config.analogies, config.restrict_vocab).metrics()
    for file in config.similarity:
        figures |= word_benchmarks.similarity(vectors, file).metrics()
    return {name: value for name, value in figures.items() if not name.startswith("coverage/")}


def _publish_metadata(spark: SparkSession, candidate: str, published: str, run_id: str) -> None:
    """Copy the titles and labels of a candidate, if it has any."""
    name = files.metadata_of(candidate)
    if tables.exists(spark, name):
        rows = tables.read(spark, name)
        tables.write(spark, rows, files.metadata_of(published), rows.schema, mode="overwrite", run_id=run_id)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
