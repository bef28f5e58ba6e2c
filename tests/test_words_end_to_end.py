"""Words as a user runs them: configuration in, table out; what is repeated, refused, asked and exported."""

# ruff: noqa: RUF001

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_runner import embedall
from fake_run import FakeRun
from gensim.models import KeyedVectors
from toy_corpus import TOPIC_OF, configure, documents, write
from vector_tables import bits

from embedall_spark import config, run_manifest, tables
from embedall_spark.errors import ConfigError
from embedall_spark.kinds import words
from embedall_spark.schemas import REJECTS, VECTORS

pytestmark = pytest.mark.usefixtures("own_store")

RUN = "scheduled__2026-11-28T00:00:00+00:00"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    write(folder / "corpus", documents())
    pairs = [("река", "озеро", 9), ("песня", "голос", 8), ("도시", "거리", 9), ("खेत", "किसान", 8), ("река", "도시", 1)]
    pairs += [("песня", "खेत", 2), ("голос", "거리", 1), ("нигде", "река", 5)]
    lines = [f"{a}\t{b}\t{score}" for a, b, score in pairs]
    (folder / "pairs.tsv").write_text("word 1\tword 2\tscore\n" + "\n".join(lines) + "\n", encoding="utf-8")
    questions = ": вода\nрека озеро берег рыба\nРека озеро волна остров\n: город\n도시 거리 시장 건물\n"
    questions += "도시 거리 нигде 건물\n"
    (folder / "questions.txt").write_text(questions, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def yaml_file(home):
    evaluate = {"similarity": [f"{home}/pairs.tsv"], "map_words": 30}
    return configure(home, f"{home}/corpus/*.txt", evaluate=evaluate, train={"context": True})


@pytest.fixture(scope="module")
def done(spark, home, yaml_file):
    return embedall("words", "--config", yaml_file, "--run-id", RUN, "--summary", home / "summary.json")


@pytest.fixture
def table(home):
    return f"{home}/output/words"


def commits(spark, table):
    return [row.run_id for row in tables.history(spark, table).orderBy("version").collect()]


def test_a_run_ends_in_a_table_of_the_contract(spark, home, done, table):
    assert done.code == 0, done.log
    summary = done.summary
    assert json.loads((home / "summary.json").read_text(encoding="utf-8")) == summary
    facts = ("status", "kind", "run_id", "table", "version", "rows", "rejected", "rejects")
    assert [summary[name] for name in facts] == ["done", "words", RUN, table, 0, len(TOPIC_OF), 0, None]
    actual = tables.read(spark, table)
    assert actual.dtypes == [(field.name, field.dataType.simpleString()) for field in VECTORS]
    rows = {row.id: row for row in actual.collect()}
    assert set(rows) == set(TOPIC_OF)
    counts = {}
    for line in documents():
        for word in line.lower().rstrip(".").split():
            counts[word] = counts.get(word, 0) + 1
    assert {name: row["count"] for name, row in rows.items()} == counts
    assert {len(row.vector) for row in rows.values()} == {len(row.context) for row in rows.values()} == {20}
    assert {(row.kind, row.run_id) for row in rows.values()} == {("words", RUN)}
    assert {row.model_uri for row in rows.values()} == {f"runs:/{summary['mlflow_run_id']}"}
    norms = [np.linalg.norm(row.vector) for row in rows.values()]
    assert np.allclose(norms, [row.norm for row in rows.values()], rtol=1e-6)
    assert "train 100%" in done.log


def test_words_of_a_topic_are_neighbors(spark, done, table):
    rows = tables.read(spark, table).collect()
    unit = np.array([row.vector for row in rows]) / np.array([[row.norm] for row in rows])
    nearest = np.argsort(-(unit @ unit.T), axis=1)[:, 1:6]
    topics = np.array([TOPIC_OF[row.id] for row in rows])
    assert (topics[nearest] == topics[:, None]).mean() > 0.95


def test_the_commit_and_the_run_name_each_other(spark, home, done, table):
    from mlflow.tracking import MlflowClient

    summary = done.summary
    metadata = json.loads(tables.history(spark, table).where("version = 0").first()["metadata"])
    assert (metadata["mlflow_run_id"], metadata["run_id"]) == (summary["mlflow_run_id"], RUN)
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/output/mlflow.db")
    run = client.get_run(summary["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert (run.data.params["train.epochs"], run.data.params["train.window"]) == ("8", "5")
    assert run.data.metrics["similarity/pairs"] == summary["metrics"]["similarity/pairs"] > 0.5
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 9))
    assert run.data.metrics["words_per_second"] > 0
    assert (run.data.tags["embedall.output.table"], run.data.tags["embedall.output.version"]) == (table, "0")
    assert run.inputs.dataset_inputs[0].dataset.name == f"{home}/corpus/*.txt"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["map.png"]
    picture = Path(summary["folder"], "artifacts", "map.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_the_same_run_again_changes_nothing(spark, yaml_file, done, table):
    again = embedall("words", "--config", yaml_file, "--run-id", RUN)
    assert again.code == 0
    assert again.summary == {**done.summary, "repeated": True}
    assert commits(spark, table) == [RUN]


def test_a_run_id_is_kept_to_its_configuration(spark, yaml_file, done, table):
    other = embedall("words", "--config", yaml_file, "--run-id", RUN, "--set", "train.epochs=4")
    assert other.code == 2
    assert f"run {RUN} exists and differs (train.epochs: was 8, is 4)" in other.log
    assert (other.summary["status"], other.summary["error"]) == ("failed", "ConfigError")
    assert commits(spark, table) == [RUN]


def test_the_same_vectors_from_other_files_from_python_and_from_a_rerun(spark, home, done, table, tmp_path):
    """To the bit: one command, one Python call, and the same documents in another order in several files."""
    glob = write(tmp_path / "corpus", documents()[::-1], files=3)
    file = configure(tmp_path, glob, output={"table": table})
    new = embedall("words", "--config", file)
    assert new.code == 0, new.log
    assert new.summary["version"] == 1
    assert commits(spark, table) == [RUN, new.summary["run_id"]]
    first = bits(tables.read(spark, table, 0))
    assert bits(tables.read(spark, table)) == first
    assert tables.read(spark, table).where("context is not null").isEmpty()
    settings = config.load(words.Config, file)
    run = FakeRun(spark, tmp_path / "plain")
    assert bits(words.embed(run, words.read(spark, settings), settings)) == first


def test_a_gate_that_fails_leaves_the_table_and_append_adds_no_id_twice(spark, home, done, table, tmp_path):
    """One run over a copy of the first run's table: each time it goes on where it stopped."""
    copy = str(shutil.copytree(table, tmp_path / "output" / "words"))
    before = commits(spark, copy)
    evaluate = {"similarity": [f"{home}/pairs.tsv"]}
    output = {"mode": "append"}
    file = configure(tmp_path, f"{home}/corpus/*.txt", output=output, evaluate=evaluate, train={"epochs": 1})
    low = embedall("words", "--config", file, "--run-id", "b", "--set", "evaluate.gates={similarity/pairs: 1.1}")
    assert low.code == 4, low.log
    assert "similarity/pairs is " in low.log and "need 1.1" in low.log
    assert f"the table {copy} was left as it is" in low.log
    assert commits(spark, copy) == before
    # With a lower gate there is nothing left to train.
    twice = embedall("words", "--config", file, "--run-id", "b")
    assert twice.code == 1, twice.log
    assert "train   0%" not in twice.log
    assert f"{len(TOPIC_OF)} of the ids to append are in the table already" in twice.log
    assert commits(spark, copy) == before
    spark.sql(f"DELETE FROM delta.`{copy}`")
    enough = embedall("words", "--config", file, "--run-id", "b")
    assert enough.code == 0, enough.log
    assert commits(spark, copy) == [*before, None, "b"]
    counts = tables.read(spark, copy).groupBy("run_id").count().collect()
    assert {row.run_id: row["count"] for row in counts} == {"b": len(TOPIC_OF)}
    unknown = embedall("words", "--config", file, "--set", "evaluate.gates={analogy/total: 0.5}")
    assert unknown.code == 2
    assert "evaluate.gates.analogy/total: no such figure" in unknown.log


def test_refused_documents_reach_their_table_or_stop_the_run(spark, tmp_path):
    glob = write(tmp_path / "corpus", documents(200))
    bad = tmp_path / "corpus" / "bad.txt"
    bad.write_bytes("река ".encode() + b"\xff\xfe\n" + b"!!! ...\n" + "озеро берег\n".encode())
    file = configure(tmp_path, glob, train={"epochs": 1}, output={"max_reject_share": 0.001})
    many = embedall("words", "--config", file)
    assert many.code == 3
    assert "rows were refused, a share of 0.0" in many.log
    assert re.search(r"; 1 of them: broken UTF-8, such as 'река .*' of \S+/bad\.txt", many.log)
    assert not tables.exists(spark, f"{tmp_path}/output/words")
    assert tables.exists(spark, f"{tmp_path}/output/words_rejects")  # so that they can be looked at
    result = embedall("words", "--config", file, "--set", "output.max_reject_share=0.05")
    assert result.code == 0, result.log
    assert result.summary["rejected"] == 1  # a line without a word is none that should have had one
    rejects = tables.read(spark, result.summary["rejects"])
    assert [field.name for field in rejects.schema] == [field.name for field in REJECTS]
    rows = rejects.orderBy("reason").collect()
    assert {row.run_id for row in rows} == {result.summary["run_id"]}
    assert [row.reason for row in rows] == ["broken UTF-8", "no token"]
    assert all(row.origin.endswith("/bad.txt") for row in rows)
    assert rows[0].record.startswith("река ") and rows[1].record == "!!! ..."


def test_wrong_configurations_end_before_spark(monkeypatch, tmp_path, home):
    from embedall_spark import session

    def started(*_, **__):
        raise AssertionError("Spark was started")

    monkeypatch.setattr(session, "get", started)
    file = configure(tmp_path, f"{home}/corpus/*.txt")
    for override, message in {
        "train.epoch=3": "train.epoch: unknown key .* did you mean epochs",
        "train.epochs=0": "train.epochs: found 0: .*greater than or equal to 1",
        "train.epochs=many": "train.epochs: found 'many'",
        "train=5": "train: ",
        "output.mode=replace": "output.mode: found 'replace'",
        "output.table=main.nlp.words": "output.run_root: required",
    }.items():
        result = embedall("words", "--config", file, "--set", override)
        assert result.code == 2, override
        assert result.summary["error"] == "ConfigError"
        with pytest.raises(ConfigError, match=message):
            raise ConfigError(result.log)
    assert embedall("words", "--config", tmp_path / "none.yaml").code == 2
    assert embedall("words", "--nonsense").code == 2
    assert embedall("nonsense").code == 2


def test_an_input_that_is_not_there(spark, tmp_path):
    result = embedall("words", "--config", configure(tmp_path, f"{tmp_path}/none/*.txt"))
    assert result.code == 3
    assert f"{tmp_path}/none/*.txt" in result.log


def test_a_dry_run_writes_nothing(spark, home, tmp_path):
    file = configure(tmp_path, f"{home}/corpus/*.txt")
    result = embedall("words", "--config", file, "--dry-run", "--summary", tmp_path / "summary.json")
    assert result.code == 0, result.log
    assert result.summary["status"] == "checked"
    assert result.summary["input_bytes"] == sum(path.stat().st_size for path in (home / "corpus").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.json", "words.yaml"]
    slots = embedall("words", "--config", file, "--dry-run", "--set", "train.workers=64")
    assert slots.code == 1
    assert "train.workers=64 needs 64 task slots" in slots.log


def test_a_table_that_must_not_exist_is_noticed_before_the_work(spark, yaml_file, done, table, home):
    before = commits(spark, table)
    result = embedall("words", "--config", yaml_file, "--set", "output.mode=error", "--run-id", "refused")
    assert result.code == 1
    assert f"{table}: the table exists" in result.log
    assert commits(spark, table) == before
    assert not (home / "output" / ".runs" / "refused" / "stages").exists()


def test_a_table_in_a_catalog_and_a_run_killed_after_its_commit_that_only_has_to_say_so(spark, home, tmp_path):
    from mlflow.tracking import MlflowClient

    name = "spark_catalog.default.words_end_to_end"
    output = {"table": name, "run_root": f"{tmp_path}/runs", "mode": "error"}
    file = configure(tmp_path, f"{home}/corpus/*.txt", output=output, train={"epochs": 1})
    try:
        first = embedall("words", "--config", file)
        assert first.code == 0, first.log
        assert spark.table(name).count() == len(TOPIC_OF)
        assert embedall("evaluate", name, "--similarity", home / "pairs.tsv").code == 0
        client = MlflowClient(tracking_uri=first.summary["mlflow_uri"])
        assert "similarity/pairs" in client.get_run(first.summary["mlflow_run_id"]).data.metrics
        run_manifest.note(first.summary["folder"], status="running")
        again = embedall("words", "--config", file)
        assert again.code == 0, again.log
        assert (again.summary["run_id"], again.summary["version"]) == (first.summary["run_id"], 0)
        assert commits(spark, name) == [first.summary["run_id"]]
        assert json.loads(Path(first.summary["folder"], "manifest.json").read_text())["attempt"] == 2
        assert "the table exists" in embedall("words", "--config", file).log
    finally:
        spark.sql(f"DROP TABLE IF EXISTS {name}")


def test_similar_and_analogy(done, table):
    result = embedall("similar", table, "река", "도시", "-n", 5)
    assert result.code == 0, result.log
    blocks = [block.splitlines() for block in result.output.split("\n\n")]
    assert [block[0] for block in blocks] == ["река", "도시"]
    for (_, *lines), topic in zip(blocks, ("water", "city"), strict=True):
        assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5"]
        for line in lines:
            _, neighbor, cosine = line.split()
            assert TOPIC_OF[neighbor] == topic
            assert 0 < float(cosine) <= 1
    for method in ((), ("--mul",)):
        result = embedall("analogy", table, "река", "озеро", "берег", "-n", 3, *method)
        assert result.code == 0, result.log
        assert len(result.output.splitlines()) == 4
    restricted = embedall("similar", table, "река", "-n", 3, "--restrict-vocab", 10)
    assert restricted.code == 0


def test_an_unknown_word_offers_spellings(done, table):
    result = embedall("similar", table, "мелодии")
    assert result.code == 1
    assert "'мелодии' is not in the table" in result.log
    assert "nearest spellings: мелодия" in result.log
    result = embedall("similar", table, "мелодии", "река", "-n", 2)
    assert result.code == 1
    assert result.output.splitlines()[0] == "река"
    assert embedall("analogy", table, "река", "озеро", "qqqqqq").code == 1
    assert "there is no such table" in embedall("similar", f"{table}-none", "река").log


def test_evaluate_adds_its_figures_to_the_run(home, done, table):
    from mlflow.tracking import MlflowClient

    arguments = ["--analogies", home / "questions.txt", "--similarity", home / "pairs.tsv"]
    result = embedall("evaluate", table, *arguments)
    assert result.code == 0, result.log
    lines = {line.split()[0]: line.split()[1:] for line in result.output.splitlines()}
    assert lines["вода"][1:] == ["2", "2"]
    assert lines["город"][1:] == ["1", "2"]
    assert lines["pairs"][2:] == ["7", "8"]
    assert float(lines["pairs"][1]) > 0.5
    run_id = json.loads(Path(done.summary["folder"], "manifest.json").read_text())["mlflow_run_id"]
    metrics = MlflowClient(tracking_uri=f"sqlite:///{home}/output/mlflow.db").get_run(run_id).data.metrics
    assert "similarity/pairs" in metrics
    assert embedall("evaluate", table).code == 2
    assert embedall("evaluate", table, "--analogies", home / "none.txt").code == 2
    assert embedall("evaluate", table, "--analogies", home / "pairs.tsv").code == 3


@pytest.mark.parametrize("binary", [False, True])
def test_export_and_import(spark, done, table, tmp_path, binary):
    target = tmp_path / "слова.vec"
    assert embedall("export", table, target, *(["--binary"] if binary else [])).code == 0
    loaded = KeyedVectors.load_word2vec_format(str(target), binary=binary)
    ours = {row.id: row for row in tables.read(spark, table).collect()}
    assert set(loaded.key_to_index) == set(ours)
    assert all(np.allclose(loaded[name], row.vector, rtol=1e-6) for name, row in ours.items())
    back = f"{tmp_path}/back"
    result = embedall("import", target, back)
    assert result.code == 0, result.log
    assert "version 0, 20 dimensions" in result.output
    assert bits(tables.read(spark, back)) == bits(tables.read(spark, table))
    if not binary:
        assert embedall("import", target, back).code == 1
        assert embedall("import", target, back, "--mode", "overwrite").code == 0
        assert embedall("similar", back, "река", "-n", 2).code == 0


def test_clean_removes_what_old_runs_left(home, done):
    root = home / "output" / ".runs"
    latest = sorted(run_manifest.every(str(root)), key=lambda run: run["created"])[-1]["run_id"]
    result = embedall("clean", root, "--keep", 1)
    assert result.code == 0, result.log
    for folder in root.iterdir():
        assert (folder / "stages").exists() == (folder.name == latest)
        assert (folder / "manifest.json").exists()


def test_config_lists_every_option_and_a_template_to_start_from(tmp_path):
    shown = embedall("config", "words")
    assert shown.code == 0
    assert "train.vector_size" in shown.output
    template = embedall("config", "words", "--yaml").output
    data = yaml.safe_load(template.replace("???", "x"))
    assert config.parse(words.Config, data) == config.parse(
        words.Config, {"input": {"path": "x"}, "output": {"table": "x"}}
    )
    assert embedall("config", "nonsense").code == 2
    assert embedall("version").code == embedall("--help").code == 0
