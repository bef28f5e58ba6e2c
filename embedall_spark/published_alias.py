"""The alias in MLflow that follows what is published."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from embedall_spark import run_manifest
from embedall_spark.errors import SetupError
from embedall_spark.table_versions import versions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


def follow(spark: SparkSession, published: str, name: str | None = None) -> None:
    """Move the alias in MLflow to what is published now; if MLflow does not answer, the next call does it.

    Args:
        spark: the session.
        published: the table that others read.
        name: the registered model; None: the one that a publication has named last, if any did.
    """
    commits = [commit for commit in versions(spark, published) if "candidate" in commit]
    commit = commits[0] if commits else {}
    name = name or next((commit["registered_model"] for commit in commits if "registered_model" in commit), None)
    if name is None or "run_folder" not in commit:
        return
    # Imported here: only this needs MLflow.
    from embedall_spark import tracking
    from embedall_spark.mlflow_models import follow as move_alias

    folder = run_manifest.store_folder(commit["candidate"], commit)
    try:
        model = tracking.apply(
            folder, move_alias, name, commit["run_id"], published, commit["version"],
            commit.get("mlflow_run_id"), commit.get("model_uri"),
        )  # fmt: skip
        log.info("%s: is the alias published", model)
    except SetupError as error:
        log.warning("the alias of %s lags behind; the next publication moves it: %s", name, error)
