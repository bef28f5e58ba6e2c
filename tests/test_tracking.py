"""Tracking: what reaches MLflow, that a run is resumed, and that a store that goes away stops nothing."""

import http.server
import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient
from pydantic import Field

from embedall_spark import mlflow_entries, mlflow_store, tracking, user_cache
from embedall_spark.config import Section
from embedall_spark.errors import SetupError
from embedall_spark.run_context import ServableModel, Trial


class Train(Section):
    epochs: int = 5
    note: str | None = None
    gates: dict[str, float] = Field(default_factory=dict)


class Config(Section):
    train: Train = Train()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store") / "out put"


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)


def begin(folder, **more):
    more = {"config": Config(), "experiment": None, "mlflow_run_id": None} | more
    return tracking.start("words", "run-1", folder=str(folder), **more)


def client(folder):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking.store_uri(str(folder)))


def test_a_run_and_what_it_records(folder, caplog, capfd):
    handlers, level = list(logging.root.handlers), logging.root.level
    gates = {f"мера {n}/a'b": n / 7 for n in range(120)}
    tracked = begin(folder, config=Config(train=Train(note="я" * 10_000, gates=gates)))
    for step in range(1500):
        tracked.metric("loss", 1 / (step + 1), step)
    tracked.metric("not finite", float("nan"))
    tracked.input("s3://bucket//texts", "v" * 100)
    tracked.output("main.nlp.words", 7)
    tracked.artifact("maps/слова.png", b"\x89PNG")
    tracked.finish("FINISHED")

    store = client(folder)
    run = store.get_run(tracked.id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "5"
    assert len(run.data.params) == 122
    assert run.data.params["train.note"] == "я" * 6000
    history = store.get_metric_history(tracked.id, "loss")
    assert sorted((one.step, one.value) for one in history) == [(step, 1 / (step + 1)) for step in range(1500)]
    tags = {key.removeprefix("embedall."): value for key, value in run.data.tags.items()}
    assert (tags["run_id"], tags["kind"]) == ("run-1", "words")
    assert (tags["output.table"], tags["output.version"]) == ("main.nlp.words", "7")
    assert tags["input.s3_/bucket/texts"] == "v" * 100
    assert json.loads(run.inputs.dataset_inputs[0].dataset.source) == {
        "path": "s3://bucket//texts",
        "version": "v" * 100,
    }
    assert store.get_experiment(run.info.experiment_id).name == "embedall/words"
    assert (folder / "mlflow.db").exists()
    assert next((folder / "mlartifacts").rglob("*.png")).read_bytes() == b"\x89PNG"
    # Nothing of its migrations, and our own logging as it was.
    assert not caplog.records
    assert "".join(capfd.readouterr()) == ""
    assert (logging.root.handlers, logging.root.level) == (handlers, level)


def test_resume(folder, caplog):
    first = begin(folder, experiment="mine")
    first.metric("loss", 2.0, 0)
    first.finish("KILLED")
    second = begin(folder, mlflow_run_id=first.id, config=Config(train=Train(epochs=9)))
    assert second.id == first.id
    second.metric("loss", 1.0, 1)
    second.flush(now=True)
    run = client(folder).get_run(first.id)
    assert run.info.status == "RUNNING"
    assert [one.value for one in client(folder).get_metric_history(first.id, "loss")] == [2.0, 1.0]
    assert (run.data.params["train.epochs"], run.data.tags["resumed.train.epochs"]) == ("5", "9")
    assert client(folder).get_experiment(run.info.experiment_id).name == "mine"
    assert begin(folder, mlflow_run_id="f" * 32).id != first.id
    assert "has no run ffff" in caplog.text


def test_a_deleted_experiment(folder):
    tracked = begin(folder, experiment="gone")
    client(folder).delete_experiment(client(folder).get_run(tracked.id).info.experiment_id)
    with pytest.raises(SetupError, match="experiment gone is deleted: restore it, or name another"):
        begin(folder, experiment="gone")


def children(store, parent):
    experiment = store.get_run(parent).info.experiment_id
    runs = store.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    return {run.info.run_name: run for run in runs}, len(runs)


def test_a_sweep_is_runs_under_the_run_and_a_rerun_adds_none(folder, monkeypatch):
    tracked, tried = (
        begin(folder),
        [Trial(f"try-{at}", {"k": 8 * at, "power": 0.5}, {"recall": at / 7}) for at in (1, 2)],
    )
    tracked.log_trials(tried[:1])
    set_terminated, calls = tracked._client.set_terminated, []

    def once_down(*args):
        calls.append(args)
        if len(calls) == 1:
            raise ConnectionError("refused")
        set_terminated(*args)

    # The second try is begun when the store goes away: it is gone on with, not made again.
    monkeypatch.setattr(tracked._client, "set_terminated", once_down)
    tracked.log_trials(tried)
    store = client(folder)
    assert {name: run.info.status for name, run in children(store, tracked.id)[0].items()} == {
        "try-1": "FINISHED", "try-2": "RUNNING",
    }  # fmt: skip
    tracked.flush(now=True)
    again = begin(folder, mlflow_run_id=tracked.id)
    again.log_trials(tried)
    again.finish("FINISHED")
    actual, count = children(store, tracked.id)
    assert count == len(actual) == 2
    for at in (1, 2):
        run = actual[f"try-{at}"]
        assert (run.info.status, run.data.params) == ("FINISHED", {"k": str(8 * at), "power": "0.5"})
        assert run.data.metrics == {"recall": at / 7}
    assert len(calls) == 2


def test_a_store_that_goes_away_stops_nothing(folder, caplog, monkeypatch):
    tracked = begin(folder)
    down = True
    log_batch = tracked._client.log_batch

    def sometimes(*args, **more):
        if down:
            raise ConnectionError("http://me:secret@server refused")
        log_batch(*args, **more)

    monkeypatch.setattr(tracked._client, "log_batch", sometimes)
    for step in range(3):
        tracked.metric("loss", float(step), step)
        tracked.flush(now=True)
    tracked.artifact("a.txt", b"text")
    assert caplog.text.count("does not answer; the run goes on") == 1
    assert "secret" not in caplog.text
    down = False
    tracked.flush(now=True)
    assert "answers again" in caplog.text
    assert [one.step for one in client(folder).get_metric_history(tracked.id, "loss")] == [0, 1, 2]
    assert [one.path for one in client(folder).list_artifacts(tracked.id)] == ["a.txt"]
    down = True
    tracked.metric("loss", 3.0, 3)
    tracked.finish("FINISHED")
    assert "could not record 2 entries" in caplog.text
    monkeypatch.setattr(tracked._client, "get_run", lambda _: log_batch())
    assert tracked.log_model(ServableModel("none.py", b"", {}, 2, (), "mine")) is None
    assert tracked.register() == {}
    assert "could not record the model" in caplog.text


def test_an_entry_that_mlflow_refuses_does_not_block_the_next(folder, caplog):
    tracked = begin(folder)
    tracked.metric("", 1.0)
    tracked.flush(now=True)
    tracked.metric("good", 1.0)
    tracked.finish("FINISHED")
    run = client(folder).get_run(tracked.id)
    assert (run.info.status, run.data.metrics["good"]) == ("FINISHED", 1.0)


class Broken(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(503)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def test_a_server_that_cannot_be_used_is_told_at_the_start(folder, monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}")
        with pytest.raises(
            SetupError, match=r"store http://127\.0\.0\.1:\d+ cannot be used: .*correct MLFLOW_TRACKING_URI"
        ) as e:
            begin(folder)
        server.shutdown()
    assert "secret" not in str(e.value)
    with pytest.raises(SetupError, match="cannot be used"):
        tracking.check(str(folder))


def test_where_the_store_is(tmp_path, monkeypatch):
    assert tracking.store_uri(str(tmp_path / "a")) == f"sqlite:///{tmp_path}/a/mlflow.db"
    with pytest.raises(SetupError, match=r"s3://bucket/out: an SQLite file needs a local folder.*MLFLOW_TRACKING_URI"):
        tracking.store_uri("s3://bucket/out")
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    assert tracking.store_uri("s3://bucket/out") is None
    assert tracking.default_experiment("words", "databricks") == "/Shared/embedall-words"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com")
    assert tracking.store_uri("s3://bucket/out") == "https://mlflow.example.com"


def test_names():
    assert mlflow_entries.key("loss/epoch 1") == "loss/epoch 1"
    assert mlflow_entries.key("/a//b/../c?") == "a/c_"
    assert mlflow_entries.key("мера") == "мера"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_new_store_is_a_copy_of_an_empty_one_and_never_replaces_another(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(mlflow_store.prepare, [uri] * 4))
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    client = MlflowClient(tracking_uri=uri)
    assert client.get_experiment("0").artifact_location == f"{tmp_path.as_uri()}/mlruns/0"
    run = client.create_run(client.create_experiment("own")).info.run_id
    mlflow_store.prepare(uri)
    assert client.get_run(run).info.run_id == run
    # Without a cache folder MLflow makes the file itself.
    monkeypatch.setattr(user_cache, "folder", lambda name: None)
    mlflow_store.prepare(f"sqlite:///{tmp_path}/other.db")
    assert not (tmp_path / "other.db").exists()
