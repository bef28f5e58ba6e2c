"""What was read of an input is kept beside the runs, so that the next run reads only what is new.

Of files those whose size and time are the same are reused; of a Delta table the rows that its change data feed does
not name. The result is what reading everything would give, up to the order of rows.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import committed_files, files
from embedall_spark.sources import expressions, input_files, text_streams
from embedall_spark.sources.input_version import DeltaTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyspark.sql import SparkSession

    from embedall_spark.run_context import Run
    from embedall_spark.sources.input_files import InputFile

    Stamp = list[int]
    """Size and time of a file."""
    State = dict[str, Any]

log = logging.getLogger(__name__)

# Files that one glob names, and globs that are read beside each other; of more new files everything is read again.
_GLOB_FILES, _GLOBS = 500, 20
# Folders of rows; more are written again as one.
_MAX_PARTS = 32
_KEPT_STATES = 2


class Stage(NamedTuple):
    """What a kind keeps of its input."""

    key: Any
    """What the kept rows depend on beside the input: options, as JSON can hold them."""
    read: Callable[[Any], Any]
    """Returns the rows of an input (the kind's configuration of it), with a column ``origin``; of format delta, a
    DataFrame."""
    make: Callable[[Any], DataFrame] = lambda rows: rows
    """Returns from them what is kept, with the same column."""
    subtract: Callable[[DataFrame, DataFrame], DataFrame] = DataFrame.exceptAll
    """Returns kept rows without those of some rows that were read before, and have been deleted from a Delta table."""
    total: Callable[[DataFrame], DataFrame] | None = None
    """Returns counts (token, count) of kept rows."""
    id_column: str | None = None
    """Of a Delta table: the column by which ``subtract`` tells rows apart; None: equal rows stand for each other."""
    size: Callable[[DataFrame], int] | None = None
    """With ``id_column``: returns of how many rows of the table kept rows are made."""


class Kept(NamedTuple):
    """What was kept, and what is new."""

    rows: DataFrame
    counts: DataFrame | None


def keep(run: Run, config: Any, stage: Stage) -> Kept:
    """Return the rows of an input, of which only what is new since the last run is read, and their counts.

    What was read is in a folder beside the run's, by input and key; a run that is resumed reads its own state of it.
    """
    key = json.dumps([config.model_dump(mode="json", exclude={"incremental", "deleted"}), stage.key], sort_keys=True)
    root = f"{run.folder.rpartition('/')[0]}/kept-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    states = _states(root)
    state = next((state for state in states if state["run"] == run.id), None)
    if state is None:
        update = _Update(run, config, stage, root, states[-1] if states else None)
        state = update.of_table() if config.format == "delta" else update.of_files()
        run.check_ownership()
        state = {**state, "run": run.id, "time": time.time()}
        files.write_bytes(f"{root}/{files.file_name(run.id)}.json", json.dumps(state).encode())
        _prune(root, [*states, state], run.id)
    run.facts["reused"] = state["reused"]
    counts = None if state["counts"] is None else _load(run.spark, root, [state["counts"]])
    return Kept(_load(run.spark, root, state["parts"]), counts)


class _Update:
    """The step from one state of what is kept to the next."""

    def __init__(self, run: Run, config: Any, stage: Stage, root: str, old: State | None) -> None:
        self.run, self.config, self.stage, self.root, self.old = run, config, stage, root, old
        # A superseded driver may still be writing under the same run's name.
        self.name = f"{files.file_name(run.id)}-{secrets.token_hex(3)}"

    def of_files(self) -> State:
        """Return the state after new and changed files have been read, and vanished ones dropped."""
        listed = self._listed()
        stamps = {origin: _stamp(file) for origin, file in listed.items()}
        before = self.old["files"] if self.old is not None else {}
        new = [
            listed[origin] for origin, stamp in stamps.items() if before.get(origin) != stamp and listed[origin].size
        ]
        gone = [origin for origin, stamp in before.items() if stamps.get(origin) != stamp]
        facts = {"files": len(listed), "files_reused": len(listed) - len(new), "files_vanished": len(gone)}
        if self.old is None or facts["files_reused"] == 0 or len(new) > _GLOB_FILES * _GLOBS:
            log.info("input: all %d files are read; the next run reads only new ones", len(listed))
            self.old = None
            written = self._write([self.config], None)
            return {"files": self._certain(stamps), "reused": {**facts, "files_reused": 0}, **written}
        log.info("input: %d of %d files are as in the last run and are reused; %d are read; %d changed or are gone",
                 facts["files_reused"], len(listed), len(new), len(gone))  # fmt: skip
        inputs = [
            self.config.model_copy(update={"path": glob([file.path for file in new[start : start + _GLOB_FILES]])})
            for start in range(0, len(new), _GLOB_FILES)
        ]

        def without(rows: DataFrame) -> DataFrame:
            vanished = self.run.spark.createDataFrame([(origin,) for origin in gone], "origin string")
            return rows.join(vanished, "origin", "left_anti")

        written = self._write(inputs, without if gone else None)
        return {"files": self._certain(stamps), "reused": facts, **written}

    def _listed(self) -> dict[str, InputFile]:
        return {text_streams.origin(file.path): file for file in input_files.list_files(self.config.path)}

    def _certain(self, stamps: dict[str, Stamp]) -> dict[str, Stamp | None]:
        """Return sizes and times without those of files that came or changed while others were read.

        The next run drops what was read of them, if anything was, and reads them again.
        """
        after = {origin: _stamp(file) for origin, file in self._listed().items()}
        return {**stamps, **{origin: None for origin, stamp in after.items() if stamps.get(origin) != stamp}}

    def of_table(self) -> State:
        """Return the state after the changes of a Delta table have been read, or all of it."""
        table, version = DeltaTable(self.config.path).version(self.run.spark).rsplit("@", 1)
        state = {"table": table, "version": int(version)}
        old = self.old if self.old is not None and self.old["table"] == table else None
        if old is not None:
            try:
                return {**state, **self._changes(old["version"], int(version))}
            except _NoFeed as error:
                log.warning("%s: everything is read again: %s", self.config.path, error)
        self.old = None
        log.info("input: all of version %s is read; the next run reads only its changes", version)
        rows = self._as_of(int(version))
        return {**state, "reused": {"since_version": None}, **self._write([self._view(rows)], None)}

    def _changes(self, before: int, after: int) -> State:
        """Return what is to be known of the state after the changes between two versions."""
        reused: dict[str, int] = {"since_version": before}
        if before == after:
            return {"reused": reused, **self._write([], None)}
        identity, stage, spark = self.stage.id_column, self.stage, self.run.spark
        feed = {"readChangeFeed": "true", "startingVersion": str(before + 1), "endingVersion": str(after)}
        try:
            changes = spark.read.options(**feed).table(DeltaTable(self.config.path).identifier)
            amount = changes.count()
        except Exception as error:
            raise _NoFeed(
                f"its changes from version {before + 1} on cannot be read ({str(error).splitlines()[0]}); a table has "
                "them after ALTER TABLE ... SET TBLPROPERTIES (delta.enableChangeDataFeed = true)"
            ) from None
        log.info("input: %d changes since version %d are read; all other rows are reused", amount, before)
        is_new = ~F.col("_change_type").isin("delete", "update_preimage")
        added, removed = changes.where(is_new), changes.where(~is_new)
        if identity is not None:
            # The last change of an id counts; in one commit, what came in wins over what went out.
            last = F.max(F.struct("_commit_version", is_new.alias("is_new"))).alias("_last")
            joined = changes.join(changes.groupBy(expressions.column(identity)).agg(last), identity)
            is_last = (F.col("_commit_version") == F.col("_last._commit_version")) & F.col("_last.is_new")
            added = joined.where(is_last & is_new)
        gone = None if removed.isEmpty() else self._read(self._view(removed))
        state = self._write(
            [] if added.isEmpty() else [self._view(added)],
            None if gone is None else lambda rows: stage.subtract(rows, gone),
        )
        if stage.size is not None:
            kept, rows = stage.size(_load(spark, self.root, state["parts"])), self._as_of(after).count()
            if kept != rows:
                raise _NoFeed(
                    f"with the changes there would be {kept:,} documents, but it has {rows:,} rows; are its ids unique "
                    f"(input.id_column={identity})?"
                )
        return {"reused": {**reused, "changes": amount}, **state}

    def _as_of(self, version: int) -> DataFrame:
        reader = self.run.spark.read.option("versionAsOf", version)
        return reader.table(DeltaTable(self.config.path).identifier)

    def _read(self, config: Any) -> Any:
        """Return the rows of an input; those of a view say that they come from its table."""
        rows = self.stage.read(config)
        return rows.withColumn("origin", F.lit(self.config.path)) if self.config.format == "delta" else rows

    def _write(self, inputs: list[Any], without: Callable[[DataFrame], DataFrame] | None) -> State:
        """Write the rows of new inputs, and the old ones again where some are dropped; return parts and counts."""
        spark, old = self.run.spark, self.old
        parts: list[str] = list(old["parts"]) if old is not None else []
        counts = old["counts"] if old is not None else None
        if old is not None and (without is not None or len(parts) >= _MAX_PARTS):
            rows = _load(spark, self.root, parts)
            parts = [self._store("kept", rows if without is None else without(rows))]
        if inputs:
            made = [self.stage.make(self._read(config)) for config in inputs]
            new = self._store("rows", functools.reduce(DataFrame.unionByName, made))
            parts.append(new)
            if self.stage.total is not None and counts is not None and without is None:
                added = self.stage.total(_load(spark, self.root, [new]))
                both = _load(spark, self.root, [counts]).unionByName(added)
                counts = self._store("counts", both.groupBy("token").agg(F.sum("count").alias("count")))
        if self.stage.total is not None and (old is None or without is not None):
            counts = self._store("counts", self.stage.total(_load(spark, self.root, parts)))
        return {"parts": parts, "counts": counts}

    def _store(self, what: str, rows: DataFrame) -> str:
        part = f"{self.name}/{what}"
        committed_files.write(rows, f"{self.root}/{part}")
        return part

    def _view(self, rows: DataFrame) -> Any:
        """Return rows of the table as an input that the kind's source can read."""
        name = f"embedall_input_{secrets.token_hex(6)}"
        rows.createOrReplaceTempView(name)
        return self.config.model_copy(update={"path": name})


def _stamp(file: InputFile) -> Stamp:
    return [file.size, file.modified]


class _NoFeed(Exception):
    """Changes of a table are not to be had; the text says why."""


def glob(paths: list[str]) -> str:
    """Return the glob that names some files, which lie on one storage."""
    if len(paths) == 1 and files.is_local(paths[0]):
        return paths[0]
    # Not commonpath(), which would make one slash of the two in a URI.
    folder = os.path.commonprefix(paths).rpartition("/")[0]  # noqa: RUF071
    names = [_quoted(path.removeprefix(f"{folder}/")) for path in paths]
    return f"{_quoted(folder)}/{{{','.join(names)}}}"


def _quoted(path: str) -> str:
    return re.sub(r"([\[\]{}*?,\\])", r"\\\1", path)


def _load(spark: SparkSession, root: str, parts: Iterable[str]) -> DataFrame:
    return committed_files.read(spark.read, [f"{root}/{part}" for part in parts])


def _states(root: str) -> list[State]:
    """Return the states in a folder, the newest one last."""
    states = [json.loads(files.read_bytes(f"{root}/{name}")) for name in files.children(root) if name.endswith(".json")]
    return sorted(states, key=lambda state: float(state["time"]))


def _prune(root: str, states: list[State], run_id: str) -> None:
    """Remove all but the newest states, the rows that only those have, and what killed attempts of this run left."""
    needed = {folder for state in states[-_KEPT_STATES:] for folder in _folders(state)}
    old = {folder for state in states[:-_KEPT_STATES] for folder in _folders(state)}
    old |= {name for name in files.children(root) if name.startswith(f"{files.file_name(run_id)}-")}
    for state in states[:-_KEPT_STATES]:
        files.delete(f"{root}/{files.file_name(state['run'])}.json")
    for name in old - needed:
        files.delete(f"{root}/{name}")


def _folders(state: State) -> set[str]:
    return {part.partition("/")[0] for part in [*state["parts"], state["counts"]] if part is not None}
