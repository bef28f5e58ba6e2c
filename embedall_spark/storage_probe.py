"""Whether the driver, Spark and a task on each host can use the folder of the runs: tried before a run begins."""

from __future__ import annotations

import re
import secrets
from functools import partial
from typing import TYPE_CHECKING

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException

from embedall_spark import cluster_slots, credentials, files
from embedall_spark import config as configs
from embedall_spark.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from embedall_spark.config import Section

_SCHEMES = {
    "s3a": (
        "org.apache.hadoop:hadoop-aws:VERSION",
        "spark.hadoop.fs.s3a.*, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    "abfs": (
        "org.apache.hadoop:hadoop-azure:VERSION",
        "spark.hadoop.fs.azure.*, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    ),
    "gs": (
        "com.google.cloud.bigdataoss:gcs-connector:4.0.9",
        "spark.hadoop.fs.gs.*, or GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "hdfs": ("", "HADOOP_CONF_DIR, or spark.hadoop.dfs.*"),
}
"""The jar that Hadoop needs for a scheme, and where Python's clients look for what they need to know."""
_NO_CLASS = re.compile(r'Class org\.apache\.hadoop\.fs\.\S+ not found|No FileSystem for scheme "?\w+"?|NoClassDefFound')


def check(spark: SparkSession, root: str) -> None:
    """Write, read, list and delete a small file in a folder from the driver and from tasks, and read it through Spark.

    Nothing is done where the folder and all tasks are on this machine; a server of Spark Connect may have other files.

    Raises:
        ConfigError: one of them cannot, or sees another folder.
        SetupError: Spark has no jar for the storage.
    """
    if cluster_slots.shares_files(spark) and files.is_local(root):
        return
    token = secrets.token_hex(8)
    folder = f"{root}/.probe-{token}"
    if problem := _problem(lambda: files.write_bytes(f"{folder}/driver", token.encode())):
        raise ConfigError(_text(root, f"the driver cannot write there: {problem}"))
    try:
        _check_spark(spark, root, f"{folder}/driver", token)
        for host, problem in cluster_slots.problems(spark, partial(_visit, folder, token)):
            raise ConfigError(_text(root, f"a task on {host} {problem}"))
        if problem := _problem(lambda: _use(folder, token, "again")):
            raise ConfigError(_text(root, f"the driver {problem}"))
    finally:
        files.delete(folder)


def _check_spark(spark: SparkSession, root: str, file: str, token: str) -> None:
    try:
        # A name with a wildcard would be none of this file.
        seen = [row.value for row in spark.read.text(files.spark_path(file)).collect()]
    except (PySparkException, Py4JJavaError) as error:
        if (missing := missing_jar(spark, root, error)) is not None:
            raise missing from None
        raise ConfigError(_text(root, f"Spark cannot read there: {_cause(str(error))}")) from None
    if seen != [token]:
        raise ConfigError(_text(root, "Spark does not see what the driver writes"))


def check_jars(spark: SparkSession, config: Section) -> None:
    """Raise SetupError if Spark has no jar for the storage of a path that the configuration names."""
    named = [*configs.paths(config, configs.InputPath).values(), *configs.paths(config, configs.OutputPath).values()]
    hosts = {found[1]: found[0] for uri in named if (found := re.match(r"(\w+)://[^/]*", uri)) is not None}
    for host in hosts.values():
        try:
            # Spark looks for it as soon as it needs its columns.
            _ = spark.read.text(f"{host}/embedall-no-such-file").schema
        except (PySparkException, Py4JJavaError) as error:
            # All else is told by who uses the path.
            if (missing := missing_jar(spark, host, error)) is not None:
                raise missing from None


def missing_jar(spark: SparkSession, uri: str, error: Exception) -> SetupError | None:
    """Return the error that names the jar whose absence an error of Spark is due to; None if it is not."""
    scheme = re.match(r"(\w+)://", uri)
    if scheme is None or not _NO_CLASS.search(str(error)):
        return None
    if scheme[1] in ("s3", "s3n"):
        return SetupError(
            f"{uri}: Hadoop has no file system for {scheme[1]}://; write s3a://, or set "
            f"spark.hadoop.fs.{scheme[1]}.impl=org.apache.hadoop.fs.s3a.S3AFileSystem"
        )
    version = spark.sql("SELECT reflect('org.apache.hadoop.util.VersionInfo', 'getVersion')").collect()[0][0]
    jar = _known(scheme[1])[0].replace("VERSION", version) or f"the jar for {scheme[1]}://"
    return SetupError(
        f"{uri}: Spark (Hadoop {version}) lacks the jar for {scheme[1]}://; add {jar} to spark.jars.packages, or put "
        "it and what it depends on into Spark's folder jars on every host"
    )


def _known(scheme: str) -> tuple[str, str]:
    return _SCHEMES.get({"s3": "s3a", "s3n": "s3a", "abfss": "abfs", "viewfs": "hdfs"}.get(scheme, scheme), ("", ""))


def _visit(folder: str, token: str) -> str | None:
    """Return what goes wrong where a task does in a folder what a run does, None if nothing does."""
    return _problem(lambda: _use(folder, token, secrets.token_hex(8)))


def _use(folder: str, token: str, name: str) -> None:
    """Do in a folder what a run does; raise ConfigError or OSError where that fails."""
    own = f"{folder}/{name}"
    # First, so that a host of which the folder is another leaves nothing there.
    seen = files.read_bytes(f"{folder}/driver")
    files.write_bytes(own, token.encode())
    if not seen == files.read_bytes(own) == token.encode():
        raise ConfigError("reads something else there than was written")
    if not {"driver", name} <= set(files.children(folder)):
        raise ConfigError("does not list what was written there")
    files.delete(own)
    if files.exists(own):
        raise ConfigError("cannot delete what was written there")


def _problem(use: Callable[[], None]) -> str | None:
    """Return what went wrong, None if nothing did."""
    try:
        use()
    except FileNotFoundError:
        return "does not find there what the driver has written"
    except ConfigError as error:
        return str(error)
    except Exception as error:
        # Clients of fsspec have errors of their own.
        return f"cannot use it: {credentials.mask(_cause(str(error)) or type(error).__name__)}"
    return None


def _cause(text: str) -> str:
    """Return the last cause that a Java stack names, else the first line of a text."""
    causes = re.findall(r"Caused by: (?:[\w$]+\.)*([\w$]+: [^\n]+)", text)
    first = next((line for line in text.splitlines() if line.strip()), "")
    return (causes[-1] if causes else first)[:500]


def _text(root: str, problem: str) -> str:
    scheme = re.match(r"(\w+)://", root)
    where = _known(scheme[1])[1] if scheme is not None else ""
    if scheme is None:
        remedy = "Give a mount that all hosts share, or a URI (s3a://, abfss://, gs://, hdfs://)"
    else:
        remedy = f"Python's clients are told by {where} (on executors: spark.executorEnv.NAME)" if where else ""
    return f"output.run_root: {root}: {problem}. {remedy}".rstrip(". ")
