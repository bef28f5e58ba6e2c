"""Paths that would corrupt a result or break a run are refused before Spark starts."""

import errno
import re

import pytest

from embedall_spark import config, files, launch, path_checks, run_result
from embedall_spark.errors import ConfigError
from embedall_spark.kinds import words


def check(source, table, store="/elsewhere/mlflow.db", kind="text"):
    settings = config.parse(words.Config, {"input": {"path": source, "format": kind}, "output": {"table": table}})
    path_checks.check(settings, launch.run_root(settings.output), store)
    return settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data/sub", "dates", "in [v1]"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("file", "data/a.txt", "dates/2024-01-01 12:00.txt", "in [v1]/a.jpg"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "table", "message"),
    [
        ("data", "data/words", r"output\.table: data/words lies inside input\.path .* such as .*data/\*\.txt"),
        ("data/", "data/sub/words", "lies inside input.path"),
        ("data/*", "data/words", "is what input.path reads"),
        ("data", "data", "is what input.path reads"),
        (".", "data/words", "lies inside input.path"),
        ("in [v1]", "in [v1]/words", r"lies inside input\.path .* such as .*in \[v1\]/\*\.jpg"),
        ("s3a://bucket/in", "s3://bucket/in/words", "lies inside input.path"),
        ("data", "file/words", r"output\.table: file/words lies below .*/file, which is a file"),
    ],
)
def test_paths_that_are_refused(folder, source, table, message):
    with pytest.raises(ConfigError, match=message):
        check(source, table)


@pytest.mark.parametrize(
    ("source", "table"),
    [
        *(("data", "words"), ("data", "data-words"), ("data/*.txt", "data/words")),
        *(("in [v1]", "o"), ("in [v1]/*", "o"), ("dates", "words"), ("dates/*.txt", "words")),
    ],
)
def test_paths_that_pass(folder, source, table):
    check(source, table)


@pytest.mark.parametrize("source", ["dates", "dates/*.txt"])
def test_hadoop_reads_parquet_and_no_colons(folder, source):
    with pytest.raises(ConfigError, match=r"colon in its name: rename .*2024-01-01 12:00\.txt"):
        check(source, "words", kind="parquet")


def test_the_store_beside_the_table_is_no_input(folder):
    with pytest.raises(ConfigError, match=r"MLflow's store: .*/data/mlflow\.db lies inside input\.path"):
        check("data", "words", store=f"{folder}/data/mlflow.db")


def test_what_is_read_is_absolute_and_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    settings = check("~/data/*.txt", "~/out/words")
    assert (settings.input.path, settings.output.table) == (f"{folder}/data/*.txt", f"{folder}/out/words")
    assert check("data", "words").input.path == f"{folder}/data"
    assert check("main.db.corpus", "words").input.path == "main.db.corpus"
    assert check("s3://bucket/*.txt", "words").input.path == "s3://bucket/*.txt"


def test_a_path_that_exists_is_no_glob(folder, spark):
    assert files.spark_path(f"{folder}/*.txt") == f"{folder}/*.txt"
    assert spark.read.text(files.spark_path(f"{folder}/in [v1]")).count() == 0


@pytest.mark.parametrize("run_id", ["../x", "a b", "a/b", ".x", "", "x" * 201])
def test_a_run_id_that_is_no_folder_name(run_id):
    with pytest.raises(ConfigError, match=r"--run-id .*: need at most 200 letters, digits"):
        path_checks.check_run_id(run_id)


@pytest.mark.parametrize("run_id", [None, "night-7", "scheduled__2026-11-28T00:00:00+00:00"])
def test_a_run_id_that_a_scheduler_gives(run_id):
    path_checks.check_run_id(run_id)


def test_ids_of_runs_are_names_that_every_storage_takes():
    ids = ["night-7", "a+b", "a:b", "a=b", "a~b", "scheduled__2026-11-28T00:00:00+00:00"]
    names = [files.file_name(run_id) for run_id in ids]
    assert all(re.fullmatch(r"[\w.~-]+", name, re.ASCII) for name in names)
    assert len(set(names)) == len(ids)
    assert names[0] == "night-7"
    assert names[-1] == "scheduled__2026-11-28T00~3A00~3A00~2B00~3A00"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("java.io.IOException: No space left on device")],
)
def test_a_full_disk_is_one_sentence(tmp_path, error):
    message = str(run_result.disk_full(error, [str(tmp_path)]))
    assert message.startswith("the disk is full: ")
    assert str(tmp_path) in message
    assert run_result.disk_full(ValueError("something else"), [str(tmp_path)]) is None
