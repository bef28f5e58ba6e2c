"""Pipelines: what a file may say, which steps run, and a small one by the command, twice."""

import pyarrow.parquet as pq
import pytest
import toy_corpus
import yaml
from cli_runner import embedall

from embedall_spark import pipeline, start_table, tables
from embedall_spark.errors import BadData, ConfigError, Terminated
from embedall_spark.sources.text import TextConfig
from embedall_spark.train.config import TrainConfig

WORDS = {"run": "words", "input": {"path": "corpus"}, "output": {"table": "out/words"}}


def load(folder, steps, *overrides):
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
    return pipeline.load(str(file), overrides)


def test_references_files_and_overrides(tmp_path):
    (tmp_path / "words.yaml").write_text("train: {epochs: 3, window: 2}\noutput: {table: other}\n")
    steps = {
        "a": {**WORDS, "config": str(tmp_path / "words.yaml"), "train": {"epochs": 7}},
        "p": {"run": "publish", "candidate": "${a}", "to": "out/published", "gates": {"max_lost": 0.5}},
        "e": {"run": "evaluate", "table": "${p}", "similarity": ["pairs.tsv"], "floors": {"similarity/pairs": 0.2}},
        "l": {
            "run": "latent",
            "input": {"path": "${p}", "right": "${a}_other", "pairs": "pairs"},
            "output": {"table": "out/latent"},
            "depends_on": ["e"],
        },
    }
    a, p, e, latent = load(tmp_path, steps, "steps.a.train.vector_size=9")
    assert (a.config.train.epochs, a.config.train.window, a.config.train.vector_size) == (7, 2, 9)
    assert (a.table, a.depends_on) == ("out/words", ())
    assert (p.config.candidate, p.config.gates.max_lost) == ("out/words", 0.5)
    assert (p.table, p.depends_on) == ("out/published", ("a",))
    assert (e.config.table, e.depends_on) == ("out/published", ("p",))
    assert latent.config.input.right.endswith("/out/words_other")
    assert latent.depends_on == ("e", "p", "a")
    assert [step.name for step in pipeline.select([a, p], "p")] == ["p"]


def test_parameters_stand_for_names_that_differ(tmp_path):
    words = {"run": "words", "input": {"path": "${catalog}.nlp.texts"}, "output": {"table": "${catalog}.nlp.words"}}
    words["train"] = {"epochs": "${epochs}"}
    file = tmp_path / "pipeline.yaml"
    steps = {"words": words, "p": {"run": "publish", "candidate": "${words}", "to": "${catalog}.nlp.published"}}
    file.write_text(yaml.safe_dump({"parameters": {"catalog": "dev", "epochs": 3}, "steps": steps}, sort_keys=False))
    first, second = pipeline.load(str(file), ["parameters.catalog=main"])
    assert (first.table, first.config.train.epochs) == ("main.nlp.words", 3)
    assert (second.config.candidate, second.config.to) == ("main.nlp.words", "main.nlp.published")
    assert (first.depends_on, second.depends_on) == ((), ("words",))
    with pytest.raises(ConfigError, match="words is the name of a parameter and of a step"):
        pipeline.load(str(file), ["parameters.words=main"])
    with pytest.raises(ConfigError, match="refers to 'catalog'"):
        pipeline.load(str(file), ["parameters={}"])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({}, "steps: found {}"),
        ({"a b": WORDS}, "steps.a b: a step's name"),
        ({"a": {**WORDS, "run": "wrods"}}, r"steps.a.run: found 'wrods', need one of images, .*evaluate"),
        ({"a": {**WORDS, "train": {"epoch": 1}}}, r"steps.a.train.epoch: unknown key .*did you mean epochs"),
        ({"a": {**WORDS, "input": {"path": "${b}"}}, "b": WORDS}, r"refers to 'b', which is no step before this one"),
        ({"word": WORDS, "p": {"run": "publish", "candidate": "${wrod}", "to": "x"}}, "did you mean word?"),
        ({"a": {**WORDS, "depends_on": "b"}}, "depends_on: found 'b', need a list"),
        ({"a": {**WORDS, "evaluate": {"gates": {"loss": 1}}}}, "steps.a"),
    ],
)
def test_refusals(tmp_path, steps, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, steps)


def test_what_depends_on_a_failure_is_not_run(tmp_path):
    steps = {"a": WORDS, "b": WORDS, "c": {**WORDS, "depends_on": ["a"]}, "d": {**WORDS, "depends_on": ["c"]}}
    steps["e"] = {**WORDS, "depends_on": ["b"]}
    done, seen = [], {}

    def work(step, changed):
        done.append(step.name)
        seen[step.name] = changed
        if step.name in ("a", "e"):
            raise BadData("no rows") if step.name == "a" else Terminated
        return {"status": "unchanged"}

    loaded = [*load(tmp_path, steps), load(tmp_path, steps)[1]._replace(name="f")]
    results, code = pipeline.run(loaded, work, lambda error: 3 if isinstance(error, BadData) else 143)
    assert (done, code) == (["a", "b", "e"], 3)
    assert [results[name]["status"] for name in "abcdef"] == [
        "failed", "unchanged", "not run", "not run", "stopped", "not run",
    ]  # fmt: skip
    assert (results["c"]["message"], results["d"]["message"]) == ("a: failed", "c: not run")
    assert seen == {"a": False, "b": False, "e": False}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    toy_corpus.write(folder / "corpus", toy_corpus.documents(200))
    (folder / "pairs.tsv").write_text("река\tозеро\t9\nрека\t도시\t1\nпесня\tголос\t8\n")  # noqa: RUF001
    words = {
        "run": "words",
        "input": {"path": f"{folder}/corpus"},
        "output": {"table": f"{folder}/output/words", "map": True},
        "vocabulary": {"min_count": 1},
        "train": {
            "vector_size": 8, "epochs": 1, "threads": 1, "context": True, "start": f"{folder}/output/published",
        },
        "evaluate": {"map_words": 0},
    }  # fmt: skip
    steps = {
        "broken": {**words, "input": {"path": f"{folder}/absent"}, "output": {"table": f"{folder}/output/broken"}},
        "after": {"run": "publish", "candidate": "${broken}", "to": f"{folder}/output/never"},
        "words": words,
        "publish": {"run": "publish", "candidate": "${words}", "to": f"{folder}/output/published"},
        "check": {"run": "evaluate", "table": "${publish}", "similarity": [f"{folder}/pairs.tsv"]},
    }
    load(folder, steps)
    return folder / "pipeline.yaml"


def test_only_what_has_changed_runs(spark, own_store, file):
    def status(*options):
        result = embedall("pipeline", file, *options)
        steps = result.summary["steps"]
        return result, {name: steps[name]["status"] for name in steps}

    first, statuses = status("--summary", file.parent / "summary.json")
    assert first.code == 3, first.log
    # In the first night there is nothing to start from, and afterward the night is no other one for that.
    assert "there is no such table yet; this run is to be its first version" in first.log
    assert statuses == {
        "broken": "failed", "after": "not run", "words": "done", "publish": "done", "check": "done",
    }  # fmt: skip
    assert "similarity/pairs" in first.summary["steps"]["check"]["metrics"]
    assert "no such file or folder" in first.summary["steps"]["broken"]["message"]
    assert (file.parent / "summary.json").read_text().strip() == first.output.splitlines()[-1]
    again, statuses = status()
    assert list(statuses.values()) == ["failed", "not run", "unchanged", "unchanged", "unchanged"]
    kept = again.summary["steps"]["words"]
    assert kept["run_id"] == first.summary["steps"]["words"]["run_id"]
    assert "no such table yet" not in again.log
    # Places on the map are published, too, and are those of a file.
    export = embedall("export", file.parent / "output/published", file.parent / "places.parquet", "--format", "atlas")
    assert export.code == 0, export.log
    rows = pq.read_table(file.parent / "places.parquet").to_pylist()
    places = {row.id: (row.x, row.y) for row in tables.read(spark, f"{file.parent}/output/words_map").collect()}
    assert {row["id"]: (row["x"], row["y"]) for row in rows} == places
    again = embedall("pipeline", file, "--step", "words", "--set", "steps.words.train.method=glove", "--dry-run")
    assert "the table was made with train.method=sgns, and here it is glove" in again.log
    # A step alone, as a scheduler's task; nothing before it has to be run with it.
    assert status("--step", "publish")[1] == {"publish": "unchanged"}
    assert list(status("--dry-run", "--set", "steps.words.train.epochs=2")[1].values())[2:] == ["would run"] * 3


def test_only_a_run_that_makes_the_table_may_start_before_it_is_there(spark, tmp_path):
    start = f"{tmp_path}/published"
    steps = {
        "a": {**WORDS, "train": {"start": start, "alpha": 0.2}},
        "p": {"run": "publish", "candidate": "${a}", "to": f"{start}/"},
        "b": {**WORDS, "output": {"table": "out/other"}},
    }
    a, *_ = loaded = load(tmp_path, steps)
    assert [pipeline.published_as(step, loaded) for step in loaded] == [f"{start}/", None, None]
    toy_corpus.write(tmp_path / "corpus", toy_corpus.documents(3))
    first = a.config.model_copy(update={"input": TextConfig(path=f"{tmp_path}/corpus")})
    config, missing = start_table.resolve(spark, "words", "runs", first, None, f"{start}/")
    # As if it had been asked for nothing but the rate.
    assert (missing, config.train) == (start, TrainConfig(alpha=0.2))
    for publishes in (None, f"{start}-other"):
        with pytest.raises(BadData, match="no such file or folder"):
            start_table.resolve(spark, "words", "runs", first, None, publishes)
    fixed = first.model_copy(update={"train": TrainConfig(start=f"{start}@3")})
    with pytest.raises(BadData, match="no such table"):
        start_table.resolve(spark, "words", "runs", fixed, None, start)
