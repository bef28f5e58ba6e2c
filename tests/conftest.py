"""One Spark session per process, small and local, with Delta; what tests share.

A file runs in one process, so what its tests share is made once: by a fixture of scope ``module``. What exists:

- ``spark``: the session; a test that uses it is left out of ``make test-fast``.
- ``own_store``: MLflow's store lies beside each table, as for a user, whatever the environment says.
- A finished run of each kind, with all that it left. Tests that read one stand in its file, whatever command they call:
  ``done`` in test_words_, test_sequences_, test_nodes_ and test_latent_end_to_end.py, ``made`` in
  test_images_end_to_end.py; ``again`` in test_latent_end_to_end.py is an embedding whose stages can be gone on from;
  ``submitted`` in test_standalone.py is what a cluster has run; ``ran`` in test_docs_commands.py is every example of
  the documents; ``short`` in train/test_trainer.py is a small model with its checkpoints.
- Where a table of a few rows is enough, make it: ``vector_tables.table``. ``fake_run.FakeRun`` runs a kind or a stage
  without the command, ``s3_server.serving`` is a bucket, ``jars`` starts commands whose Spark needs further jars,
  ``cli_runner.embedall`` a command in this process, ``toy_corpus`` writes texts with known topics, ``tiny_inputs``
  a few rows for each kind.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
from suite import (  # noqa: F401
    pytest_collection_modifyitems,
    pytest_terminal_summary,
    pytest_xdist_auto_num_workers,
    pytest_xdist_make_scheduler,
)

# Kernels for GPUs run in Triton's interpreter, here and in the tasks of Spark; Triton reads it when it is imported.
os.environ["TRITON_INTERPRET"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes share the cores already: threads of BLAS, torch and faiss would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# For JVMs that live for seconds: the second compiler costs more than it brings.
# Classes of Spark fill 200 MB: by default each doubling on the way there is a full collection.
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=240m -XX:MetaspaceSize=256m"
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
def jvm_folder(tmp_path_factory):
    """The folder in which the JVM runs: what relative paths begin at, for a test that runs there too."""
    return tmp_path_factory.mktemp("jvm")


@pytest.fixture(scope="session")
def spark(tmp_path_factory, jvm_folder, unsafe_stores):
    from embedall_spark import session

    folder = tmp_path_factory.mktemp("spark")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    with chdir(jvm_folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        spark_session = session.get(
            "tests",
            master="local[2]",
            extra={
                "spark.sql.warehouse.dir": str(folder / "warehouse"),
                "spark.local.dir": str(folder / "local"),
                "spark.driver.memory": "2g",
                "spark.driver.extraJavaOptions": f"{QUICK_JAVA} -Xms1g",
                "spark.sql.shuffle.partitions": "2",
                "spark.python.daemon.module": "torch_daemon",
                # For a few rows: to compile each plan, or to run it in steps, takes longer than to run it. Tests of a
                # killed run and of a cluster start sessions with the settings of users.
                "spark.sql.codegen.wholeStage": "false",
                "spark.sql.codegen.factoryMode": "NO_CODEGEN",
                "spark.sql.adaptive.enabled": "false",
            },
        )
    before = spark_session.conf.getAll
    yield spark_session
    changed = {key: value for key in before if (value := spark_session.conf.get(key, None)) != before[key]}
    spark_session.stop()
    assert not changed, f"settings that some test has changed for all later ones: {changed}"


@pytest.fixture(scope="session", autouse=True)
def own_copies(tmp_path_factory):
    """Copies of tables lie in a folder of the tests, not in the user's cache."""
    from embedall_spark import table_cache

    folder = tmp_path_factory.mktemp("copies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_cache, "_root", lambda: folder)
        yield folder


@pytest.fixture(scope="session")
def unsafe_stores():
    """Commits of SQLite stores do not wait for the disk: no test cuts the power."""
    from sqlalchemy import Engine, event

    def connected(connection, _):
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


@pytest.fixture(scope="module")
def own_store():
    """Runs are tracked beside their tables, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield
