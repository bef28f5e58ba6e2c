"""Runs: named, resumed, fenced, cleaned."""

import shutil
import signal

import pytest
from py4j.protocol import Py4JNetworkError
from pyspark.sql import types as T

from embedall_spark import config, files, launch, run_manifest, run_result, run_store, tables
from embedall_spark.errors import BadData, ConfigError, Superseded, Terminated
from embedall_spark.kinds.words import Config
from embedall_spark.sources import text


def settings(**train):
    return config.parse(Config, {"input": {"path": "x"}, "output": {"table": "y"}, "train": train})


def tracker(log=None):
    log = [] if log is None else log
    return run_store.Tracker(lambda *metric: log.append(metric), lambda name, content: log.append(name), "runs:/1")


def stored(spark, root, **train):
    folder, manifest = run_manifest.begin(str(root), "words", settings(**train), "v1", None)
    return run_store.StoredRun(spark, folder, manifest, settings().output, tracker())


def test_an_unfinished_run_with_equal_configuration_and_input_is_resumed(tmp_path):
    root = str(tmp_path)
    folder, first = run_manifest.begin(root, "words", settings(), "v1", None)
    again, second = run_manifest.begin(root, "words", settings(workers=2), "v1", None)  # where it trains may change
    assert again == folder
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert run_manifest.begin(root, "words", settings(epochs=9), "v1", None)[0] != folder
    assert run_manifest.begin(root, "words", settings(), "v2", None)[0] != folder
    run_manifest.note(folder, status="done")
    assert run_manifest.begin(root, "words", settings(), "v1", None)[0] != folder


def test_a_table_is_up_to_date_with_the_run_that_made_it(tmp_path, monkeypatch):
    root = str(tmp_path)
    folder, _ = run_manifest.begin(root, "words", settings(start="/t@4"), "v1", None)
    monkeypatch.setattr(run_manifest.tables, "exists", lambda *_: True)
    monkeypatch.setattr(run_manifest, "producer_of", lambda *_: {"run_folder": folder})

    def is_current(version="v1", **train):
        without_start = settings(**train | {"start": None})
        return run_manifest.current(None, "y", "words", settings(**train), version, without_start) is not None

    assert not is_current(start="/t@4")  # not finished yet
    run_manifest.note(folder, status="done")
    assert is_current(start="/t@4")
    assert is_current(start="/t")
    assert not is_current(start="/t@5")
    assert not is_current(start="/other")
    assert not is_current()
    assert not is_current("v2", start="/t")
    # It began before there was the table that it was to start from, and published it.
    folder, _ = run_manifest.begin(root, "words", settings(), "v3", None)
    run_manifest.note(folder, status="done", missing_start="/t")
    assert is_current("v3", start="/t")
    assert not is_current("v3", start="/other")
    assert not is_current("v3", start="/t", epochs=9)
    assert run_manifest.starts(root, "/t", folder.rpartition("/")[2]) == ["/t"]


def test_a_named_run_is_kept_to_its_configuration(tmp_path):
    root = str(tmp_path)
    folder, _ = run_manifest.begin(root, "words", settings(), "v1", "night-7")
    assert folder.endswith("/night-7")
    with pytest.raises(
        ConfigError,
        match=r"night-7 exists and differs \(train\.epochs: was 5, is 6\)",
    ):
        run_manifest.begin(root, "words", settings(epochs=6), "v2", "night-7")
    run_manifest.note(folder, status="done")
    for version in ("v1", "v2"):
        assert run_manifest.begin(root, "words", settings(), version, "night-7")[1]["status"] == "done"


def test_a_named_run_whose_input_has_changed_starts_anew(spark, tmp_path, caplog):
    root = str(tmp_path)
    folder, manifest = run_manifest.begin(root, "words", settings(), "v1", "a:b", {"files": []})
    run = run_store.StoredRun(spark, folder, manifest, settings().output, tracker())
    run.stage("numbers", lambda: spark.range(3))
    files.write_bytes(f"{root}/kept-1/{files.file_name('a:b')}.json", b"{}")
    assert run_manifest.named(root, "a:b", "words", settings())["snapshot"] == {"files": []}
    assert run_manifest.named(root, "a:b", "words", settings(epochs=6)) is None
    again, manifest = run_manifest.begin(root, "words", settings(), "v2", "a:b", {"files": [1]})
    assert again == folder
    assert "run a:b: its input has changed since attempt 1; it starts anew" in caplog.text
    assert (manifest["input"], manifest["restarts"], manifest["snapshot"]) == ("v2", 1, {"files": [1]})
    assert files.children(f"{root}/kept-1") == []
    with pytest.raises(Superseded):
        run.check_ownership()
    run = run_store.StoredRun(spark, folder, manifest, settings().output, tracker())
    assert run.stage("numbers", lambda: spark.range(4)).count() == 4
    # What it commits is newer than what it has committed before it started anew.
    schema = T.StructType([T.StructField("id", T.LongType(), False)])
    tables.write(spark, spark.range(3), f"{root}/t", schema, mode="overwrite", run_id="a:b")
    for _ in range(2):
        run.write_table(f"{root}/t", spark.range(4), schema, "")
    assert tables.version(spark, f"{root}/t") == tables.committed(spark, f"{root}/t", "a:b", None) == 1


def test_a_retry_reads_the_input_that_its_run_began_with(spark, tmp_path):
    """A Delta table at its version, and the files that were there; changed files are a new input."""

    def attempt(**options):
        config_now = config.parse(Config, {"input": options, "output": {"table": "y"}})
        begun = run_manifest.named(str(tmp_path / "runs"), options["format"], "words", config_now)
        source = launch._open_input(spark, "words", config_now, begun)
        _, manifest = run_manifest.begin(
            str(tmp_path / "runs"), "words", config_now, source.version, options["format"], source.snapshot
        )
        return sorted(row.text for row in text.read(spark, source.config.input).select("text").collect()), manifest[
            "restarts"
        ]

    def write(text, mode="overwrite"):
        rows = spark.createDataFrame([(text,)], "text string")
        rows.write.format("delta").mode(mode).save(str(tmp_path / "table"))

    write("one")
    table = {"path": str(tmp_path / "table"), "format": "delta", "column": "text"}
    assert attempt(**table) == (["one"], 0)
    write("two", "append")
    assert attempt(**table) == (["one"], 0)
    shutil.rmtree(tmp_path / "table")
    write("three")
    assert attempt(**table) == (["three"], 1)

    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a, b.txt").write_text("one\n")
    texts = {"path": str(tmp_path / "texts"), "format": "text"}
    assert attempt(**texts) == (["one"], 0)
    (tmp_path / "texts" / "0.txt").write_text("two\n")
    assert attempt(**texts) == (["one"], 0)
    (tmp_path / "texts" / "a, b.txt").write_text("three\n")
    assert attempt(**texts) == (["three", "two"], 1)


def test_a_stage_is_made_once(spark, tmp_path):
    run, calls = stored(spark, tmp_path), []

    def make():
        calls.append(1)
        return spark.range(3)

    assert run.stage("numbers", make).count() == run.stage("numbers", make).count() == 3
    assert calls == [1]
    assert files.children(run.stage_path("numbers"))[-1].endswith(".parquet")


def test_a_stage_that_was_cut_off_is_made_again(spark, tmp_path):
    run = stored(spark, tmp_path)
    spark.range(9).write.parquet(f"{run.folder}/stages/numbers-1")  # written, but not marked as finished
    assert run.stage("numbers", lambda: spark.range(3)).count() == 3


def test_a_superseded_driver_stops_before_it_commits(spark, tmp_path):
    old = stored(spark, tmp_path)
    new = stored(spark, tmp_path)
    assert new.folder == old.folder
    for action in (
        old.check_ownership,
        lambda: old.stage("numbers", lambda: spark.range(3)),
        lambda: old.finish("done"),
    ):
        with pytest.raises(Superseded, match=r"attempt 2, this one is 1"):
            action()
    assert not files.exists(f"{old.folder}/stages/numbers.json")
    new.stage("numbers", lambda: spark.range(3))
    new.finish("done")


def test_too_many_refused_rows_stop_the_run(spark, tmp_path):
    run = stored(spark, tmp_path)
    run.check_reject_share(1, 100)
    with pytest.raises(
        BadData, match=r"2 of 100 rows were refused, a share of 0\.0200; allowed is output\.max_reject_share=0\.01"
    ):
        # What was refused before, of the same rows, counts too.
        run.check_reject_share(1, 100)
    # To raise the share would not help.
    with pytest.raises(BadData, match="all 100 rows were refused, so that none is left to embed; correct the input"):
        run.check_reject_share(98, 100)
    with pytest.raises(BadData, match="the input has no row"):
        run.check_reject_share(0, 0)


def test_clean_keeps_the_newest_runs_and_all_manifests(spark, tmp_path):
    names = []
    for number in range(3):
        run = stored(spark, tmp_path, epochs=number + 1)
        run.stage("numbers", lambda: spark.range(3))
        run.finish("done" if number else "failed")
        names.append(run.id)
    for folder, name in (("kept-old", names[0]), ("kept-new", names[2])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.json").write_text("{}")
    assert run_manifest.clean(str(tmp_path), 1) == ([names[1], names[0]], ["kept-old"])
    assert [path.name for path in tmp_path.glob("kept-*")] == ["kept-new"]
    assert not files.exists(f"{tmp_path}/{names[0]}/stages")
    assert files.exists(f"{tmp_path}/{names[2]}/stages/numbers.json")
    assert run_manifest.read(f"{tmp_path}/{names[0]}")["status"] == "cleaned"
    assert run_manifest.clean(str(tmp_path), 1) == ([], [])
    assert run_manifest.clean(str(tmp_path), 0) == ([names[2]], ["kept-new"])
    # A cleaned run is not resumed: it would have to start over.
    assert run_manifest.begin(str(tmp_path), "words", settings(epochs=1), "v1", None)[1]["run_id"] != names[0]


def test_a_run_under_spark_submit_ends_with_it(monkeypatch):
    stopped = RuntimeError("org.apache.spark.SparkException: Job 33 cancelled because SparkContext was shut down")
    assert run_result.ended_with_spark(stopped) is None
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert isinstance(run_result.ended_with_spark(stopped), Terminated)
        assert isinstance(run_result.ended_with_spark(Py4JNetworkError("Answer from Java side is empty")), Terminated)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert run_result.ended_with_spark(BadData("no rows")) is None


@pytest.mark.parametrize(
    ("error", "status"), [(Terminated, "KILLED"), (KeyboardInterrupt, "KILLED"), (OSError, "FAILED")]
)
def test_a_run_that_is_stopped_is_killed_in_mlflow_and_resumed(tmp_path, error, status):
    class Tracked(list):
        finish = list.append

    def stop():
        raise error

    run, tracked = stored(None, tmp_path), Tracked()
    with pytest.raises(error):
        run_result.complete(run, tracked, "words", 0, stop)
    assert tracked == [status]
    assert run_manifest.unfinished(str(tmp_path), "words", settings(), "v1") == run.id
