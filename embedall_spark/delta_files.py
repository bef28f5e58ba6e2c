"""Delta tables in this machine's file tree, read without Spark by delta-rs; the only place that uses it."""

from __future__ import annotations

import datetime
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.fs as pafs

from embedall_spark import files
from embedall_spark.errors import NeedsSpark

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from deltalake import DeltaTable

_VECTOR_SIZE = "embedall.vector_size"


class DeltaFiles(NamedTuple):
    """One version of a Delta table."""

    path: str
    table: DeltaTable

    @property
    def version(self) -> str:
        """The table's id and version, as input_version.DeltaTable.version() returns them."""
        return f"{self.table.metadata().id}@{self.table.version()}"

    def vector_bytes(self) -> int:
        """Return how many bytes the vectors take, or, where the log does not say it, the table's files."""
        import pyarrow as pa

        actions = pa.table(self.table.get_add_actions(flatten=True))
        size = self.table.metadata().configuration.get(_VECTOR_SIZE)
        rows = actions["num_records"].to_pylist() if "num_records" in actions.column_names else [None]
        if size is None or None in rows:
            return sum(actions["size_bytes"].to_pylist())
        return 4 * int(size) * sum(rows)

    def commits(self) -> list[dict[str, Any]]:
        """Return ``version`` and the metadata of the commits by runs of ours, the latest first."""
        commits = []
        for commit in self.table.history():
            text = commit.get("userMetadata")
            metadata = json.loads(text) if text and text.startswith("{") else {}
            if metadata.get("run_id") is not None:
                commits.append({**metadata, "version": int(commit["version"])})
        return sorted(commits, key=lambda commit: -int(commit["version"]))

    def history(self) -> list[dict[str, Any]]:
        """Return every commit as tables.history() has it: version, timestamp, operation, metadata (JSON), rows."""
        commits = []
        for commit in self.table.history():
            rows = commit.get("operationMetrics", {}).get("numOutputRows")
            commits.append({
                "version": int(commit["version"]), "timestamp": self._time(commit), "operation": commit["operation"],
                "metadata": commit.get("userMetadata"), "rows": None if rows is None else int(rows),
            })  # fmt: skip
        return sorted(commits, key=lambda commit: -int(commit["version"]))

    def _time(self, commit: dict[str, Any]) -> datetime.datetime:
        """Return when a commit was made: as Spark says, by its file if the log itself does not tell."""
        try:
            milliseconds = os.stat(f"{self.path}/_delta_log/{commit['version']:020}.json").st_mtime_ns // 1_000_000
        except OSError:
            milliseconds = commit["timestamp"]
        return datetime.datetime.fromtimestamp(commit.get("inCommitTimestamp", milliseconds) / 1000)

    def written_rows(self, version: int) -> int | None:
        """Return how many rows the commit of a version wrote; None where Delta does not say it."""
        metrics = (commit.get("operationMetrics") for commit in self.table.history() if commit["version"] == version)
        rows = (next(metrics, None) or {}).get("numOutputRows")
        return None if rows is None else int(rows)

    def dataset(self) -> pads.Dataset:
        """Return the rows.

        Raises:
            NeedsSpark: the table uses a feature of Delta that delta-rs cannot read.
        """
        from deltalake.exceptions import DeltaError

        # Arrow's own reader of local files: that of delta-rs calls Python for each read.
        below = pafs.SubTreeFileSystem(self.path, pafs.LocalFileSystem())
        try:
            return self.table.to_pyarrow_dataset(filesystem=below)
        except DeltaError as error:
            raise NeedsSpark(f"delta-rs cannot read this table ({str(error).splitlines()[0]})") from None


def exists(name: str) -> bool:
    """Return whether a folder of this machine holds a Delta table.

    Raises:
        NeedsSpark: the name is that of a table in a catalog, or the storage is remote.
    """
    return os.path.isdir(os.path.join(_local(name), "_delta_log"))


def open_version(name: str, version: int | None = None) -> DeltaFiles:
    """Return a version of a table, the latest unless one is given.

    Raises:
        NeedsSpark: the table is named in a catalog, its storage is remote, it does not exist, or it uses a feature of
            Delta that delta-rs cannot read.
    """
    path = _local(name)
    if not exists(name):
        raise NeedsSpark("the folder holds no Delta table")
    # Imported here: most commands never need it.
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(path, version=version)
    except (DeltaError, OSError) as error:
        raise NeedsSpark(f"delta-rs cannot open it ({str(error).splitlines()[0]})") from None
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise NeedsSpark("its columns are mapped to other names in its files, which only Spark reads")
    return DeltaFiles(path, table)


def latest(name: str) -> DeltaFiles | None:
    """Return a table's latest version; None where only Spark can read it, which takes two jobs to read a log."""
    try:
        return open_version(name)
    except NeedsSpark:
        return None


def _local(name: str) -> str:
    if not files.is_path(name):
        raise NeedsSpark("it is named in a catalog")
    if not files.is_local(name):
        raise NeedsSpark("its storage is not in this machine's file tree")
    return files.resolve(name)[1]
