"""One MLflow run per run, continued when the run is resumed. Only this file and the mlflow_ modules use MLflow.

The store is the one in MLFLOW_TRACKING_URI or Databricks' own; otherwise an SQLite file in the output folder. MLflow is
imported inside the functions, because importing it takes seconds.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from embedall_spark import cluster_slots, files, mlflow_entries, mlflow_models, mlflow_store
from embedall_spark.errors import SetupError
from embedall_spark.mlflow_store import short, without_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from embedall_spark.config import Section
    from embedall_spark.run_context import ServableModel, Trial

log = logging.getLogger(__name__)

_FLUSH_SECONDS, _RETRY_SECONDS = 2.0, 60.0
_MAX_PENDING = 10_000
_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}


class Tracked:
    """A run in MLflow; if the store stops answering, a warning is logged and the run continues."""

    def __init__(self, client: Any, store: str, mlflow_run_id: str) -> None:
        self._client = client
        self.id = mlflow_run_id
        self.store = store
        self.uri = f"runs:/{mlflow_run_id}"
        self._metrics: list[Any] = []
        self._calls: list[Callable[[], object]] = []
        self._next_flush = 0.0
        self._down = False
        self._version: tuple[str, str] | None = None

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a metric; it reaches the store within seconds."""
        from mlflow.entities import Metric

        if len(self._metrics) < _MAX_PENDING:
            self._metrics.append(Metric(mlflow_entries.key(name), float(value), int(time.time() * 1000), step or 0))
        self.flush()

    def artifact(self, name: str, content: bytes) -> None:
        """Record a file; its name may contain folders (``maps/words.png``)."""
        self._later(lambda: self._put(PurePosixPath(name), content))

    def tag(self, name: str, value: str) -> None:
        """Set a tag; a long value is cut."""
        self._later(lambda: self._client.set_tag(self.id, mlflow_entries.key(name), value[:5000]))

    def input(self, name: str, version: str) -> None:
        """Record an input of the run: a table or folder and its version."""
        self.tag(f"embedall.input.{name}", version)
        self._later(lambda: self._client.log_inputs(self.id, [mlflow_entries.dataset(name, version)]))

    def output(self, name: str, version: int) -> None:
        """Record the table that the run wrote, and its version."""
        self.tag("embedall.output.table", name)
        self.tag("embedall.output.version", str(version))

    def log_trials(self, trials: Sequence[Trial]) -> None:
        """Record the trials of a sweep as child runs."""
        self._later(lambda: mlflow_entries.log_trials(self._client, self.id, trials))

    def log_model(self, model: ServableModel) -> str | None:
        """Record a model and return its URI; None if the store does not answer."""
        uris: list[str] = []
        self._attempt(lambda: uris.append(mlflow_models.log(self._client, self.id, model)))
        if not uris:
            log.warning("MLflow (%s) could not record the model; its arrays are in the run's folder", self.store)
            return None
        self._version = (model.name, uris[0]) if model.name else None
        return uris[0]

    def register(self) -> dict[str, str]:
        """Register the recorded model as a new version; return the entry for the metadata of the table's commit."""
        versions: list[str] = []
        if self._version is not None:
            name, uri = self._version
            self._attempt(lambda: versions.append(mlflow_models.register(self._client, self.id, name, uri)))
            if not versions:
                log.warning("%s could not be registered as a version of %s; register it in MLflow", uri, name)
        return {"registered_model": versions[0]} if versions else {}

    def finish(self, status: str) -> None:
        """End the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._calls.append(lambda: self._client.set_terminated(self.id, status))
        self.flush(now=True)
        if left := len(self._metrics) + len(self._calls):
            log.warning("MLflow (%s) could not record %d entries; they are in the run's folder", self.store, left)

    def flush(self, *, now: bool = False) -> None:
        """Send pending entries, unless the last attempt, or the last failure of the store, is too recent."""
        if not now and time.monotonic() < self._next_flush:
            return
        self._next_flush = time.monotonic() + _FLUSH_SECONDS
        while self._metrics:
            batch = self._metrics[:1000]  # MLflow refuses larger batches
            if not self._attempt(lambda batch=batch: self._client.log_batch(self.id, metrics=batch)):  # type: ignore[misc]
                return
            del self._metrics[: len(batch)]
        while self._calls:
            if not self._attempt(self._calls[0]):
                return
            del self._calls[0]

    def _later(self, call: Callable[[], object]) -> None:
        if len(self._calls) < _MAX_PENDING:
            self._calls.append(call)
        self.flush(now=not self._down)

    def _attempt(self, call: Callable[[], object]) -> bool:
        """Return whether a call needs no retry: it succeeded, or MLflow refused it."""
        try:
            call()
        except Exception as error:
            if getattr(error, "error_code", None) in _REFUSED:
                log.warning("MLflow refused an entry: %s", short(error))
                return True
            if not self._down:
                log.warning(
                    "MLflow (%s) does not answer; the run goes on and retries: %s",
                    self.store,
                    short(error),
                )
            self._down = True
            self._next_flush = time.monotonic() + _RETRY_SECONDS
            return False
        if self._down:
            log.warning("MLflow (%s) answers again", self.store)
        self._down = False
        return True

    def _put(self, name: PurePosixPath, content: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="embedall-") as folder:
            path = Path(folder, name.name)
            path.write_bytes(content)
            self._client.log_artifact(self.id, str(path), str(name.parent).lstrip(".") or None)


def start(
    kind: str, run_id: str, config: Section, *, folder: str, experiment: str | None, mlflow_run_id: str | None
) -> Tracked:
    """Return the MLflow run of a run: a new one with the configuration as parameters, or an existing one, resumed.

    Args:
        kind: the kind that runs.
        run_id: our own name of the run.
        config: the configuration; becomes the parameters.
        folder: the output folder, which holds the default store.
        experiment: name of the experiment; None: ``embedall/KIND``.
        mlflow_run_id: id of the MLflow run to resume; None: create one.

    Raises:
        SetupError: the store cannot be reached or used.
    """
    uri = store_uri(folder)
    with _usable(uri):
        client, shown = _client(uri)
        tracked = _resume(client, mlflow_run_id, shown) if mlflow_run_id else None
        if tracked is None:
            experiment_id = _experiment(client, experiment or default_experiment(kind, shown), uri, folder)
            tags = {"embedall.run_id": run_id, "embedall.kind": kind, "mlflow.runName": run_id}
            tracked = Tracked(client, shown, client.create_run(experiment_id, tags=tags).info.run_id)
        for name, value in mlflow_entries.log_params(client, tracked.id, config).items():
            tracked.tag(f"resumed.{name}", value)
    return tracked


def amend(folder: str | None, mlflow_run_id: str, figures: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
    """Add metrics and files to a finished run; ``folder`` is the output folder, which holds the default store."""
    with _usable(uri := store_uri(folder or ".")):
        tracked = Tracked(*_client(uri), mlflow_run_id)
    for name, value in figures.items():
        tracked.metric(name, value)
    for name, content in pictures.items():
        tracked.artifact(name, content)
    tracked.flush(now=True)


def apply(folder: str, work: Callable[..., str], *arguments: Any) -> str:
    """Return work(client, *arguments), of mlflow_models; raise SetupError if the store cannot be reached or used."""
    with _usable(uri := store_uri(folder)):
        return work(_client(uri)[0], *arguments)


def check(folder: str) -> str:
    """Return the address of the store of a run with this output folder; raise SetupError if it does not answer."""
    uri = store_uri(folder)
    with _usable(uri):
        return _client(uri)[1]


def store_uri(folder: str) -> str | None:
    """Return the address of the store; None on Databricks, where MLflow chooses it.

    Raises:
        SetupError: the output folder is on remote storage, which cannot hold an SQLite file.
    """
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    if configured or cluster_slots.on_databricks():
        return configured or None
    if "://" in folder and not folder.startswith("file:"):
        raise SetupError(
            f"{folder}: an SQLite file needs a local folder; set MLFLOW_TRACKING_URI to a server or sqlite:////a/mlflow.db"
        )
    os.makedirs(path := files.resolve(folder)[1], exist_ok=True)
    return f"sqlite:///{path}/mlflow.db"


def store_file(folder: str) -> str | None:
    """Return the SQLite file that store_uri() would name, without creating its folder; None where it names none."""
    if "MLFLOW_TRACKING_URI" in os.environ or cluster_slots.on_databricks() or not files.is_local(folder):
        return None
    return f"{files.resolve(folder)[1]}/mlflow.db"


def default_experiment(kind: str, store: str) -> str:
    """Return the default name of a kind's experiment."""
    # On Databricks experiments are files of the workspace, with absolute paths.
    return f"/Shared/embedall-{kind}" if store.startswith("databricks") else f"embedall/{kind}"


def _client(uri: str | None) -> tuple[Any, str]:
    """Return a client whose store answers, and the store's address without a password."""
    # A store that does not answer must cost seconds, not minutes as with MLflow's own retries.
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    os.environ.update(patience | quiet | os.environ)
    import mlflow

    # They log fifty lines for a new SQLite file, and one for each retry.
    for name in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri is not None and not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow_store.prepare(uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client, without_password(uri or mlflow.get_tracking_uri())


def _resume(client: Any, mlflow_run_id: str, store: str) -> Tracked | None:
    """Return an existing run, set to running; None if the store does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(mlflow_run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        log.warning("MLflow (%s) has no run %s; a new run is created", store, mlflow_run_id)
        return None
    return Tracked(client, store, mlflow_run_id)


def _experiment(client: Any, name: str, uri: str | None, folder: str) -> str:
    """Return an experiment's id; create the experiment if it does not exist."""
    from mlflow.exceptions import MlflowException

    existing = client.get_experiment_by_name(name)
    if existing is None:
        local = uri is not None and not os.environ.get("MLFLOW_TRACKING_URI")
        artifacts = Path(files.resolve(folder)[1], "mlartifacts").as_uri() if local else None
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:
            # Another run may have created it in the meantime.
            existing = client.get_experiment_by_name(name)
            if existing is None:
                raise
    if existing.lifecycle_stage == "deleted":
        raise SetupError(f"the MLflow experiment {name} is deleted: restore it, or name another (output.experiment)")
    return str(existing.experiment_id)


@contextmanager
def _usable(uri: str | None) -> Iterator[None]:
    """Translate a failure of the store into SetupError."""
    try:
        yield
    except SetupError:
        raise
    except Exception as error:
        raise SetupError(
            f"the MLflow store {without_password(uri or 'of Databricks')} cannot be used: {short(error)}; start its "
            "server, correct MLFLOW_TRACKING_URI, or unset it to use an SQLite file in the output folder"
        ) from error
