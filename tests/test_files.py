"""Files appear whole or not at all; dead processes' leftovers are swept."""

import logging
import os

import pytest
from cli_runner import embedall

from embedall_spark import config, credentials, files, progress
from embedall_spark.errors import ConfigError, ResourceError
from embedall_spark.images import image_reader
from embedall_spark.kinds import words


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    target = f"{tmp_path}/a/b.bin"
    with pytest.raises(RuntimeError), files.create(target) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert not files.exists(target)
    assert files.children(f"{tmp_path}/a") == []
    files.write_bytes(target, b"whole")
    assert files.read_bytes(f"file://{target}") == b"whole"
    files.delete(f"{tmp_path}/a")
    files.delete(f"{tmp_path}/a")
    assert files.children(f"{tmp_path}/a") == []


def test_hadoop_and_databricks_names_are_understood(monkeypatch):
    # Else the region of a bucket is asked for.
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert files.resolve("dbfs:/x/y")[1] == "/dbfs/x/y"
    assert files.is_local("dbfs:/x")
    assert files.is_local("relative/path")
    filesystem, path = files.resolve("s3a://bucket/key")
    assert filesystem.type_name == "s3"
    assert path == "bucket/key"


def test_the_folder_for_local_copies_is_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    own = tmp_path / f"embedall-{os.getuid()}"
    own.mkdir(mode=0o777)
    own.chmod(0o777)
    assert files.scratch("a").parent == own
    assert own.stat().st_mode & 0o777 == 0o700
    files.remove_tree(own)
    (tmp_path / "elsewhere").mkdir()
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResourceError, match=rf"{own}: the folder for local copies is a link or belongs to another"):
        files.scratch("a")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    own.unlink()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ResourceError, match="belongs to another user"):
        files.scratch("a")


SECRETS = [
    "s3://AKIA1:abc/s3cr3t+x@bucket/in", "s3a://AKIA1:s3cr3t@bucket/in", "hdfs://user:s3cr3t@host:8020/in",
    "abfss://c@a.dfs.core.windows.net/in?sv=2024&sig=s3cr3t", "gs://b/in?access_token=s3cr3t", "https://:s3cr3t@h/x",
]  # fmt: skip


@pytest.mark.parametrize("uri", SECRETS)
def test_credentials_in_uris_are_refused_and_never_shown(uri):
    with pytest.raises(ConfigError, match="holds credentials") as error:
        config.parse(words.Config, {"input": {"path": uri}, "output": {"table": "y"}})
    assert "s3cr3t" not in str(error.value)
    for use in (files.resolve, files.identifier):
        with pytest.raises(ConfigError, match="holds credentials"):
            use(uri)
    with pytest.raises(OSError, match="a URI with"):
        image_reader.read(uri, 1)
    shown = progress.Masked("%(message)s").format(logging.makeLogRecord({"msg": f"{uri} is no table"}))
    assert shown.endswith(" is no table") and "s3cr3t" not in shown
    result = embedall("words", uri, "y")
    assert result.code == 2 and "s3cr3t" not in result.log + result.output


@pytest.mark.parametrize(
    "uri",
    ["abfss://c@a.dfs.core.windows.net/x", "hdfs://host:8020/a@b", "s3://b/x?region=eu", "a:b@c"],
)
def test_what_is_no_credential_is_left_as_it_is(uri):
    assert credentials.mask(uri) == uri
    assert credentials.problem(uri) is None


def test_what_dead_processes_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    dead = files.scratch("spool", "run", "999999999-x")
    alive = files.scratch("spool", "run", f"{os.getpid()}-x")
    assert files.sweep("spool") == 1
    assert alive.exists()
    assert not dead.exists()
