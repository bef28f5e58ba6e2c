"""A candidate becomes the next version of the table that others read, or is held back."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from embedall_spark import (
    files,
    mlflow_models,
    published_alias,
    published_beside,
    published_codes,
    published_latent,
    run_manifest,
    tables,
)
from embedall_spark.errors import ConfigError, QualityGateFailed
from embedall_spark.evaluate import benchmark_files, word_benchmarks
from embedall_spark.publish import comparison, gates, procrustes
from embedall_spark.published_beside import BESIDE
from embedall_spark.schemas import DRIFT, VECTORS, conform
from embedall_spark.table_versions import RESTORED, versions
from embedall_spark.vectors import dimension
from embedall_spark.visualize import drift_plot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.publish.drift import Drift
    from embedall_spark.publish.gates import Evaluation, Publication
    from embedall_spark.publish.procrustes import Rotation
    from embedall_spark.table_versions import Version


log = logging.getLogger(__name__)


class Result(NamedTuple):
    """What has been published."""

    version: int
    figures: dict[str, float]
    rotation: Rotation | None
    """None: published as it is."""
    drift: Drift | None
    """None: there was nothing to compare with."""
    repeated: bool = False
    """Whether it had been published before, so that nothing was done."""

    @property
    def metrics(self) -> dict[str, float]:
        """The figures for MLflow."""
        return self.figures | (self.drift.metrics() if self.drift is not None else {})

    def pictures(self, title: str) -> dict[str, bytes]:
        """Return the pictures for MLflow by their names, PNG."""
        return {} if self.drift is None else {"publish/drift.png": picture(self.drift, title)}


def picture(drift: Drift, title: str) -> bytes:
    """Return a picture of a drift, PNG."""
    rows = drift.frequent
    return drift_plot.draw(rows["count"].to_pylist(), rows["cosine"].to_pylist(), drift.moved, title)


def check(config: Publication, candidate: str, published: str, kind: str | None = None) -> None:
    """Refuse what can be seen to be wrong before Spark starts; ``kind`` is the candidate's, where it is known.

    Raises:
        ConfigError: both tables are the same, stands_on is set and the candidate is no latent space, or Unity Catalog
            is to register a table.
        BadData: a file of the evaluation cannot be read.
    """
    if config.evaluate.analogies is not None:
        benchmark_files.questions(config.evaluate.analogies)
    for file in config.evaluate.similarity:
        benchmark_files.pairs(file)
    if config.registered_model is not None and mlflow_models.in_unity_catalog():
        raise ConfigError(
            f"registered_model: {config.registered_model} would stand for a table, and Unity Catalog registers only "
            "models with a signature: leave it unset (readers name the table), or set MLFLOW_REGISTRY_URI=databricks"
        )
    if candidate.rstrip("/") == published.rstrip("/"):
        raise ConfigError(f"{published}: is the candidate itself; a run writes one table, and readers read another")
    if config.stands_on and kind not in (None, "latent"):
        raise ConfigError(f"stands_on is for latent spaces, and {candidate} has {kind}; leave it out")


def publish(
    spark: SparkSession,
    candidate: str,
    published: str,
    config: Publication,
    *,
    new_space: bool = False,
    again: bool = False,
    run_figures: Mapping[str, float] | None = None,
) -> Result:
    """Rotate a candidate onto the published table, measure both, and replace the published table in one commit.

    Readers see the version before or the whole new one. A call that is repeated after it was killed does what is
    missing; one for what is the published version already does nothing. Beside the table are PUBLISHED_drift,
    PUBLISHED_codes and, where the candidate has them, its titles and labels (PUBLISHED_metadata) and n-grams
    (PUBLISHED_ngrams), rotated as well.

    Args:
        spark: the session.
        candidate: the table to publish.
        published: the table that others read; made if it does not exist.
        config: what is measured, and when the candidate is held back.
        new_space: do not rotate: nothing computed from earlier versions is comparable with this one.
        again: publish a candidate also if it was published and then rolled back.
        run_figures: what the candidate's run measured; None: as its manifest says.

    Raises:
        ConfigError: the tables differ in dimension, the candidate was rolled back, its pictures went through another
            network, or it is a latent space that was fitted to another version of what it is to stand on.
        BadData: the tables share too few ids.
        QualityGateFailed: the candidate is held back; the published table is left as it is.
        TableError: a table is missing or is no table of vectors, or another writer was faster.
    """
    version = tables.version(spark, candidate)
    # As of that version, whatever is written to the candidate meanwhile.
    rows, producer = conform(tables.read(spark, candidate, version), VECTORS), _producer(spark, candidate)
    check(config, candidate, published, producer.get("kind"))
    source = {"candidate": candidate, "candidate_version": version}
    current, before, latest = None, None, {}
    if tables.exists(spark, published):
        commits = versions(spark, published)
        before = int(commits[0]["version"])
        # Delta's own commits, such as OPTIMIZE, change no row.
        ours = [commit for commit in commits if "candidate" in commit]
        latest = ours[0] if ours else {}
        if latest and source.items() <= latest.items():
            published_alias.follow(spark, published, config.registered_model)
            return Result(before, latest["figures"], None, None, repeated=True)
        if not again and any(source.items() <= commit.items() and RESTORED not in commit for commit in ours):
            raise ConfigError(
                f"{candidate}: its version {version} was published before, and another one came in "
                f"its place, such as by a rollback of {published}; give --again to publish it again"
            )
        current = conform(tables.read(spark, published, before), VECTORS)
    is_latent = producer.get("kind") == "latent"
    space = published_latent.read(spark, candidate, producer, config.stands_on) if is_latent else None
    reference = None if new_space else current
    rotates = reference is not None and _may_rotate(candidate, producer, latest)
    measured = gates.quality(run_figures if run_figures is not None else _run_figures(producer))
    figures = measured | _figures(rows, config.evaluate)
    # What is not measured any more does not fall.
    before_figures = gates.quality(latest.get("figures", {}))
    incumbent = {name: value for name, value in before_figures.items() if name in figures}
    incumbent |= _figures(current, config.evaluate) if current is not None else {}
    run_id = f"publish-{_digest(candidate, version, published, before)}"
    compared = nullcontext() if reference is None else comparison.compare(rows, reference, rotate=rotates)
    with compared as change:
        drift = change.drift if change is not None else None
        if reasons := gates.failures(config.gates, drift, figures, incumbent, _baseline(spark, published)):
            raise QualityGateFailed(f"{candidate} is held back: {'; '.join(reasons)}. {published} was left as it is")
        rotation = change.rotation if change is not None else None
        if change is not None:
            tables.write(
                spark, change.rows, f"{published}_drift", DRIFT, mode="overwrite", run_id=run_id,
                comment=f"How far the ids of {published} have moved from version {before}", metadata=source,
            )  # fmt: skip
        published_beside.publish(spark, candidate, published, run_id, rotation)
        vanished = _vanished(current, rows, config.vanished)
        # As long as rows are not rotated, their ids can be read alone.
        number = 0 if before is None else before + 1
        published_codes.extend(spark, rows.unionByName(vanished), published, number, run_id)
        matrix = None if rotation is None else rotation.matrix
        if matrix is not None:
            rows = procrustes.rotate(rows, matrix)
            published_latent.keep_rotation(spark, published, run_id, matrix)
        model = {} if space is None else space.publish(spark, candidate, published, run_id, matrix)
        if "model_uri" in model:
            rows = rows.withColumn("model_uri", F.lit(model["model_uri"]))
        rows = rows.unionByName(vanished)
        # What the candidate's run says of its pictures and files holds for the published table, too.
        facts = {**producer, **source, **model, "figures": figures, "user": getpass.getuser()}
        has_words = space is not None and space.learned_words is not None
        facts |= {"rotated": matrix is not None, BESIDE: published_beside.versions(spark, published, has_words)}
        facts |= drift.metrics() if drift is not None else {}
        facts |= {"registered_model": config.registered_model} if config.registered_model is not None else {}
        written = tables.write(
            spark, rows, published, VECTORS, mode="overwrite", run_id=run_id, vector_size=dimension(rows),
            comment=f"Published from {candidate}", metadata=facts,
        )  # fmt: skip
    published_alias.follow(spark, published)
    index = f"{published.rstrip('/')}_index"
    if files.is_path(published) and files.exists(index):
        log.warning("%s: is of the version before, and searches refuse it; build it again by embedall index", index)
    return Result(written, figures, rotation, drift)


def baseline_table(published: str) -> str:
    """Return the name of the table with the overlap of two seeds beside a published table."""
    return f"{published.rstrip('/')}_baseline"


def _baseline(spark: SparkSession, published: str) -> float | None:
    """Return the least overlap that the measured baseline allows; None where none was measured."""
    name = baseline_table(published)
    if not tables.exists(spark, name):
        return None
    row = tables.read(spark, name).first()
    return None if row is None else float(row["overlap"] - 3 * row["error"])


def _producer(spark: SparkSession, name: str) -> dict[str, Any]:
    """Return kind, run_folder and mlflow_run_id of the run that made a candidate."""
    names = ("kind", "run_folder", "mlflow_run_id")
    return {key: value for key, value in run_manifest.producer_of(spark, name).items() if key in names}


def _may_rotate(candidate: str, producer: Mapping[str, Any], latest: Version) -> bool:
    """Return whether a candidate is to be rotated: vectors of pictures are not, since a network makes further ones.

    Raises:
        ConfigError: the pictures of the published version went through another network, or that is not known.
    """
    if producer.get("kind") != "images":
        return True
    networks = [_network(run) for run in (producer, latest)]
    if networks[0] is None or networks[0] != networks[1]:
        raise ConfigError(
            f"{candidate}: its pictures went through another network than those of the published version, and a "
            "network does not follow a rotation; publish under another name, or with --new-space"
        )
    return False


def _network(run: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return what decides the vector of a picture in a run; None if the run is not one of pictures, or is gone."""
    if run.get("kind") != "images":
        return None
    try:
        manifest = run_manifest.read(run["run_folder"])
    except (KeyError, OSError):
        return None
    # The version of such an input ends with the network's fingerprint.
    fingerprint = str(manifest["input"]).rpartition("+")[2]
    return fingerprint, *(manifest["config"].get(f"featurize.{name}") for name in ("normalize", "dtype"))


def _run_figures(producer: Mapping[str, Any]) -> dict[str, float]:
    """Return what the run of a candidate has measured; nothing where its folder is gone."""
    try:
        return dict(run_manifest.read(producer["run_folder"])["summary"]["metrics"])
    except (KeyError, OSError):
        return {}


def _figures(vectors: DataFrame, config: Evaluation) -> dict[str, float]:
    """Return how vectors score on the files of an evaluation, by name."""
    figures: dict[str, float] = {}
    if config.analogies is not None:
        figures |= word_benchmarks.analogies(vectors, config.analogies, config.restrict_vocab).metrics()
    for file in config.similarity:
        figures |= word_benchmarks.similarity(vectors, file).metrics()
    return gates.quality(figures)


def _vanished(published: DataFrame | None, candidate: DataFrame, treatment: str) -> DataFrame:
    """Return the published rows that a candidate lacks and that stay, with count 0 where they are to be marked."""
    if published is None or treatment == "remove":
        return candidate.where("false")
    rows = published.join(candidate.select("id"), "id", "left_anti").select(*VECTORS.names)
    return rows.withColumn("count", F.lit(0).cast("long")) if treatment == "mark" else rows


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
