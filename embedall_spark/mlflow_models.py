"""Models in MLflow: one that a run has fitted, logged from its code and arrays without pickle, and its versions."""

from __future__ import annotations

import hashlib
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedall_spark.run_context import ServableModel

FOLDER = "model"
_DIGEST = "embedall.digest"


def log(client: Any, mlflow_run_id: str, model: ServableModel) -> str:
    """Record a model under a run and return its address, ``models:/m-...``.

    A resumed run that has made the same model again gets the one that is there.
    """
    from mlflow.entities import LoggedModelOutput

    experiment = client.get_run(mlflow_run_id).info.experiment_id
    digest = hashlib.sha256(Path(model.script).read_bytes() + model.arrays).hexdigest()
    wanted = f"source_run_id = '{mlflow_run_id}'"
    there = [one for one in client.search_logged_models([experiment], wanted) if one.tags.get(_DIGEST) == digest]
    found = there[0] if there else client.create_logged_model(experiment, FOLDER, mlflow_run_id, {_DIGEST: digest})
    uri = f"models:/{found.model_id}"
    # One that was begun when the store went away is not ready.
    if found.status != "READY":
        with tempfile.TemporaryDirectory(prefix="embedall-") as folder:
            _save(Path(folder), mlflow_run_id, found.model_id, model)
            client.log_model_artifacts(found.model_id, f"{folder}/{FOLDER}")
        client.log_outputs(mlflow_run_id, [LoggedModelOutput(found.model_id, 0)])
        client.finalize_logged_model(found.model_id, "READY")
    return uri


def register(client: Any, mlflow_run_id: str, name: str, uri: str) -> str:
    """Make a recorded model a version of a registered model, unless it is one; return ``models:/NAME/VERSION``."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model_id = uri.removeprefix("models:/")
    # A server knows its own models by their address; a database or a folder asks the process's default store for them.
    remote = client.tracking_uri.startswith(("http", "databricks"))
    source = uri if remote else client.get_logged_model(model_id).artifact_location
    for known in client.search_model_versions(f"name = '{name}'"):
        if known.source == source:
            return f"models:/{name}/{known.version}"
    made = client.create_model_version(name, source, run_id=mlflow_run_id, model_id=model_id)
    return f"models:/{name}/{made.version}"


def _save(folder: Path, mlflow_run_id: str, model_id: str, model: ServableModel) -> None:
    """Write MLflow's files of a model into a new subfolder: a copy of its code and its arrays."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model

    arrays = folder / "model.npz"
    arrays.write_bytes(model.arrays)
    pyfunc.save_model(
        folder / FOLDER,
        mlflow_model=Model(run_id=mlflow_run_id, model_id=model_id),
        python_model=model.script,
        artifacts={"arrays": str(arrays)},
        signature=_signature(model),
        input_example=pd.DataFrame(model.example),
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in model.requirements],
    )


def _signature(model: ServableModel) -> Any:
    """Return what goes in, of which every column may be left out, and what comes out."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    columns: list[ColSpec | TensorSpec] = [
        ColSpec(_type(values), name, required=False) for name, values in model.example.items()
    ]
    return ModelSignature(Schema(columns), Schema([TensorSpec(np.dtype(np.float32), (-1, model.width))]))


def _type(values: Any) -> Any:
    from mlflow.types import DataType
    from mlflow.types.schema import Array, Map

    value = next(value for value in values if value is not None)
    if isinstance(value, str):
        return DataType.string
    numbers = Array(DataType.double)
    return Map(numbers) if isinstance(value, dict) else numbers
