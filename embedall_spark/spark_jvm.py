"""What makes the JVM of our own session start fast: jars without Ivy, an archive of loaded classes, a calm compiler.

Nothing here is required: where the user's cache folder cannot be used or holds something stale, Spark starts as it
would without, only slower.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from embedall_spark import files, user_cache

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

PACKAGES = "spark.jars.packages"
_OPTIONS = "spark.driver.defaultJavaOptions"
# Twenty times HotSpot's thresholds: in a session of a minute its second compiler costs more than it saves (half of
# all CPU time), and to leave it out would make long jobs three times slower.
_COMPILER = (
    "-XX:Tier4InvocationThreshold=100000 -XX:Tier4MinInvocationThreshold=12000 "
    "-XX:Tier4CompileThreshold=300000 -XX:Tier4BackEdgeThreshold=800000"
)
# A finished archive of classes begins with this number, which the JVM writes last.
_MAGIC = (0xF00BABA8, 0xF00BABA2)
_ARCHIVE_BYTES = 1 << 30
_UNUSED_SECONDS = 30 * 86400


def prepare(settings: dict[str, str], java: str) -> tuple[dict[str, str], list[Path]]:
    """Return the settings to start a JVM with, and the jars to put on its class path.

    Args:
        settings: Spark's settings.
        java: what tells one Java from another, such as what ``java -version`` prints.
    """
    jars = _known_jars(settings)
    if jars is not None:
        settings = {key: value for key, value in settings.items() if key != PACKAGES}
    if not settings.get("spark.master", "local").startswith("local"):
        # Executors on other hosts fetch the jars from the driver.
        shared = [settings.get("spark.jars", ""), *(path.as_uri() for path in jars or [])]
        return settings | ({"spark.jars": ",".join(filter(None, shared))} if jars else {}), []
    options = [_COMPILER]
    if (os.cpu_count() or 1) <= 2:
        options.append("-XX:+UseSerialGC")
    jars = _beside_spark(jars or [])
    # Jars that Ivy hands over are not on the class path, and only what is there can be archived.
    if PACKAGES not in settings and (archive := _archive(settings, java, jars)) is not None:
        options.append(archive)
    # The user's own, spark.driver.extraJavaOptions among them, come later and win.
    return settings | {_OPTIONS: " ".join([*options, settings.get(_OPTIONS, "")]).strip()}, jars


def remember_jars(settings: dict[str, str], resolved: str) -> None:
    """Note the jars, a comma-separated list of URIs, with which Spark started after Ivy had resolved its packages."""
    record = _jars_record(settings)
    configured = settings.get("spark.jars", "").split(",")
    uris = [uri for uri in resolved.split(",") if uri.startswith("file:/") and uri not in configured]
    if record is None or not uris:
        return
    paths = [Path(unquote(urlsplit(uri).path)) for uri in uris]
    with suppress(OSError):
        files.write_bytes(str(record), json.dumps({str(path): path.stat().st_size for path in paths}).encode())


def _known_jars(settings: dict[str, str]) -> list[Path] | None:
    """Return the jars that Ivy resolved ``spark.jars.packages`` to earlier; None where it has to do so (again)."""
    record = _jars_record(settings)
    if record is None:
        return None
    try:
        sizes = {Path(path): size for path, size in json.loads(record.read_bytes()).items()}
        return list(sizes) if sizes and all(path.stat().st_size == size for path, size in sizes.items()) else None
    except (OSError, ValueError, AttributeError):
        return None


def _beside_spark(jars: list[Path]) -> list[Path]:
    """Return the jars whose artifact Spark does not bring along itself, in whatever version."""
    bundled = {_artifact(path.name) for path in _spark_jars()}
    # Ivy puts the organization before an artifact's name.
    return [path for path in jars if _artifact(path.name.partition("_")[2]) not in bundled]


@contextmanager
def environment(jars: list[Path]) -> Iterator[None]:
    """Set the environment of a JVM that is started meanwhile: jars behind Spark's own on its class path, little malloc.

    glibc keeps pools of memory for threads, of which Spark has hundreds: a GiB that is never given back.
    """
    path = [*filter(None, [os.environ.get("SPARK_DIST_CLASSPATH")]), *map(str, jars)]
    values = {"MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2")}
    values |= {"SPARK_DIST_CLASSPATH": os.pathsep.join(path)} if jars else {}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _jars_record(settings: dict[str, str]) -> Path | None:
    """Return the file that lists the jars of these packages, which may not exist; None where there are no packages."""
    folder = user_cache.folder("jars")
    if folder is None or not settings.get(PACKAGES):
        return None
    jar_settings = {key: value for key, value in settings.items() if key.startswith("spark.jars.")}
    return folder / f"{_digest([jar_settings, str(Path.home()), _spark_version()])}.json"


def _archive(settings: dict[str, str], java: str, jars: list[Path]) -> str | None:
    """Return the option to use the archive of these jars' classes, or to write it at the end; None: do neither."""
    folder = user_cache.folder("classes")
    texts = [*(value for key, value in settings.items() if key.endswith("JavaOptions"))]
    texts += [os.environ.get(name, "") for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")]
    conf = Path(os.environ.get("SPARK_CONF_DIR") or _spark_home() / "conf")
    # The JVM archives no classes where a folder on the class path holds files.
    if folder is None or re.search("Archive|-Xshare", " ".join(texts)) or (conf.is_dir() and any(conf.iterdir())):
        return None
    try:
        entries = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in [*_spark_jars(), *jars]]
        name = _digest([java, os.environ.get("JAVA_HOME"), os.environ.get("SPARK_DIST_CLASSPATH"), entries])
        archive = folder / f"{name}.jsa"
        for part in folder.glob(f"{name}.*.part"):
            if _is_whole(part):
                # Its writer is gone, and whoever else finds it meanwhile renames the same file.
                with suppress(FileNotFoundError):
                    part.replace(archive)
        _remove_unused(folder)
        if archive.exists():
            os.utime(archive)
            return f"-XX:SharedArchiveFile={archive}"
        enough = shutil.disk_usage(folder).free > _ARCHIVE_BYTES
    except OSError as error:
        log.debug("no archive of classes: %s", error)
        return None
    return f"-XX:ArchiveClassesAtExit={folder / f'{name}.{os.getpid()}.part'}" if enough else None


def _is_whole(archive: Path) -> bool:
    with archive.open("rb") as file:
        return int.from_bytes(file.read(4), "little") in _MAGIC


def _remove_unused(folder: Path) -> None:
    """Remove archives that no session has used for a month, and parts whose JVM was killed."""
    for path in folder.iterdir():
        age = time.time() - path.stat().st_mtime
        if age > (_UNUSED_SECONDS if path.suffix == ".jsa" else 600):
            path.unlink(missing_ok=True)


def _spark_home() -> Path:
    from pyspark.find_spark_home import _find_spark_home

    return Path(_find_spark_home())  # type: ignore[no-untyped-call]


def _spark_jars() -> list[Path]:
    return sorted((_spark_home() / "jars").glob("*.jar"))


def _spark_version() -> str:
    import pyspark

    return pyspark.__version__


def _artifact(name: str) -> str:
    """Return a jar's name without its version."""
    return re.sub(r"-\d[\w.\-]*\.jar$", "", name)


def _digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
