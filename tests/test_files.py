"""Files appear whole or not at all; dead processes' leftovers are swept."""

import os

import pytest

from embedall_spark import files


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


def test_hadoop_and_databricks_names_are_understood():
    assert files.resolve("dbfs:/x/y")[1] == "/dbfs/x/y"
    assert files.is_local("dbfs:/x")
    assert files.is_local("relative/path")
    filesystem, path = files.resolve("s3a://bucket/key?region=eu-west-1")
    assert filesystem.type_name == "s3"
    assert path == "bucket/key"


def test_what_dead_processes_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    dead = files.scratch("spool", "run", "999999999-x")
    alive = files.scratch("spool", "run", f"{os.getpid()}-x")
    assert files.sweep("spool") == 1
    assert alive.exists()
    assert not dead.exists()
