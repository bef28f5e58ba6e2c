"""What is tried of a storage before a run begins, and who else writes there."""

import json
import logging
from types import SimpleNamespace

import pytest

from embedall_spark import concurrent_writers, config, files, run_heartbeat, run_manifest, storage_probe
from embedall_spark.errors import SetupError
from embedall_spark.kinds import words


def test_what_a_task_says(tmp_path):
    files.write_bytes(f"{tmp_path}/driver", b"token")
    told = storage_probe._visit
    assert told(str(tmp_path), "token") is None
    assert files.children(str(tmp_path)) == ["driver"]
    assert told(str(tmp_path), "other") == "reads something else there than was written"
    assert told(f"{tmp_path}/elsewhere", "token") == "does not find there what the driver has written"
    (tmp_path / "file").touch()
    assert told(f"{tmp_path}/file", "token").startswith("cannot use it: ")


@pytest.mark.parametrize(
    ("uri", "error", "jar"),
    [
        (
            "s3a://b/x",
            "java.lang.ClassNotFoundException: Class org.apache.hadoop.fs.s3a.S3AFileSystem not found",
            "org.apache.hadoop:hadoop-aws:3.4.2",
        ),
        (
            "abfss://c@a.dfs.core.windows.net/x",
            "Class org.apache.hadoop.fs.azurebfs.SecureAzureBlobFileSystem not found",
            "org.apache.hadoop:hadoop-azure:3.4.2",
        ),
        ("gs://b/x", 'No FileSystem for scheme "gs"', "com.google.cloud.bigdataoss:gcs-connector"),
        ("oss://b/x", 'No FileSystem for scheme "oss"', "the jar for oss://"),
        ("s3://b/x", 'No FileSystem for scheme "s3"', "write s3a://"),
    ],
)
def test_a_missing_jar_is_named(uri, error, jar):
    spark = SimpleNamespace(sql=lambda _: SimpleNamespace(collect=lambda: [("3.4.2",)]))
    found = storage_probe.missing_jar(spark, uri, Exception(error))
    assert isinstance(found, SetupError) and jar in str(found) and uri in str(found)
    assert storage_probe.missing_jar(spark, uri, Exception("Access Denied")) is None


def test_the_cause_of_a_java_stack_is_one_line():
    stack = (
        "An error occurred\n: java.io.IOException: outer\n\tat x\nCaused by: a.b.AccessDenied: 403 of s3a://b\n\tat y"
    )
    assert storage_probe._cause(stack) == "AccessDenied: 403 of s3a://b"


@pytest.mark.parametrize(
    ("table", "store", "met"),
    [
        ("s3a://lake/words", None, ["other"]),
        ("s3a://lake/words", "io.delta.storage.S3DynamoDBLogStore", []),
        ("s3a://lake/another", None, []),
        ("abfss://c@a.dfs.core.windows.net/words", None, []),
    ],
)
def test_two_runs_that_write_one_table_on_s3_are_warned(tmp_path, caplog, table, store, met):
    parsed = config.parse(words.Config, {"input": {"path": "x"}, "output": {"table": "s3a://lake/words"}})
    for run_id in ("other", "dead"):
        folder, manifest = run_manifest.begin(str(tmp_path), "words", parsed, "1", run_id)
        run_heartbeat.Heartbeat(folder, manifest["token"])._write()
    beat = next((tmp_path / "dead").glob("heartbeat-*"))
    beat.write_text(json.dumps({**json.loads(beat.read_text()), "time": 0}))
    spark = SimpleNamespace(conf=SimpleNamespace(get=lambda *_: store))
    output = parsed.output.model_copy(update={"table": table})
    with caplog.at_level(logging.WARNING):
        assert concurrent_writers.warn(spark, str(tmp_path), output, "this") == met
    assert ("S3DynamoDBLogStore" in caplog.text) == bool(met)
