"""How our own JVM starts: jars that Ivy resolved before, an archive of classes, and neither where it is damaged."""

import os

import pytest

from embedall_spark import spark_jvm

PACKAGES = {"spark.master": "local[2]", "spark.jars.packages": "io.delta:delta-spark_4.1_2.13:4.4.0"}


@pytest.fixture
def jars(tmp_path, monkeypatch):
    """Two resolved jars, one of which Spark brings along, in a cache folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SPARK_CONF_DIR", raising=False)
    jars = [tmp_path / "with space" / name for name in ("io.delta_delta-spark_4.1_2.13-4.4.0.jar", "org_py4j-0.1.jar")]
    jars[0].parent.mkdir()
    for jar in jars:
        jar.write_bytes(b"classes")
    spark_jvm.remember_jars(PACKAGES, ",".join(jar.as_uri() for jar in jars))
    return jars


def test_jars_resolved_before_start_without_ivy(jars):
    settings, classpath = spark_jvm.prepare(PACKAGES, "17")
    assert "spark.jars.packages" not in settings
    assert classpath == jars[:1]  # Spark's own py4j stays the one that is loaded
    cluster, classpath = spark_jvm.prepare(
        PACKAGES | {"spark.master": "spark://h:1", "spark.jars": "file:/a.jar"}, "17"
    )
    assert classpath == []
    assert cluster["spark.jars"] == ",".join(["file:/a.jar", *(jar.as_uri() for jar in jars)])
    assert cluster.keys() == {"spark.master", "spark.jars"}


@pytest.mark.parametrize("change", ["coordinate", "mirror", "size", "gone", "record"])
def test_ivy_resolves_what_has_changed_or_is_damaged(jars, tmp_path, change):
    settings = dict(PACKAGES)
    if change == "coordinate":
        settings["spark.jars.packages"] = "io.delta:delta-spark_4.1_2.13:4.5.0"
    elif change == "mirror":
        settings["spark.jars.ivySettings"] = "mirror.xml"
    elif change == "size":
        jars[1].write_bytes(b"half")
    elif change == "gone":
        jars[1].unlink()
    else:
        next((tmp_path / "cache" / "embedall" / "jars").iterdir()).write_text("{")
    prepared, classpath = spark_jvm.prepare(settings, "17")
    assert prepared["spark.jars.packages"] == settings["spark.jars.packages"]
    assert classpath == []
    # Classes from Ivy's jars are not on the class path, so that they cannot be archived.
    assert "Archive" not in prepared["spark.driver.defaultJavaOptions"]


def archive_option(settings=PACKAGES, java="17"):
    options = spark_jvm.prepare(settings, java)[0]["spark.driver.defaultJavaOptions"].split()
    return [option.partition("=")[::2] for option in options if "Archive" in option]


def test_an_archive_is_written_once_and_used_when_it_is_whole(jars, tmp_path):
    [(option, part)] = archive_option()
    assert option == "-XX:ArchiveClassesAtExit"
    os.makedirs(os.path.dirname(part), exist_ok=True)
    with open(part, "wb") as file:
        file.write(bytes(100))  # its JVM was killed while it wrote
    assert archive_option() == [(option, part)]
    with open(part, "wb") as file:
        file.write(0xF00BABA8.to_bytes(4, "little") + bytes(100))
    [(option, archive)] = archive_option()
    assert option == "-XX:SharedArchiveFile"
    assert not os.path.exists(part) and os.path.exists(archive)
    assert archive_option(java="21")[0][0] == "-XX:ArchiveClassesAtExit"
    os.utime(jars[0], (1, 1))  # another jar of the same size
    assert archive_option()[0][0] == "-XX:ArchiveClassesAtExit"


def test_the_users_own_options_win(jars):
    settings = PACKAGES | {"spark.driver.extraJavaOptions": "-XX:SharedArchiveFile=own.jsa"}
    assert archive_option(settings) == []
    settings = PACKAGES | {"spark.driver.defaultJavaOptions": "-Xmx1g"}
    assert spark_jvm.prepare(settings, "17")[0]["spark.driver.defaultJavaOptions"].endswith(" -Xmx1g")


def test_no_cache_folder(monkeypatch):
    monkeypatch.setattr("embedall_spark.user_cache.folder", lambda name: None)
    prepared, classpath = spark_jvm.prepare(PACKAGES, "17")
    assert prepared["spark.jars.packages"] and not classpath
    assert archive_option() == []


def test_the_environment_comes_back(jars, monkeypatch):
    monkeypatch.setenv("SPARK_DIST_CLASSPATH", "/hadoop.jar")
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    with spark_jvm.environment(jars):
        assert os.environ["SPARK_DIST_CLASSPATH"] == f"/hadoop.jar:{jars[0]}:{jars[1]}"
        assert os.environ["MALLOC_ARENA_MAX"] == "2"
    assert os.environ["SPARK_DIST_CLASSPATH"] == "/hadoop.jar"
    assert "MALLOC_ARENA_MAX" not in os.environ
