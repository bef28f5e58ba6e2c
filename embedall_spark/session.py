"""The only place that builds a Spark session, or checks one that runs already."""

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

from embedall_spark import spark_jvm, user_cache
from embedall_spark.errors import SetupError

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

JAVA_VERSIONS = (17, 21)
_REQUIRED = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
_ADVISED = {
    "spark.dynamicAllocation.enabled": "false",
    "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "1s",
    "spark.sql.execution.arrow.maxBytesPerBatch": "16777216",
    "spark.barrier.sync.timeout": "900",
}
_INSTALL_JAVA = (
    "install one: Debian/Ubuntu: sudo apt-get install openjdk-17-jre-headless; Fedora: sudo dnf install "
    "java-21-openjdk-headless; macOS: brew install openjdk@17; or conda install -c conda-forge openjdk=17; "
    "where it is installed already, set JAVA_HOME to its folder"
)


def conf_file(name: str) -> Path:
    """Return the path of a file in the package's ``conf`` folder.

    Raises:
        SetupError: there is no such file.
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
    """Return the running session, checked and not changed, or start one.

    A session runs already under spark-submit, on Databricks, through Spark Connect (``SPARK_REMOTE``) and in a
    notebook. Otherwise Spark is started on this machine's JVM with ``properties`` (a Spark properties file; default:
    the package's ``spark-local.conf``), then ``extra`` and ``master`` on top of it; what the JVM prints goes to a file
    in our cache folder, and the beginning of it into the error where Spark does not start.

    Raises:
        SetupError: Java, Spark or Delta's jars are missing, or a running session lacks a setting that we need.
    """
    try:
        from pyspark import SparkContext
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise SetupError(f"pyspark cannot be imported ({error}); pip install 'embedall_spark[local]'") from None
    running = SparkContext._active_spark_context is not None or SparkSession.getActiveSession() is not None
    if running or any(name in os.environ for name in ("SPARK_REMOTE", "PYSPARK_GATEWAY_PORT")):
        spark = SparkSession.builder.getOrCreate()  # noqa: TID251
        check(spark)
        return spark
    java = _java()[1]
    settings = read_properties(properties or conf_file("spark-local.conf")) | (extra or {})
    if master is not None:
        settings["spark.master"] = master
    settings["spark.app.name"] = app_name
    return _start(_with_environment(settings), java)


def running_tasks() -> tuple[int, int]:
    """Return how many tasks of the stages that run now are done, and how many there are; 0, 0 where Spark is remote."""
    try:
        from pyspark import SparkContext

        tracker = SparkContext._active_spark_context.statusTracker()  # type: ignore[union-attr]
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    except Exception:
        # There is no session yet, or it is ending.
        return 0, 0
    return sum(stage.numCompletedTasks for stage in stages if stage), sum(stage.numTasks for stage in stages if stage)


def check(spark: SparkSession) -> None:
    """Check a running session's settings; log those that are merely advised.

    Raises:
        SetupError: Delta is not set up in it; the text names the properties to pass.
    """
    advice = f"spark-submit --properties-file {conf_file('spark-standalone.conf')}"
    # Databricks has Delta built in, under other settings.
    if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        found = {key: spark.conf.get(key, None) or "nothing" for key in _REQUIRED}
        wrong = [f"{key}={need} (found {found[key]})" for key, need in _REQUIRED.items() if need not in found[key]]
        if wrong:
            raise SetupError(f"the running Spark session lacks {'; '.join(wrong)}; start it with {advice}")
    for key, need in _ADVISED.items():
        have = spark.conf.get(key, None)
        if have != need and not (key == "spark.dynamicAllocation.enabled" and have is None):
            log.warning("the running Spark session has %s=%s, better %s (%s)", key, have, need, advice)


def java_version() -> int:
    """Return the major version of the Java that Spark would start.

    Raises:
        SetupError: there is none, or Spark does not run on it.
    """
    return _java()[0]


def _java() -> tuple[int, str]:
    """Return the major version of the Java that Spark would start, and what it says of itself."""
    needed = " or ".join(map(str, JAVA_VERSIONS))
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    where = f"JAVA_HOME={home}" if home else "PATH"
    if java is None:
        raise SetupError(f"found no Java ({where}), need Java {needed}; {_INSTALL_JAVA}")
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{java} ({where}) does not start: {error}; need Java {needed}; {_INSTALL_JAVA}") from None
    said = (done.stderr + done.stdout).strip()
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    if match is None:
        raise SetupError(f"{java} -version tells no version ({said[:200]!r}), need Java {needed}; {_INSTALL_JAVA}")
    version = int(match.group(1))
    if version not in JAVA_VERSIONS:
        raise SetupError(f"found Java {version} at {java} ({where}), need Java {needed}; {_INSTALL_JAVA}")
    return version, f"{java}: {said}"


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
    """Add what depends on this machine: Python, folders of the catalog's tables and of Ivy."""
    added: dict[str, str] = {}
    local = settings.get("spark.master", "local").startswith("local")
    if local:
        # Not a cluster's: its hosts may have Python somewhere else.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
        # Not for another Python, which may not have this package.
        if os.environ["PYSPARK_PYTHON"] == sys.executable and "spark.pyspark.python" not in settings:
            added["spark.python.daemon.module"] = "embedall_spark.python_daemon"
        # Spark's 200 are for clusters; here each costs a file and some milliseconds in every stage.
        added["spark.sql.shuffle.partitions"] = str(2 * (os.cpu_count() or 1))
        warehouse = user_cache.folder("warehouse")
        if warehouse is not None:
            # By default Spark makes a folder in whatever folder the user stands in.
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
        # This process has had a session before: its JVM is still there.
        return SparkSession.builder.config(conf=SparkConf().setAll(list(settings.items()))).getOrCreate()  # noqa: TID251
    said = _log_file()
    prepared, jars = spark_jvm.prepare(settings, java)
    conf = SparkConf().setAll(list(prepared.items()))
    try:
        with said.open("wb") as output, spark_jvm.classpath(jars):
            gateway = launch_gateway(conf, {"stdout": output, "stderr": output})  # type: ignore[no-untyped-call]
        context = SparkContext(conf=conf, gateway=gateway)
        # PySpark's own handler calls into Java in the middle of another call, and Ctrl-C ends as an error of py4j's.
        with suppress(ValueError):  # only the main thread may do that, and only it gets Ctrl-C
            signal.signal(signal.SIGINT, signal.default_int_handler)
        spark: SparkSession = SparkSession.builder.getOrCreate()  # noqa: TID251
    except Exception as error:
        raise _failure(said, settings, error) from error
    if spark_jvm.PACKAGES in prepared:
        spark_jvm.remember_jars(settings, context.getConf().get("spark.jars") or "")
    _leave_jars_to_java(context)
    return spark


def _leave_jars_to_java(context: SparkContext) -> None:
    """Take Delta's jars off sys.path, where Spark puts them: every task would read all their listings again (0.2 s)."""
    for names in (context._python_includes or [], sys.path):
        names[:] = [name for name in names if not name.endswith(".jar")]


def _log_file() -> Path:
    """Return a new file for what Spark's JVM prints; of older ones the last nine are kept."""
    folder = user_cache.folder("logs") or Path(tempfile.mkdtemp(prefix="embedall-logs-"))
    for old in sorted(folder.glob("spark-*.log"))[:-9]:
        old.unlink(missing_ok=True)
    return folder / f"spark-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"


def _failure(log_file: Path, settings: dict[str, str], error: Exception) -> SetupError:
    """Return what to tell about a Spark that did not start, from what its JVM has said."""
    said = log_file.read_text(encoding="utf-8", errors="replace")
    if "unresolved dependency" in said or "UNRESOLVED DEPENDENCIES" in said:
        ivy = settings.get("spark.jars.ivy", "~/.ivy2.5.2")
        return SetupError(
            f"the jars of {settings.get('spark.jars.packages')} cannot be had: Maven Central does not answer or lacks "
            f"them. Run 'embedall doctor' once with the network on, later sessions work offline; or copy {ivy} from a "
            "machine where it has run; or name a mirror in an Ivy settings file (spark.jars.ivySettings). "
            f"Spark said ({log_file}):\n{_excerpt(said, 'WARN|ERROR|unresolved|not found')}"
        )
    reason = _excerpt(said, "ERROR|Exception|Error|cannot|could not") or str(error)[:2000]
    return SetupError(f"Spark (master {settings.get('spark.master')}) did not start; it said ({log_file}):\n{reason}")


def _excerpt(said: str, pattern: str) -> str:
    lines = [line for line in said.splitlines() if re.search(pattern, line) and "proxy server" not in line]
    return "\n".join(lines[:12])
