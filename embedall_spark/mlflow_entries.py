"""What a run in MLflow is given: its configuration, its inputs, and the tries of its sweep as runs under it."""

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

_MOST = 10_000  # tries that are looked up


def log_params(client: Any, mlflow_run_id: str, config: Section) -> dict[str, str]:
    """Record a configuration; return what a resumed run has otherwise already, since parameters cannot change."""
    from mlflow.entities import Param
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    have = client.get_run(mlflow_run_id).data.params
    flat = {key(name): value[:MAX_PARAM_VAL_LENGTH] for name, value in _flat(config.model_dump(mode="json"))}
    params = [Param(name, value) for name, value in flat.items() if name not in have]
    for at in range(0, len(params), 100):  # more are refused at once
        client.log_batch(mlflow_run_id, params=params[at : at + 100])
    return {name: value for name, value in flat.items() if have.get(name, value) != value}


def log_trials(client: Any, mlflow_run_id: str, tried: Sequence[Trial]) -> None:
    """Record tries as ended runs under a run, by their names; those that are there already stay as they are."""
    from mlflow.entities import Metric, Param
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    experiment = client.get_run(mlflow_run_id).info.experiment_id
    parent = {MLFLOW_PARENT_RUN_ID: mlflow_run_id}
    wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{mlflow_run_id}'"
    there = {run.info.run_name: run.info for run in client.search_runs([experiment], wanted, max_results=_MOST)}
    for one in tried:
        found = there.get(one.name)
        if found is not None and found.status == "FINISHED":
            continue
        # One that was begun when the store went away is not made a second time.
        info = found or client.create_run(experiment, tags=parent, run_name=one.name).info
        now = int(time.time() * 1000)
        client.log_batch(
            info.run_id,
            params=[Param(key(name), str(value)) for name, value in one.options.items()],
            metrics=[Metric(key(name), float(value), now, 0) for name, value in one.figures.items()],
        )
        client.set_terminated(info.run_id, "FINISHED")


def dataset(name: str, version: str) -> Any:
    """Return what MLflow takes for an input: a table or folder, and which version of it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    # MLflow takes 36 characters.
    digest = version if 0 < len(version) <= 36 else hashlib.sha256(version.encode()).hexdigest()[:36]
    found = Dataset(name[-500:], digest, "local", json.dumps({"path": name, "version": version}))
    return DatasetInput(found, [InputTag("mlflow.data.context", "training")])


def key(name: str) -> str:
    """Return a name that MLflow takes: without odd characters, and a plain path where it holds slashes."""
    return posixpath.normpath(re.sub(r"[^\w\-. /]", "_", name).strip("/. "))[:250]


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
