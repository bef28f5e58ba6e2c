"""A run on storage: stages written once, rejects and figures, fenced against a second driver.

The manifest carries a token that each driver replaces when it takes the run over; a driver that reads another's token
stops before its next commit.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from embedall_spark import committed_files, files, run_manifest, tables
from embedall_spark import config as configs
from embedall_spark.errors import BadData, Superseded
from embedall_spark.progress import Meter, activity
from embedall_spark.schemas import VECTORS, conform
from embedall_spark.vectors import dimension

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from embedall_spark.config import Output
    from embedall_spark.run_context import Progress, ServableModel, Trial
    from embedall_spark.run_heartbeat import Heartbeat
    from embedall_spark.run_manifest import Manifest

log = logging.getLogger(__name__)


class Tracker(NamedTuple):
    """Functions that record a run's figures, files, trials and model."""

    metric: Callable[[str, float, int | None], None]
    artifact: Callable[[str, bytes], None]
    model_uri: str | None
    log_trials: Callable[[Sequence[Trial]], None] = lambda trials: None
    log_model: Callable[[ServableModel], str | None] = lambda model: None


class StoredRun:
    """A run in a folder; implements ``embedall_spark.run_context.Run``."""

    def __init__(
        self,
        spark: SparkSession,
        folder: str,
        manifest: Manifest,
        output: Output,
        tracker: Tracker,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        """Take over the run in ``folder``, which run_manifest.begin() returned."""
        self.heartbeat = heartbeat
        self.spark, self.folder, self.id = spark, folder, str(manifest["run_id"])
        self.model_uri = tracker.model_uri
        self.meter = Meter()
        self.rejects: list[DataFrame] = []
        self.facts: dict[str, Any] = {}
        self.rejected = 0
        self.restarts = int(manifest.get("restarts", 0))
        self._token, self._attempt = manifest["token"], manifest["attempt"]
        self.output, self._tracker = output, tracker

    def stage(self, name: str, make: Callable[[], DataFrame]) -> DataFrame:
        """Return a stage's table, computed and written once."""
        marker = f"{self.folder}/stages/{name}.json"
        if files.exists(marker):
            log.info("%s: reused", name)
            return self.read_stage(name)
        self.check_ownership()
        log.info("%s: started", name)
        since = time.monotonic()
        # A superseded driver may still be writing under its own attempt.
        part = f"{name}-{self._attempt}-{self._token[:6]}"
        path = f"{self.folder}/stages/{part}"
        rows = make()
        with activity(name):
            committed_files.write(rows, path)
        self.check_ownership()
        files.write_bytes(marker, json.dumps({"folder": part, "schema": rows.schema.jsonValue()}).encode())
        log.info("%s: done in %.1f s", name, time.monotonic() - since)
        return self.read_stage(name)

    def read_stage(self, name: str) -> DataFrame:
        """Return a finished stage's table."""
        reader, schema = self.spark.read, run_manifest.stage_schema(self.folder, name)
        if schema is not None:
            # Else Spark starts a job to read it from a file's footer.
            reader = reader.schema(schema)
        return committed_files.read(reader, [self.stage_path(name)])

    def stage_path(self, name: str) -> str:
        """Return the folder of a finished stage's parquet files."""
        return run_manifest.stage_path(self.folder, name)

    def previous_output(self) -> DataFrame | None:
        """Return the output table as it was when the run began, also after the run is resumed."""
        manifest = run_manifest.read(self.folder)
        if "before" not in manifest:
            self.check_ownership()
            manifest = {**manifest, "before": tables.version(self.spark, self.output.table)}
            run_manifest.write(self.folder, manifest)
        version = manifest["before"]
        return None if version is None else conform(tables.read(self.spark, self.output.table, version), VECTORS)

    def producer_of(self, table: str) -> tuple[str, dict[str, Any]] | None:
        """Return kind and configuration of the run that wrote a table; None if that is not known."""
        producer = run_manifest.producer_of(self.spark, table)
        try:
            return producer["kind"], run_manifest.configuration(producer["run_folder"])
        except (KeyError, OSError):
            return None

    def reject(self, df: DataFrame) -> None:
        """Keep refused rows until the result is written."""
        self.rejects.append(df)

    def check_reject_share(self, rejected: int, seen: int) -> None:
        """Log how many rows were refused; raise BadData if all were, or more than output.max_reject_share."""
        self.rejected += rejected
        self.metric("rejected", self.rejected, None)
        if seen == 0:
            raise BadData("the input has no rows; check the configured path and column")
        share = self.rejected / seen
        if rejected:
            log.warning("%s of %s rows refused (%.2f%%)", f"{self.rejected:,}", f"{seen:,}", 100 * share)
        if self.rejected == seen:
            raise BadData(f"all {seen:,} rows were refused, so that none is left to embed; correct the input")
        if share > self.output.max_reject_share:
            raise BadData(
                f"{self.rejected:,} of {seen:,} rows were refused, a share of {share:.4f}; allowed is "
                f"output.max_reject_share={self.output.max_reject_share}. Correct the input or raise that share"
            )

    def write_table(self, name: str, df: DataFrame, schema: StructType, comment: str) -> None:
        """Replace another table in one commit, which a rerun does not repeat."""
        self.check_ownership()
        size = dimension(df) or 0 if "vector" in schema.names else None
        options: Any = {"txn_version": self.restarts, "vector_size": size, "comment": comment}
        tables.write(self.spark, df, name, schema, mode="overwrite", run_id=self.id, **options)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a figure."""
        self._tracker.metric(name, value, step)

    def artifact(self, name: str, content: bytes) -> None:
        """Record a file in the run's folder and where runs are tracked."""
        files.write_bytes(f"{self.folder}/artifacts/{name}", content)
        self._tracker.artifact(name, content)

    def log_trials(self, trials: Sequence[Trial]) -> None:
        """Record trials where runs are tracked."""
        self._tracker.log_trials(trials)

    def log_model(self, model: ServableModel) -> None:
        """Record a model where runs are tracked."""
        self.model_uri = self._tracker.log_model(model) or self.model_uri

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Report the progress of a stage."""
        self.meter.show(stage, done, total, note)

    def watch(self, measure: Callable[[], Progress | None]) -> AbstractContextManager[None]:
        """Show what ``measure`` returns while the block runs."""
        return self.meter.watch(measure)

    def check_ownership(self) -> None:
        """Raise Superseded if another driver has taken over."""
        manifest = run_manifest.read(self.folder)
        if manifest["token"] != self._token:
            raise Superseded(
                f"run {self.id}: another driver took over (attempt {manifest['attempt']}, this one is "
                f"{self._attempt}); this one stops and has committed nothing since"
            )

    def finish(self, status: str, **facts: Any) -> None:
        """Write how the run ended into its manifest."""
        self.meter.close()
        self.check_ownership()
        run_manifest.write(self.folder, {**run_manifest.read(self.folder), "status": status, **facts})


def local(spark: SparkSession, folder: str, max_reject_share: float = 0.01) -> StoredRun:
    """Return a run for a call from Python: stages and checkpoints lie in ``folder``, figures go into the log.

    Called again with the same folder, it resumes; give each configuration a folder of its own.
    """
    folder = folder.rstrip("/")
    previous: Manifest = {"attempt": 0, "created": run_manifest.now()}
    if files.exists(f"{folder}/{run_manifest.FILE}"):
        previous = run_manifest.read(folder)
    manifest = previous | {"run_id": folder.rpartition("/")[2], "attempt": previous["attempt"] + 1}
    manifest |= {"token": secrets.token_hex(8), "status": "running"}
    run_manifest.write(folder, manifest)
    tracker = Tracker(lambda name, value, step: log.info("%s %s: %g", name, step, value), lambda *_: None, None)
    return StoredRun(spark, folder, manifest, configs.Output(table=folder, max_reject_share=max_reject_share), tracker)
