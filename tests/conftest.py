"""One Spark session per test process, small and local, with Delta; what tests share."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from suite import pytest_collection_modifyitems, pytest_terminal_summary, pytest_xdist_make_scheduler  # noqa: F401

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes share the cores already: threads of BLAS, torch and faiss would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# For JVMs that live for seconds: the second compiler costs more than it brings.
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=240m"
SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def shared(*parts: str) -> Path:
    """Return a path of the shared data, or skip the test where it is absent."""
    path = SHARED.joinpath("data", *parts)
    if not path.exists():
        pytest.skip(f"needs the shared data: {path.name}")
    return path


@contextmanager
def setting(spark, key, value):
    """Change one of Spark's settings for a while.

    To unset it afterwards would bring Spark's own default, not the session's: 200 partitions in every later shuffle.
    """
    before = spark.conf.get(key)
    spark.conf.set(key, value)
    try:
        yield
    finally:
        spark.conf.set(key, before)


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    from embedall_spark import session

    folder = tmp_path_factory.mktemp("spark")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    found = session.get(
        "tests",
        master="local[2]",
        extra={
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            "spark.local.dir": str(folder / "local"),
            "spark.driver.memory": "2g",
            "spark.driver.extraJavaOptions": QUICK_JAVA,
            "spark.sql.shuffle.partitions": "2",
        },
    )
    before = found.conf.getAll
    yield found
    changed = {key: value for key in before if (value := found.conf.get(key, None)) != before[key]}
    found.stop()
    assert not changed, f"settings that some test has changed for all later ones: {changed}"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An empty store of MLflow. To make one takes seconds: its tables go through all that they ever were."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments(max_results=1)
    return file


@pytest.fixture(scope="module")
def own_store(empty_store):
    """Runs are tracked beside their tables, whatever the environment says; a new store is a copy of an empty one."""
    from embedall_spark import tracking

    whole = tracking.store_uri

    def store_uri(folder):
        uri = whole(folder)
        file = Path(uri.removeprefix("sqlite:///"))
        if not file.exists():
            shutil.copyfile(empty_store, file)
        return uri

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(tracking, "store_uri", store_uri)
        yield
