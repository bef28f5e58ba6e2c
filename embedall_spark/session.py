"""The only place that starts a Spark session, or checks one that is already running."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from embedall_spark import cluster_slots, hadoop_options, spark_jvm, spark_versions, user_cache
from embedall_spark.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark import SparkContext
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

JAVA_VERSIONS = (17, 21)
_REQUIRED = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
_RECOMMENDED = {
    "spark.dynamicAllocation.enabled": "false",
    "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "1s",
    "spark.sql.execution.arrow.maxBytesPerBatch": "16777216",
    "spark.barrier.sync.timeout": "900",
}
_INSTALL_JAVA = (
    "install one: Debian/Ubuntu: sudo apt-get install openjdk-17-jre-headless; Fedora: sudo dnf install "
    "java-21-openjdk-headless; macOS: brew install openjdk@17; or conda install -c conda-forge openjdk=17; "
    "if it is already installed, set JAVA_HOME to its folder"
)


def conf_file(name: str) -> Path:
    """Return the path of a file in the package's ``conf`` folder.

    Raises:
        SetupError: the file does not exist.
    """
    folder = Path(__file__).parent / "conf"
    if not (folder / name).is_file():
        known = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise SetupError(f"conf/{name}: no such file in the package (known: {known})")
    return folder / name


def get(
    app_name: str,
    *,
    master: str | None = None,
    properties: str | Path | None = None,
    extra: dict[str, str] | None = None,
) -> SparkSession:
    """Return the running session after checking its settings, or start a new session.

    A session is there already under spark-submit, on Databricks, with Spark Connect (``SPARK_REMOTE``) and in some
    notebooks; only options of Hadoop's files are added to it. Otherwise Spark is started on this machine. The JVM's
    output goes to a file in the user's cache folder; if Spark does not start, the error shows the relevant lines.

    Args:
        app_name: name of the Spark application.
        master: Spark master, such as ``local[4]``; overrides the other settings.
        properties: Spark properties file; the default is the package's ``spark-local.conf``.
        extra: settings that override those of ``properties``.

    Raises:
        SetupError: Java, Spark or Delta's jars are missing, or the session or the file lacks a required setting.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise SetupError(f"pyspark cannot be imported ({error}); pip install 'embedall_spark[local]'") from None
    if is_running() or cluster_slots.is_provided():
        try:
            spark = SparkSession.builder.getOrCreate()  # noqa: TID251
        except ImportError as error:
            raise SetupError(
                f"Spark Connect needs more packages; pip install 'embedall_spark[connect]' ({error})"
            ) from None
        check(spark)
        return hadoop_options.remember_those_of(spark)
    java = _java()[1]
    settings = read_properties(properties or conf_file("spark-local.conf")) | (extra or {})
    if master is not None:
        settings["spark.master"] = master
    settings["spark.app.name"] = app_name
    if lacking := _lacking(settings):
        raise SetupError(f"{properties} lacks {lacking}; copy these lines from {conf_file('spark-standalone.conf')}")
    return hadoop_options.remember_those_of(_start(_with_environment(settings), java))


def is_running() -> bool:
    """Return whether this process has a Spark session."""
    if "pyspark" not in sys.modules:
        return False
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    return SparkContext._active_spark_context is not None or SparkSession.getActiveSession() is not None


def ended_by_submit(error: BaseException) -> bool:
    """Return whether an error comes from the end of the spark-submit that has started this process."""
    from py4j.protocol import Py4JNetworkError  # type: ignore[import-untyped]

    gone = isinstance(error, Py4JNetworkError) or "SparkContext was shut down" in str(error)
    return gone and "PYSPARK_GATEWAY_PORT" in os.environ


def running_tasks() -> tuple[int, int]:
    """Return how many tasks of the running stages are done, and how many there are; 0, 0 through Spark Connect."""
    try:
        from pyspark import SparkContext

        tracker = SparkContext._active_spark_context.statusTracker()  # type: ignore[union-attr]
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    except Exception:
        # There is no session yet, or it is ending.
        return 0, 0
    return sum(stage.numCompletedTasks for stage in stages if stage), sum(stage.numTasks for stage in stages if stage)


def check(spark: SparkSession) -> None:
    """Check a running session's versions and required settings; log a warning for each recommended one that differs.

    Raises:
        SetupError: it has other versions, or Delta is not set up in it; the message names the properties to pass.
    """
    start = "the server's sbin/start-connect-server.sh" if cluster_slots.is_remote(spark) else "spark-submit"
    # Without the second option, spark-submit forgets the site's own spark-defaults.conf.
    advice = f"{start} --properties-file {conf_file('spark-standalone.conf')} --load-spark-defaults"
    advice = "the cluster's Spark config" if cluster_slots.on_databricks() else advice
    spark_versions.check(spark)
    # Databricks has Delta built in, under other settings.
    lacking = _lacking({key: cluster_slots.setting(spark, key) for key in _REQUIRED})
    if lacking and not cluster_slots.on_databricks():
        raise SetupError(f"the running Spark session lacks {lacking}; start it with {advice}")
    for key, recommended in _RECOMMENDED.items():
        value = cluster_slots.setting(spark, key)
        unset = value is None and (key == "spark.dynamicAllocation.enabled" or cluster_slots.on_databricks())
        if value != recommended and not unset:
            log.warning("the running Spark session has %s=%s; recommended is %s (%s)", key, value, recommended, advice)


def _lacking(settings: Mapping[str, str | None]) -> str:
    """Return what Delta needs and some settings do not have, or an empty text."""
    values = {key: settings.get(key) or "nothing" for key in _REQUIRED}
    return "; ".join(
        f"{key}={need} (found {values[key]})" for key, need in _REQUIRED.items() if need not in values[key]
    )


def java_version() -> int:
    """Return the major version of the Java that Spark would start.

    Raises:
        SetupError: Java is not installed, or Spark does not support this version.
    """
    return _java()[0]


def _java() -> tuple[int, str]:
    """Return the major version of the Java that Spark would start, and its path and version text, which identify it."""
    needed = " or ".join(map(str, JAVA_VERSIONS))
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    where = f"JAVA_HOME={home}" if home else "PATH"
    if java is None:
        raise SetupError(f"found no Java ({where}), need Java {needed}; {_INSTALL_JAVA}")
    try:
        result = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{java} ({where}) does not start: {error}; need Java {needed}; {_INSTALL_JAVA}") from None
    text = (result.stderr + result.stdout).strip()
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    if match is None:
        raise SetupError(f"{java} -version prints no version ({text[:200]!r}), need Java {needed}; {_INSTALL_JAVA}")
    version = int(match.group(1))
    if version not in JAVA_VERSIONS:
        raise SetupError(f"found Java {version} at {java} ({where}), need Java {needed}; {_INSTALL_JAVA}")
    return version, f"{java}: {text}"


def read_properties(path: str | Path) -> dict[str, str]:
    """Return the settings in a Spark properties file (``key value``, ``key=value`` or ``key: value`` lines).

    Raises:
        SetupError: the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: cannot be read as Spark properties: {error}") from None
    entries = (re.match(r"\s*([^#!\s=:][^\s=:]*)\s*[=:\s]\s*(.*?)\s*$", line) for line in lines)
    return {entry.group(1): entry.group(2) for entry in entries if entry}


def _with_environment(settings: dict[str, str]) -> dict[str, str]:
    """Add what depends on this machine: Python, number of shuffle partitions, folders of the warehouse and of Ivy."""
    added: dict[str, str] = {}
    local = settings.get("spark.master", "local").startswith("local")
    if python := settings.get("spark.pyspark.python"):
        # Which only spark-submit would read.
        os.environ["PYSPARK_PYTHON"] = python
    if local:
        # On a cluster the hosts may have Python in another place.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
        # Not for another Python, which may not have this package.
        if os.environ["PYSPARK_PYTHON"] == sys.executable and "spark.pyspark.python" not in settings:
            added["spark.python.daemon.module"] = "embedall_spark.python_daemon"
        # Through TCP a Python task waits 40 ms for its first rows.
        added["spark.python.unix.domain.socket.enabled"] = "true"
        # Spark's default of 200 is for clusters; here each partition costs a file and milliseconds in every stage.
        added["spark.sql.shuffle.partitions"] = str(2 * (os.cpu_count() or 1))
        warehouse = user_cache.folder("warehouse")
        if warehouse is not None:
            # By default Spark creates this folder in the current folder.
            added["spark.sql.warehouse.dir"] = str(warehouse)
    if not os.access(Path("~").expanduser(), os.W_OK):
        ivy = user_cache.folder("ivy")
        added |= {"spark.jars.ivy": str(ivy)} if ivy else {}
    return added | settings


def _start(settings: dict[str, str], java: str) -> SparkSession:
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    if SparkContext._gateway is not None:
        # This process has had a session before, and its JVM is still running.
        return SparkSession.builder.config(conf=SparkConf().setAll(list(settings.items()))).getOrCreate()  # noqa: TID251
    log_file = _log_file()
    prepared, jars = spark_jvm.prepare(settings, java)
    conf = SparkConf().setAll(list(prepared.items()))
    try:
        with log_file.open("wb") as output, spark_jvm.environment(jars):
            gateway = launch_gateway(conf, {"stdout": output, "stderr": output})  # type: ignore[no-untyped-call]
        context = SparkContext(conf=conf, gateway=gateway)
        # PySpark's own handler calls Java in the middle of another call, so that Ctrl-C would end as a py4j error.
        with suppress(ValueError):  # only the main thread may set it, and only that one receives Ctrl-C
            signal.signal(signal.SIGINT, signal.default_int_handler)
        spark: SparkSession = SparkSession.builder.getOrCreate()  # noqa: TID251
    except Exception as error:
        raise _failure(log_file, settings, error) from error
    if spark_jvm.PACKAGES in prepared:
        spark_jvm.remember_jars(settings, context.getConf().get("spark.jars") or "")
    _leave_jars_to_java(context)
    return spark


def _leave_jars_to_java(context: SparkContext) -> None:
    """Remove Delta's jars, which Spark adds, from sys.path: every task would list their contents again (0.2 s)."""
    for names in (context._python_includes or [], sys.path):
        names[:] = [name for name in names if not name.endswith(".jar")]


def _log_file() -> Path:
    """Return the path of a new log file for the JVM; delete all but the nine latest log files."""
    folder = user_cache.folder("logs") or Path(tempfile.mkdtemp(prefix="embedall-logs-"))
    for old in sorted(folder.glob("spark-*.log"))[:-9]:
        old.unlink(missing_ok=True)
    return folder / f"spark-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"


def _failure(log_file: Path, settings: dict[str, str], error: Exception) -> SetupError:
    """Return the error for a Spark that did not start, with the relevant lines of its log."""
    text = log_file.read_text(encoding="utf-8", errors="replace")
    if "unresolved dependency" in text or "UNRESOLVED DEPENDENCIES" in text:
        ivy = settings.get("spark.jars.ivy", "~/.ivy2.5.2")
        return SetupError(
            f"the jars of {settings.get('spark.jars.packages')} cannot be downloaded: Maven Central does not answer or "
            "does not have them. Run 'embedall doctor' once with network access, later sessions work offline; or copy "
            f"{ivy} from a machine where it has run; or name a mirror in an Ivy settings file "
            f"(spark.jars.ivySettings). From Spark's log ({log_file}):\n"
            f"{_excerpt(text, 'WARN|ERROR|unresolved|not found')}"
        )
    reason = _excerpt(text, "ERROR|Exception|Error|cannot|could not") or str(error)[:2000]
    return SetupError(
        f"Spark (master {settings.get('spark.master')}) did not start; from its log ({log_file}):\n{reason}"
    )


def _excerpt(text: str, pattern: str) -> str:
    lines = [line for line in text.splitlines() if re.search(pattern, line) and "proxy server" not in line]
    return "\n".join(lines[:12])
