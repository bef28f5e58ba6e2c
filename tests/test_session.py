"""The session: which Java is accepted, which settings are read, and what a wrong one says."""

import os
import subprocess
import sys

import pytest
from pyspark.sql import SparkSession

from embedall_spark import session, user_cache
from embedall_spark.errors import SetupError


def fake_java(folder, monkeypatch, says):
    java = folder / "java"
    java.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{says}\nEND\n")
    java.chmod(0o755)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("says", "version"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "21" 2023-09-19 LTS', 21)],
)
def test_java_that_spark_runs_on(tmp_path, monkeypatch, says, version):
    fake_java(tmp_path, monkeypatch, says)
    assert session.java_version() == version


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ('java version "1.8.0_392"', "found Java 8"),
        ('openjdk version "11.0.2" 2019-01-15', "found Java 11"),
        ('openjdk version "25-ea"', "found Java 25"),
        ("no runtime present, requesting install", "prints no version"),
    ],
)
def test_other_javas_are_named_with_the_way_out(tmp_path, monkeypatch, says, found):
    fake_java(tmp_path, monkeypatch, says)
    with pytest.raises(SetupError, match=found) as caught:
        session.java_version()
    assert "need Java 17 or 21" in str(caught.value)
    assert "apt-get install" in str(caught.value)
    assert "brew install" in str(caught.value)


def test_no_java(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"found no Java \(PATH\), need Java 17 or 21; install one"):
        session.java_version()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(SetupError, match=r"gone/bin/java .* does not start"):
        session.java_version()


def test_java_is_checked_before_spark_starts(tmp_path):
    code = "from embedall_spark import session; session.get('x')"
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "SetupError: found no Java" in done.stderr
    assert done.returncode != 0


def test_delta_coordinate_is_the_one_that_delta_derives():
    from delta import configure_spark_with_delta_pip

    builder = configure_spark_with_delta_pip(SparkSession.Builder())
    for name in ("spark-local.conf", "spark-standalone.conf"):
        settings = session.read_properties(session.conf_file(name))
        assert settings["spark.jars.packages"] == builder._options["spark.jars.packages"], name


def test_properties_are_read_as_spark_reads_them(tmp_path):
    file = tmp_path / "spark.conf"
    file.write_text("# no\n\nspark.a   one two \nspark.b=x=y\nspark.c: 3\n  spark.d\t4\n", encoding="utf-8")
    wanted = {"spark.a": "one two", "spark.b": "x=y", "spark.c": "3", "spark.d": "4"}
    assert session.read_properties(file) == wanted


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(SetupError, match=r"none\.conf: cannot be read"):
        session.read_properties(tmp_path / "none.conf")
    with pytest.raises(SetupError, match=r"no such file in the package \(known: .*spark-local\.conf"):
        session.conf_file("spark-locla.conf")


def test_a_running_session_is_returned_unchanged(spark):
    before = spark.conf.getAll
    assert session.get("other", master="local[1]", extra={"spark.sql.shuffle.partitions": "99"}) is spark
    assert spark.conf.getAll == before
    assert spark.sparkContext.master == "local[2]"


def test_settings_of_the_file_reach_the_session(spark):
    settings = session.read_properties(session.conf_file("spark-local.conf"))
    # Jars that were resolved before come by the class path.
    differ = {"spark.master", "spark.driver.memory", "spark.jars.packages"}
    have = dict(spark.sparkContext.getConf().getAll())
    assert {key: have.get(key) for key in settings.keys() - differ} == {
        key: value for key, value in settings.items() if key not in differ
    }


class Conf:
    def __init__(self, settings):
        self.settings = settings

    def get(self, key, default):
        return self.settings.get(key, default)


class Running:
    version = "4.1.4"

    def __init__(self, **changed):
        settings = session.read_properties(session.conf_file("spark-standalone.conf"))
        self.conf = Conf(settings | {f"spark.{key.replace('__', '.')}": value for key, value in changed.items()})


def test_a_properties_file_without_delta_is_refused_before_spark_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "is_running", lambda: False)
    file = tmp_path / "own.conf"
    file.write_text("spark.driver.memory 1g\n")
    with pytest.raises(SetupError, match=r"own\.conf lacks spark\.sql\.extensions=.*copy these lines from .*conf"):
        session.get("test", properties=file)


def test_a_running_session_without_delta_is_refused():
    with pytest.raises(SetupError, match=r"lacks spark\.sql\.extensions=.*found nothing.*--properties-file .*conf"):
        session.check(Running(sql__extensions=None))
    session.check(Running(sql__extensions="org.example.Other,io.delta.sql.DeltaSparkSessionExtension"))


def test_databricks_has_delta_under_its_own_settings(monkeypatch):
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    session.check(Running(sql__extensions=None))


def test_advised_settings_are_warned_about(caplog):
    session.check(Running())
    assert not caplog.records
    session.check(Running(dynamicAllocation__enabled="true"))
    assert "spark.dynamicAllocation.enabled=true; recommended is false" in caplog.text


@pytest.mark.slow
def test_jars_that_cannot_be_had_and_a_clean_terminal(tmp_path):
    """A first start on a machine without a way to Maven says what to do, and nothing else reaches the terminal."""
    settings = tmp_path / "ivysettings.xml"
    settings.write_text(
        '<ivysettings><settings defaultResolver="none"/><resolvers>'
        f'<filesystem name="none"><artifact pattern="{tmp_path}/[artifact].[ext]"/></filesystem></resolvers>'
        "</ivysettings>"
    )
    code = (
        "from embedall_spark import errors, session\n"
        f"extra = {{'spark.jars.ivySettings': {str(settings)!r}, 'spark.jars.ivy': {str(tmp_path / 'ivy')!r}}}\n"
        "try:\n    session.get('x', master='local[1]', extra=extra)\n"
        "except errors.SetupError as error:\n    print(error)\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {key: value for key, value in environment.items() if not key.startswith(("PYSPARK", "_PYSPARK"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "the jars of io.delta:delta-spark" in done.stdout
    assert "embedall doctor" in done.stdout
    assert "unresolved dependency" in done.stdout
    assert done.stderr == ""


def test_cache_folder_is_ours_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = user_cache.folder("numba")
    assert folder == tmp_path / "embedall" / "numba"
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    assert user_cache.folder("numba") == tmp_path / "elsewhere" / f"embedall-{os.getuid()}" / "numba"


def test_spark_connect_without_its_packages(monkeypatch):
    class Builder:
        def getOrCreate(self):
            raise ImportError("grpcio >= 1.76.0 must be installed; however, it was not found.")

    monkeypatch.setenv("SPARK_REMOTE", "sc://spark.example")
    monkeypatch.setattr("pyspark.sql.SparkSession.builder", Builder())
    with pytest.raises(SetupError, match=r"embedall_spark\[connect\].*grpcio"):
        session.get("test")
