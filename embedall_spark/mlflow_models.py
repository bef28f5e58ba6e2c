"""Models in MLflow: a fitted model, logged as code and arrays without pickle, and its registered versions."""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedall_spark import cluster_slots
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from embedall_spark.run_context import ServableModel

FOLDER = "model"
PUBLISHED = "published"
"""The alias of the model version that stands for the published version of a table."""
_DIGEST, _PUBLICATION = "embedall.digest", "embedall.publication"
_EXISTS = ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS")  # a workspace's or an open registry's answer, Unity Catalog's


def check_name(option: str, name: str | None) -> None:
    """Raise ConfigError, before long work, if Unity Catalog is the registry and takes no such name of a model."""
    if name is None or not in_unity_catalog():
        return
    parts = name.split(".")
    if len(parts) != 3 or not all(parts):
        raise ConfigError(
            f"{option}: found {name!r}; models in Unity Catalog are called catalog.schema.model: give all three parts, "
            "or set MLFLOW_REGISTRY_URI=databricks for the registry of the workspace"
        )


def in_unity_catalog() -> bool:
    """Return whether MLflow registers models in Unity Catalog, which it does for Databricks unless told otherwise."""
    registry = os.environ.get("MLFLOW_REGISTRY_URI")
    if registry:
        return registry.startswith("databricks-uc")
    return (os.environ.get("MLFLOW_TRACKING_URI") or "databricks" * cluster_slots.on_databricks()).startswith(
        "databricks"
    )


def log(client: Any, mlflow_run_id: str, model: ServableModel) -> str:
    """Record a model under a run and return its URI, ``models:/m-...``.

    If a resumed run has already recorded the same model, that one is returned.
    """
    from mlflow.entities import LoggedModelOutput

    experiment = client.get_run(mlflow_run_id).info.experiment_id
    digest = hashlib.sha256(Path(model.script).read_bytes() + model.arrays).hexdigest()
    wanted = f"source_run_id = '{mlflow_run_id}'"
    recorded = client.search_logged_models([experiment], wanted)
    entry = next((entry for entry in recorded if entry.tags.get(_DIGEST) == digest), None)
    entry = entry or client.create_logged_model(experiment, FOLDER, mlflow_run_id, {_DIGEST: digest})
    uri = f"models:/{entry.model_id}"
    # It is not ready if the store stopped answering while it was recorded.
    if entry.status != "READY":
        with tempfile.TemporaryDirectory(prefix="embedall-") as folder:
            _save(Path(folder), mlflow_run_id, entry.model_id, model)
            client.log_model_artifacts(entry.model_id, f"{folder}/{FOLDER}")
        client.log_outputs(mlflow_run_id, [LoggedModelOutput(entry.model_id, 0)])
        client.finalize_logged_model(entry.model_id, "READY")
    return uri


def register(client: Any, mlflow_run_id: str, name: str, uri: str) -> str:
    """Register a recorded model as a version, unless it is one already; return ``models:/NAME/VERSION``."""
    _create_registered_model(client, name)
    model_id = uri.removeprefix("models:/")
    source = _source(client, uri)
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.source == source:
            return f"models:/{name}/{version.version}"
    created = client.create_model_version(name, source, run_id=mlflow_run_id, model_id=model_id)
    return f"models:/{name}/{created.version}"


def _source(client: Any, uri: str) -> str:
    """Return where a version of a registered model is, for a recorded model."""
    # Only a server resolves the URIs of its own models; a database would ask the process's default store for them.
    remote = client.tracking_uri.startswith(("http", "databricks"))
    return uri if remote else str(client.get_logged_model(uri.removeprefix("models:/")).artifact_location)


def follow(
    client: Any, name: str, publication: str, table: str, version: int, mlflow_run_id: str | None, uri: str | None
) -> str:
    """Let the alias "published" of a registered model name the version that stands for a publication.

    Args:
        client: MLflow's.
        name: the registered model; it is made if it does not exist.
        publication: id of the publication, by which its version is found again.
        table: the published table.
        version: the table's version.
        mlflow_run_id: the run that made the vectors; its version names it.
        uri: of the recorded model that maps further things into their space; None: there is none.

    Returns: ``models:/NAME/VERSION``.
    """
    _create_registered_model(client, name)
    number = next(
        (entry.version for entry in client.search_model_versions(f"name = '{name}'")
         if entry.tags.get(_PUBLICATION) == publication),
        None,
    )  # fmt: skip
    if number is None:
        # A server accepts as a source what lies among the files of a run.
        source = table if mlflow_run_id is None else client.get_run(mlflow_run_id).info.artifact_uri
        source = source if uri is None else _source(client, uri)
        tags = {_PUBLICATION: publication, "embedall.table": table, "embedall.version": str(version)}
        model_id = None if uri is None else uri.removeprefix("models:/")
        number = client.create_model_version(name, source, mlflow_run_id, tags, model_id=model_id).version
    client.set_registered_model_alias(name, PUBLISHED, str(number))
    return f"models:/{name}/{number}"


def _create_registered_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in _EXISTS:
            raise


def _save(folder: Path, mlflow_run_id: str, model_id: str, model: ServableModel) -> None:
    """Write a model in MLflow's format, with copies of its code and arrays, into a new subfolder."""
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
    """Return the types of the input columns, all of them optional, and of the output."""
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
