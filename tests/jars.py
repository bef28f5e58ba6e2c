"""Processes whose Spark needs jars of Maven Central, which are resolved once and kept by Ivy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest
from conftest import QUICK_JAVA

from embedall_spark import mlflow_store, session

TESTS = Path(__file__).parent
SPARK = Path(pyspark.__file__).parent
HADOOP = re.search(r"hadoop-client-api-([\d.]+)\.jar", " ".join(os.listdir(SPARK / "jars")))[1]
_UNRESOLVED = re.compile(r"(?i)unresolved dependenc|UNRESOLVED DEPENDENCIES|Server access error|not found: .*maven")


def properties(file: Path, packages: list[str], options: dict[str, str], excluded: str = "") -> str:
    """Write the properties of a local session with further packages and options of Hadoop; return the file."""
    settings = session.read_properties(session.conf_file("spark-local.conf"))
    settings["spark.master"] = "local[2]"
    settings["spark.driver.memory"] = "1g"
    settings["spark.sql.shuffle.partitions"] = "2"
    # For a few rows: to compile each plan, or to run it in steps, takes longer than to run it.
    settings |= {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
    settings["spark.sql.adaptive.enabled"] = "false"
    settings["spark.jars.packages"] = ",".join([settings["spark.jars.packages"], *packages])
    settings |= {"spark.jars.excludes": excluded} if excluded else {}
    settings |= {f"spark.hadoop.{name}": value for name, value in options.items()}
    file.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    return str(file)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process that knows of storage only what Spark is told."""
    foreign = ("AWS_", "AZURE_", "GOOGLE_", "HADOOP_", "SPARK_", "PYSPARK_", "MLFLOW_")
    store = f"sqlite:///{folder}/mlflow.db"
    mlflow_store.prepare(store)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "JAVA_TOOL_OPTIONS": QUICK_JAVA,
        # A commit waits for no disk; nobody asks a cloud for credentials.
        "MLFLOW_TRACKING_URI": store,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SPARK_LOCAL_DIRS": str(folder),
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def start(commands: list[list], folder: Path, log: Path) -> subprocess.Popen:
    """Start a process that executes commands over one session."""
    arguments = json.dumps([[str(part) for part in command] for command in commands])
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, TESTS / "storage_job.py", arguments],
            env=environment(folder), cwd=folder, stdout=output, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def results(process: subprocess.Popen, log: Path, seconds: float = 600) -> list[dict]:
    """Wait for a process and return what its commands said; skip the test where the jars cannot be had."""
    try:
        process.wait(seconds)
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    if _UNRESOLVED.search(text):
        pytest.skip("the jars cannot be resolved from Maven Central")
    assert process.returncode == 0, text[-5000:]
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"')]
