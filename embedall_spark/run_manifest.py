"""Manifests of runs: which run to start or resume, what a run has done, which run made a table.

A run's folder holds config.yaml, manifest.json, stages/ and checkpoints/.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import secrets
from typing import TYPE_CHECKING, Any

import yaml
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import config as configs
from embedall_spark import delta_files, files, table_cache, tables
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from embedall_spark.config import Section

log = logging.getLogger(__name__)

FILE = "manifest.json"
_FORMAT = 1
_UNFINISHED = ("running", "failed")

Manifest = dict[str, Any]


def begin(
    root: str, kind: str, config: Section, version: str, run_id: str | None, snapshot: Manifest | None = None
) -> tuple[str, Manifest]:
    """Return folder and manifest of the run to do: the named one, else an equal unfinished one, else a new one.

    The named run starts anew, with a warning, if its input has changed, unless it is done.

    Args:
        root: the folder of the runs.
        kind: of the run.
        config: of the run.
        version: of its input.
        run_id: its name, or None.
        snapshot: what input_snapshot.take() returned, kept for a retry.

    Raises:
        ConfigError: the named run has another configuration.
    """
    identity, digest = _identity(kind, config, version)
    name = run_id or unfinished(root, kind, config, version) or _new_id(kind)
    folder = folder_of(root, name)
    if files.exists(f"{folder}/{FILE}"):
        manifest = read(folder)
        changes = _changes(manifest, identity)
        if changes:
            raise ConfigError(
                f"run {name} exists and differs ({'; '.join(changes)}): choose another --run-id, or undo the change"
            )
        if manifest["status"] == "done":
            if manifest["digest"] != digest:
                log.warning("run %s was finished before its input changed; another --run-id embeds it as it is", name)
            return folder, manifest
        if manifest["digest"] != digest:
            log.warning("run %s: its input has changed since attempt %d; it starts anew", name, manifest["attempt"])
            manifest = _restart(root, folder, manifest) | {**identity, "digest": digest, "snapshot": snapshot}
        else:
            log.info("run %s: resumed after attempt %d", name, manifest["attempt"])
    else:
        files.write_bytes(f"{folder}/config.yaml", configs.dump(config).encode())
        manifest = {"format": _FORMAT, "run_id": name, "attempt": 0, "digest": digest, "created": now(), **identity}
        manifest |= {"snapshot": snapshot, "restarts": 0}
    manifest |= {"attempt": manifest["attempt"] + 1, "token": secrets.token_hex(8), "status": "running"}
    write(folder, manifest)
    return folder, manifest


def folder_of(root: str, run_id: str) -> str:
    """Return the folder of a run."""
    return f"{root}/{files.file_name(run_id)}"


def _restart(root: str, folder: str, manifest: Manifest) -> Manifest:
    """Remove what a run has computed; return its manifest, in which its commits are newer than those before."""
    # Another driver of this run stops before it writes again; and a restart that is killed here is restarted again.
    write(folder, manifest | {"token": secrets.token_hex(8)})
    kept = [f"{root}/{name}/{folder.rpartition('/')[2]}.json" for name in files.children(root) if name[:5] == "kept-"]
    for path in [f"{folder}/stages", f"{folder}/checkpoints", *kept]:
        files.delete(path)
    return manifest | {"restarts": manifest.get("restarts", 0) + 1}


def named(root: str, run_id: str | None, kind: str, config: Section) -> Manifest | None:
    """Return the manifest of the run of this name; None if there is none or it has another configuration."""
    folder = folder_of(root, run_id or "")
    manifest = read(folder) if run_id is not None and files.exists(f"{folder}/{FILE}") else None
    same = manifest is not None and not _changes(manifest, _identity(kind, config, "")[0])
    return manifest if same else None


def unfinished(root: str, kind: str, config: Section, version: str) -> str | None:
    """Return the id of the newest unfinished run of this configuration and input; None if there is none."""
    _, digest = _identity(kind, config, version)
    runs = [run for run in every(root) if run["digest"] == digest and run["status"] in _UNFINISHED]
    return str(max(runs, key=lambda run: str(run["created"]))["run_id"]) if runs else None


def starts(root: str, table: str, run_id: str | None) -> list[str]:
    """Return what the named run, else unfinished ones, started training from: versions of a table, TABLE@VERSION.

    Where a run began before there was such a table, it is the table's name alone.
    """
    runs = [run for run in every(root) if run["run_id"] == run_id or (run_id is None and run["status"] in _UNFINISHED)]
    options = [run["config"].get("train.start") or run.get("missing_start") for run in runs]
    return [start for start in options if start is not None and files.table_and_version(start)[0] == table]


def current(
    spark: SparkSession, table: str, kind: str, config: Section, version: str, without_start: Section
) -> Manifest | None:
    """Return the manifest of the finished run that made a table; None unless configuration and input are these.

    Where training starts from a table without a version, any version of it will do: the run itself may have led to a
    new one. If it led to the first one, ``without_start`` is the configuration that it had.
    """
    if not tables.exists(spark, table):
        return None
    folder = producer_of(spark, table).get("run_folder")
    manifest = _finished(folder) if folder else None
    if manifest is None:
        return None
    identity, _ = _identity(kind, config, version)
    start, missing = manifest["config"].get("train.start"), manifest.get("missing_start")
    if missing is not None and missing == identity["config"]["train.start"]:
        identity, _ = _identity(kind, without_start, version)
    if start is not None and files.table_and_version(start)[0] == identity["config"]["train.start"]:
        identity["config"]["train.start"] = start
    return manifest if manifest["digest"] == _digest(identity) else None


def finished(root: str, run_id: str) -> Manifest | None:
    """Return the manifest of a run, None unless it is done."""
    return _finished(folder_of(root, run_id))


def _finished(folder: str) -> Manifest | None:
    manifest = read(folder) if files.exists(f"{folder}/{FILE}") else None
    return manifest if manifest is not None and manifest["status"] == "done" else None


def read(folder: str) -> Manifest:
    """Return a run's manifest."""
    return dict(json.loads(files.read_bytes(f"{folder}/{FILE}")))


def producer_of(spark: SparkSession | None, table: str) -> dict[str, Any]:
    """Return kind, run_folder and mlflow_run_id of the last run of ours that wrote a table; empty if none did.

    Args:
        spark: the session; None: the table's log is read without Spark.
        table: the table.
    """
    if spark is None:
        return next(iter(table_cache.commits(delta_files.open_version(table))), {})
    if (local := delta_files.latest(table)) is not None:
        return next(iter(local.commits()), {})
    commit = tables.history(spark, table).where("run_id IS NOT NULL").orderBy(F.desc("version")).first()
    return dict(json.loads(commit["metadata"])) if commit else {}


def store_folder(table: str, producer: Manifest) -> str:
    """Return the folder whose MLflow store has the run that made a table, unless the environment names another."""
    # The store of a table in a catalog lies with its runs.
    return configs.Output(table=table).folder or str(producer["run_folder"]).rpartition("/")[0]


def configuration(folder: str) -> dict[str, Any]:
    """Return the configuration of a run; raises OSError if its folder is gone."""
    return dict(yaml.safe_load(files.read_bytes(f"{folder}/config.yaml")))


def stage_path(folder: str, name: str) -> str:
    """Return the folder with the Parquet files of a run's finished stage."""
    return f"{folder}/stages/{_stage_marker(folder, name)['folder']}"


def stage_schema(folder: str, name: str) -> T.StructType | None:
    """Return the schema of a run's finished stage; None for one that an earlier release wrote."""
    schema = _stage_marker(folder, name).get("schema")
    return None if schema is None else T.StructType.fromJson(schema)


def _stage_marker(folder: str, name: str) -> dict[str, Any]:
    return dict(json.loads(files.read_bytes(f"{folder}/stages/{name}.json")))


def note(folder: str, **facts: Any) -> None:
    """Add facts to a run's manifest."""
    write(folder, {**read(folder), **facts})


def clean(root: str, keep: int) -> tuple[list[str], list[str]]:
    """Remove stages and checkpoints of all but the newest ``keep`` runs; return the ids of the cleaned runs.

    Manifests stay, so that a table's lineage can still be read. What increments.py has kept of an input goes, too,
    unless one of the newest ``keep`` runs of the kind has used it; the folders are the second thing returned.
    """
    runs = sorted(every(root), key=lambda run: str(run["created"]), reverse=True)
    cleaned = []
    for run in runs[keep:]:
        folder = folder_of(root, run["run_id"])
        parts = [part for part in ("stages", "checkpoints") if files.exists(f"{folder}/{part}")]
        for part in parts:
            files.delete(f"{folder}/{part}")
        if parts:
            cleaned.append(str(run["run_id"]))
            if run["status"] != "done":
                # Without its stages it would start over under an old name; its driver, if it still runs, stops.
                note(folder, status="cleaned", token=secrets.token_hex(8))
    return cleaned, _clean_kept(root, runs, keep)


def _clean_kept(root: str, runs: list[Manifest], keep: int) -> list[str]:
    """Remove the folders of kept inputs that none of a kind's newest runs has used; return their names."""
    kinds = {run["kind"] for run in runs}
    newest = {run["run_id"] for kind in kinds for run in [run for run in runs if run["kind"] == kind][:keep]}
    states = {f"{files.file_name(run_id)}.json" for run_id in newest}
    kept = [name for name in files.children(root) if name.startswith("kept-")]
    unused = [name for name in kept if not states & set(files.children(f"{root}/{name}"))]
    for name in unused:
        files.delete(f"{root}/{name}")
    return unused


def every(root: str) -> list[Manifest]:
    """Return the manifests of all runs below a folder."""
    manifests = []
    for name in files.children(root):
        if files.exists(f"{root}/{name}/{FILE}"):
            try:
                manifests.append(read(f"{root}/{name}"))
            except ValueError:
                log.warning("%s/%s: the manifest is damaged; the run is ignored", root, name)
    return manifests


def _identity(kind: str, config: Section, version: str) -> tuple[dict[str, Any], str]:
    """Return what two equal runs have in common, and its digest."""
    identity = {"kind": kind, "input": version, "config": configs.identity(config)}
    return identity, _digest(identity)


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _changes(manifest: Manifest, identity: dict[str, Any]) -> list[str]:
    """Return what differs between a run's kind and configuration and these."""
    # As JSON has it, which the manifest was.
    old, new = (data["config"] | {"kind": data["kind"]} for data in (manifest, json.loads(json.dumps(identity))))
    return [
        f"{key}: was {old.get(key)!r}, is {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)
    ]


def _new_id(kind: str) -> str:
    return f"{kind}-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def now() -> str:
    """Return the time in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def write(folder: str, manifest: Manifest) -> None:
    """Write a run's manifest, with the time."""
    files.write_bytes(f"{folder}/{FILE}", json.dumps({**manifest, "updated": now()}, indent=1).encode())
