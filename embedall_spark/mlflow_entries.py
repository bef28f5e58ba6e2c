"""Entries of an MLflow run: its parameters, its inputs, and the trials of its sweep as child runs."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedall_spark.config import Section
    from embedall_spark.run_context import Trial

_MAX_TRIALS = 10_000  # existing trials that are looked up


def log_params(client: Any, mlflow_run_id: str, config: Section) -> dict[str, str]:
    """Record the configuration as parameters; return those that a resumed run has recorded with another value."""
    from mlflow.entities import Param
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    recorded = client.get_run(mlflow_run_id).data.params
    flat = {key(name): value[:MAX_PARAM_VAL_LENGTH] for name, value in _flat(config.model_dump(mode="json"))}
    params = [Param(name, value) for name, value in flat.items() if name not in recorded]
    for start in range(0, len(params), 100):  # MLflow refuses larger batches
        client.log_batch(mlflow_run_id, params=params[start : start + 100])
    return {name: value for name, value in flat.items() if recorded.get(name, value) != value}


def log_trials(client: Any, mlflow_run_id: str, trials: Sequence[Trial]) -> None:
    """Record trials as finished child runs of a run, by their names; recorded ones are left unchanged."""
    from mlflow.entities import Metric, Param
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    experiment = client.get_run(mlflow_run_id).info.experiment_id
    parent = {MLFLOW_PARENT_RUN_ID: mlflow_run_id}
    wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{mlflow_run_id}'"
    recorded = {
        run.info.run_name: run.info for run in client.search_runs([experiment], wanted, max_results=_MAX_TRIALS)
    }
    for trial in trials:
        existing = recorded.get(trial.name)
        if existing is not None and existing.status == "FINISHED":
            continue
        # A trial that was begun when the store stopped answering is completed, not repeated.
        info = existing or client.create_run(experiment, tags=parent, run_name=trial.name).info
        now = int(time.time() * 1000)
        client.log_batch(
            info.run_id,
            params=[Param(key(name), str(value)) for name, value in trial.options.items()],
            metrics=[Metric(key(name), float(value), now, 0) for name, value in trial.figures.items()],
        )
        client.set_terminated(info.run_id, "FINISHED")


def dataset(name: str, version: str) -> Any:
    """Return MLflow's entry for an input: a table or folder and its version."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # MLflow allows 36 characters.
    digest = version if 0 < len(version) <= 36 else hashlib.sha256(version.encode()).hexdigest()[:36]
    data = Dataset(name[-500:], digest, "local", json.dumps({"path": name, "version": version}))
    return DatasetInput(data, [InputTag("mlflow.data.context", "training")])


def key(name: str) -> str:
    """Return a name that MLflow accepts: forbidden characters replaced, a name with slashes as a normal path."""
    return posixpath.normpath(re.sub(r"[^\w\-. /]", "_", name).strip("/. "))[:250]


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
