"""Runs on storage: a folder per run, resumed where it was left, fenced against a second driver.

A run's folder holds config.yaml, manifest.json, stages/ and checkpoints/. The manifest carries a token that each
driver replaces when it takes the run over; a driver that finds another's token stops before its next commit.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pyspark.sql import functions as F

from embedall_spark import config as configs
from embedall_spark import files, tables
from embedall_spark.errors import BadData, ConfigError, Superseded
from embedall_spark.progress import Meter, activity
from embedall_spark.schemas import VECTORS, conform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from embedall_spark.config import Output, Section
    from embedall_spark.run_context import ServableModel, Trial

log = logging.getLogger(__name__)

_FORMAT = 1
_MANIFEST = "manifest.json"

Manifest = dict[str, Any]


class Tracker(NamedTuple):
    """Where a run's figures and files go."""

    metric: Callable[[str, float, int | None], None]
    artifact: Callable[[str, bytes], None]
    model_uri: str | None
    log_trials: Callable[[Sequence[Trial]], None] = lambda tried: None
    log_model: Callable[[ServableModel], str | None] = lambda model: None


class StoredRun:
    """A run in a folder; implements ``embedall_spark.run_context.Run``."""

    def __init__(self, spark: SparkSession, folder: str, manifest: Manifest, output: Output, tracker: Tracker) -> None:
        """Take over the run in ``folder``, which ``begin`` has made or found."""
        self.spark, self.folder, self.id = spark, folder, str(manifest["run_id"])
        self.model_uri = tracker.model_uri
        self.meter = Meter()
        self.rejects: list[DataFrame] = []
        self.rejected = 0
        self._token, self._attempt = manifest["token"], manifest["attempt"]
        self.output, self._tracker = output, tracker

    def stage(self, name: str, make: Callable[[], DataFrame]) -> DataFrame:
        """Return a finished stage's table, made and written once."""
        marker = f"{self.folder}/stages/{name}.json"
        if files.exists(marker):
            log.info("%s: done before", name)
            return self.read_stage(name)
        self.check_ownership()
        log.info("%s: begun", name)
        since = time.monotonic()
        # A superseded driver may still be writing under its own attempt.
        part = f"{name}-{self._attempt}-{self._token[:6]}"
        path = f"{self.folder}/stages/{part}"
        # Nearly all that a stage holds is binary and distinct: a dictionary would be built, and thrown away.
        with activity(name):
            make().write.mode("overwrite").option("parquet.enable.dictionary", "false").parquet(path)
        self.check_ownership()
        files.write_bytes(marker, json.dumps({"folder": part}).encode())
        log.info("%s: done in %.1f s", name, time.monotonic() - since)
        return self.spark.read.parquet(files.spark_path(path))

    def read_stage(self, name: str) -> DataFrame:
        """Return a finished stage's table."""
        return self.spark.read.parquet(files.spark_path(self.stage_path(name)))

    def stage_path(self, name: str) -> str:
        """Return the folder of a finished stage's parquet files."""
        return stage_path(self.folder, name)

    def previous_output(self) -> DataFrame | None:
        """Return the output table as it was when the run began, also when the run goes on later."""
        found = read(self.folder)
        if "before" not in found:
            self.check_ownership()
            found = {**found, "before": tables.version(self.spark, self.output.table)}
            _write(self.folder, found)
        version = found["before"]
        return None if version is None else conform(tables.read(self.spark, self.output.table, version), VECTORS)

    def producer_of(self, table: str) -> tuple[str, dict[str, Any]] | None:
        """Return the kind and the configuration of the run that made a table."""
        made = producer_of(self.spark, table)
        try:
            return made["kind"], configuration(made["run_folder"])
        except (KeyError, OSError):
            return None

    def reject(self, df: DataFrame) -> None:
        """Keep refused rows until the result is written."""
        self.rejects.append(df)

    def check_reject_share(self, rejected: int, seen: int) -> None:
        """Log how many rows were refused; raise BadData where none was good or too many were not."""
        self.rejected += rejected
        self.metric("rejected", self.rejected, None)
        if seen == 0:
            raise BadData("the input has no row; check the configured path and column")
        share = self.rejected / seen
        if rejected:
            log.warning("%s of %s rows refused (%.2f%%)", f"{self.rejected:,}", f"{seen:,}", 100 * share)
        if share > self.output.max_reject_share or self.rejected == seen:
            raise BadData(
                f"{self.rejected:,} of {seen:,} rows were refused, a share of {share:.4f}; allowed is "
                f"output.max_reject_share={self.output.max_reject_share}. Mend the input or raise the share"
            )

    def write_table(self, name: str, df: DataFrame, schema: StructType, comment: str) -> None:
        """Replace a further table in one commit, which a rerun does not repeat."""
        self.check_ownership()
        tables.write(self.spark, df, name, schema, mode="overwrite", run_id=self.id, comment=comment)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a figure."""
        self._tracker.metric(name, value, step)

    def artifact(self, name: str, content: bytes) -> None:
        """Record a file in the run's folder and where runs are tracked."""
        files.write_bytes(f"{self.folder}/artifacts/{name}", content)
        self._tracker.artifact(name, content)

    def log_trials(self, tried: Sequence[Trial]) -> None:
        """Record a sweep where runs are tracked."""
        self._tracker.log_trials(tried)

    def log_model(self, model: ServableModel) -> None:
        """Record a model where runs are tracked."""
        self.model_uri = self._tracker.log_model(model) or self.model_uri

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Tell how far a stage is."""
        self.meter.show(stage, done, total, note)

    def check_ownership(self) -> None:
        """Raise Superseded where another driver has taken over."""
        found = read(self.folder)
        if found["token"] != self._token:
            raise Superseded(
                f"run {self.id}: another driver took over (attempt {found['attempt']}, this one is "
                f"{self._attempt}); this one stops and has committed nothing since"
            )

    def finish(self, status: str, **facts: Any) -> None:
        """Write how the run ended into its manifest."""
        self.meter.close()
        self.check_ownership()
        _write(self.folder, {**read(self.folder), "status": status, **facts})


def local(spark: SparkSession, folder: str, max_reject_share: float = 0.01) -> StoredRun:
    """Return a run for a call from Python: stages and checkpoints lie in ``folder``, figures go into the log.

    Called again with the same folder, it goes on where it was left; give each configuration a folder of its own.
    """
    folder = folder.rstrip("/")
    known: Manifest = {"attempt": 0, "created": _now()}
    if files.exists(f"{folder}/{_MANIFEST}"):
        known = read(folder)
    manifest = known | {"run_id": folder.rpartition("/")[2], "attempt": known["attempt"] + 1}
    manifest |= {"token": secrets.token_hex(8), "status": "running"}
    _write(folder, manifest)
    tracker = Tracker(lambda name, value, step: log.info("%s %s: %g", name, step, value), lambda *_: None, None)
    return StoredRun(spark, folder, manifest, configs.Output(table=folder, max_reject_share=max_reject_share), tracker)


def check_id(run_id: str | None) -> None:
    """Raise ConfigError if a run's id cannot be the name of its folder."""
    if run_id is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}", run_id):
        raise ConfigError(
            f"--run-id {run_id!r}: need at most 200 letters, digits and _ . : + @ = - (no slash or blank), "
            "beginning with a letter, a digit or _"
        )


def begin(root: str, kind: str, config: Section, version: str, run_id: str | None) -> tuple[str, Manifest]:
    """Return folder and manifest of the run to do: named, or left unfinished by an equal one, or new.

    Raises:
        ConfigError: the named run has another configuration or input.
    """
    identity, digest = _identity(kind, config, version)
    name = run_id or unfinished(root, kind, config, version) or _new_id(kind)
    folder = f"{root}/{name}"
    if files.exists(f"{folder}/{_MANIFEST}"):
        manifest = read(folder)
        if manifest["digest"] != digest:
            raise ConfigError(_difference(name, manifest, identity))
        if manifest["status"] == "done":
            return folder, manifest
        log.info("run %s: going on after attempt %d", name, manifest["attempt"])
    else:
        files.write_bytes(f"{folder}/config.yaml", configs.dump(config).encode())
        manifest = {"format": _FORMAT, "run_id": name, "attempt": 0, "digest": digest, "created": _now(), **identity}
    manifest |= {"attempt": manifest["attempt"] + 1, "token": secrets.token_hex(8), "status": "running"}
    _write(folder, manifest)
    return folder, manifest


def unfinished(root: str, kind: str, config: Section, version: str) -> str | None:
    """Return the newest run of this configuration and input that was begun and not ended."""
    _, digest = _identity(kind, config, version)
    found = [run for run in _all(root) if run["digest"] == digest and run["status"] in ("running", "failed")]
    return str(max(found, key=lambda run: str(run["created"]))["run_id"]) if found else None


def read(folder: str) -> Manifest:
    """Return a run's manifest."""
    return dict(json.loads(files.read_bytes(f"{folder}/{_MANIFEST}")))


def producer_of(spark: SparkSession, table: str) -> dict[str, Any]:
    """Return what the last commit of a run of ours says of a table: kind, run_folder, mlflow_run_id; or nothing."""
    commit = tables.history(spark, table).where("run_id IS NOT NULL").orderBy(F.desc("version")).first()
    return dict(json.loads(commit["metadata"])) if commit else {}


def configuration(folder: str) -> dict[str, Any]:
    """Return the configuration of a run; raises OSError where its folder is gone."""
    return dict(yaml.safe_load(files.read_bytes(f"{folder}/config.yaml")))


def stage_path(folder: str, name: str) -> str:
    """Return the folder of a run's finished stage, with its parquet files."""
    marker = json.loads(files.read_bytes(f"{folder}/stages/{name}.json"))
    return f"{folder}/stages/{marker['folder']}"


def note(folder: str, **facts: Any) -> None:
    """Add facts to a run's manifest."""
    _write(folder, {**read(folder), **facts})


def clean(root: str, keep: int) -> list[str]:
    """Remove stages and checkpoints of all but the newest ``keep`` runs; return the runs' ids.

    Manifests stay, so that a table's lineage can still be read.
    """
    runs = sorted(_all(root), key=lambda run: str(run["created"]), reverse=True)
    cleaned = []
    for run in runs[keep:]:
        folder = f"{root}/{run['run_id']}"
        parts = [part for part in ("stages", "checkpoints") if files.exists(f"{folder}/{part}")]
        for part in parts:
            files.delete(f"{folder}/{part}")
        if parts:
            cleaned.append(str(run["run_id"]))
            if run["status"] != "done":
                # Without its stages it would start over, under an old name; a driver that is still at it stops.
                note(folder, status="cleaned", token=secrets.token_hex(8))
    return cleaned


def _all(root: str) -> list[Manifest]:
    found = []
    for name in files.children(root):
        if files.exists(f"{root}/{name}/{_MANIFEST}"):
            try:
                found.append(read(f"{root}/{name}"))
            except ValueError:
                log.warning("%s/%s: its manifest is damaged; the run is left out", root, name)
    return found


def _identity(kind: str, config: Section, version: str) -> tuple[dict[str, Any], str]:
    """Return what makes two runs the same, and a digest of it."""
    identity = {"kind": kind, "input": version, "config": configs.identity(config)}
    return identity, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _difference(name: str, manifest: Manifest, identity: dict[str, Any]) -> str:
    before, now = manifest["config"], identity["config"]
    keys = [
        f"{key}: was {before.get(key)!r}, is {now.get(key)!r}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if manifest["input"] != identity["input"]:
        keys.append("the input has changed")
    return f"run {name} exists with another configuration ({'; '.join(keys)}): choose another --run-id, or undo that"


def _new_id(kind: str) -> str:
    return f"{kind}-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _write(folder: str, manifest: Manifest) -> None:
    files.write_bytes(f"{folder}/{_MANIFEST}", json.dumps({**manifest, "updated": _now()}, indent=1).encode())
