"""Sequences as a user runs them: dirty events in, vectors of items out; sessions, baskets, predictions, rejects."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_runner import embedall
from conftest import setting
from fake_run import FakeRun
from vector_tables import bits

from embedall_spark import config, tables
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.kinds import sequences
from embedall_spark.schemas import EVENTS, VECTORS

pytestmark = pytest.mark.usefixtures("own_store")

TOPICS, EACH = 6, 10


def visits(users=300, length=12, seed=4):
    """Return (user, page, time) rows: a user walks round the pages of one topic, page 7 after page 6 of 10."""
    draw = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        topic, at, time = draw.integers(TOPICS), draw.integers(EACH), 1_700_000_000 + int(draw.integers(10**6))
        for _ in range(length):
            rows.append((f"u{user}", f"t{topic}/p{at}", time))
            at, time = (at + draw.choice([1, 1, 1, 2])) % EACH, time + int(draw.integers(5, 60))
    return rows


DIRTY = [
    ("", "t0/p0", "1"), ("u1", "", "1"), ("u1", "t0/p0", ""), ("u1", "t0/p0", "yesterday"), ("u1", "t0/p0", "NaN"),
]  # fmt: skip


def write(path, rows, header=("user", "page", "time")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([header, *rows])


def configure(folder, **sections):
    usual = {
        "input": {"path": f"{folder}/events/*.csv", "format": "csv", "key": "user", "item": "page", "order": "time"},
        "output": {"table": f"{folder}/output/items"},
        "vocabulary": {"min_count": 2},
        "train": {"vector_size": 16, "window": 3, "epochs": 12, "alpha": 0.05, "sample": 0, "threads": 1},
        "evaluate": {"map_items": 0, "holdout": 0.5},
    }
    for name, values in sections.items():
        usual[name] = usual.get(name, {}) | values
    (folder / "sequences.yaml").write_text(yaml.safe_dump(usual), encoding="utf-8")
    return str(folder / "sequences.yaml")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    write(folder / "events" / "a.csv", visits())
    write(folder / "events" / "b.csv", DIRTY)
    with (folder / "events" / "b.csv").open("ab") as out:
        out.write(b"u1,bad \xff,1\nu1,t0/p0\n")
    labels = [(f"t{topic}/p{page}", f"topic {topic}") for topic in range(TOPICS) for page in range(EACH)]
    write(folder / "labels.csv", labels, ("id", "label"))
    return folder


@pytest.fixture(scope="module")
def done(spark, home):
    evaluate = {"metadata": {"path": f"{home}/labels.csv"}, "map_items": 30}
    return embedall("sequences", "--config", configure(home, evaluate=evaluate), "--run-id", "night")


def test_a_run_ends_in_a_table_of_the_contract(spark, home, done):
    assert done.code == 0, done.log
    assert (done.summary["kind"], done.summary["rows"], done.summary["rejected"]) == ("sequences", TOPICS * EACH, 7)
    actual = tables.read(spark, f"{home}/output/items")
    assert actual.dtypes == [(field.name, field.dataType.simpleString()) for field in VECTORS]
    rows = {row.id: row for row in actual.collect()}
    assert {row.kind for row in rows.values()} == {"sequences"} and {len(row.vector) for row in rows.values()} == {16}
    # What is held out is not counted.
    held_out = spark.read.parquet(f"{home}/output/.runs/night/stages/" + _folder(home, "holdout")).collect()
    counts = Counter(page for _, page, _ in visits()) - Counter(row.answer for row in held_out)
    assert {name: row["count"] for name, row in rows.items()} == counts
    assert 100 < len(held_out) < 200
    assert all(len(row.context) == 3 and row.answer not in row.context for row in held_out)
    assert Path(done.summary["folder"], "artifacts", "map.png").read_bytes().startswith(b"\x89PNG")


def _folder(home, stage):
    return json.loads(Path(home, "output", ".runs", "night", "stages", f"{stage}.json").read_text())["folder"]


def test_items_that_follow_each_other_are_found(done):
    figures = done.summary["metrics"]
    # Nine of ten neighbors can be of the topic.
    assert figures["purity/neighbours"] > 0.85 > 0.3 > figures["purity/chance"]
    systems = ("next_item", "popularity", "cooccurrence")
    assert {name for name in figures if "purity" not in name} == {
        f"{system}/{kind}_{cut}" for system in systems for kind in ("hit_rate", "mrr") for cut in (10, 20)
    }
    # Of ten pages of a topic three are in the context.
    assert figures["next_item/hit_rate_10"] > 0.9 and figures["cooccurrence/hit_rate_10"] > 0.9
    assert figures["popularity/hit_rate_10"] < 0.4
    assert figures["next_item/mrr_10"] > 2 * figures["popularity/mrr_10"]


def test_what_is_wrong_with_an_event_is_told(spark, home, done):
    rows = tables.read(spark, done.summary["rejects"]).collect()
    assert sorted(row.reason for row in rows) == [
        "broken UTF-8", "no item", "no key", "no order", "not a row of this CSV",
        *["order is neither a number nor a time such as 2024-02-29 12:00:00"] * 2,
    ]  # fmt: skip
    assert all(row.origin.endswith("/b.csv") and row.record for row in rows)
    assert "u1,t0/p0" in {row.record for row in rows}


def test_the_same_table_whatever_the_files_and_partitions(spark, home, done, tmp_path):
    rows = visits()[::-1]
    for number in range(3):
        write(tmp_path / "events" / f"{number}.csv", rows[number::3])
    settings = config.load(sequences.Config, configure(tmp_path))
    with setting(spark, "spark.sql.shuffle.partitions", "5"):
        run = FakeRun(spark, tmp_path / "run")
        vectors = sequences.embed(run, sequences.read(spark, settings), settings)
        assert bits(vectors) == bits(tables.read(spark, f"{home}/output/items"))
    figures = sequences.evaluate(run, vectors, settings)
    assert figures == {name: value for name, value in done.summary["metrics"].items() if "purity" not in name}
    assert run.made == ["events", "pages", "holdout", "vocabulary-counts", "vocabulary", "blocks"]


def test_baskets(spark, tmp_path):
    """A basket's items in any order: its window is the basket."""
    draw = np.random.default_rng(1)
    rows = [
        (f"b{number}", f"t{number % TOPICS}/p{item}") for number in range(300) for item in draw.permutation(EACH)[:5]
    ]
    write(tmp_path / "events" / "a.csv", rows, ("user", "page"))
    train = {"vector_size": 16, "epochs": 12, "alpha": 0.1, "sample": 0, "threads": 1}
    file = configure(tmp_path, input={"order": None})
    loaded = config.load(sequences.Config, file)
    assert (loaded.training.window, loaded.training.shrink_windows) == (3, False)
    settings = config.load(sequences.Config, file, [f"train={train}"])
    assert (settings.training.window, settings.training.shrink_windows) == (512, False)
    shared = config.load(sequences.Config, file, [f"train={train | {'workers': 2}}", "stories.max_length=100"])
    assert (shared.training.window, shared.training.shrink_windows) == (100, False)
    run = FakeRun(spark, tmp_path / "run")
    vectors = sequences.embed(run, sequences.read(spark, settings), settings)
    figures = sequences.evaluate(run, vectors, settings)
    assert figures["next_item/hit_rate_10"] > 0.8 > 0.4 > figures["popularity/hit_rate_10"]
    assert figures["cooccurrence/hit_rate_10"] > 0.8


def test_keys_with_one_event_each_are_told(spark, tmp_path):
    alone = [(f"order {row}", "page", None, None, "here", None) for row in range(3)]
    options = {"input": {"path": "x"}, "output": {"table": "x"}}
    with pytest.raises(BadData, match=r"no story has 2 events .*set input\.key to what several events have in common"):
        sequences.embed(
            FakeRun(spark, tmp_path), spark.createDataFrame(alone, EVENTS), config.parse(sequences.Config, options)
        )


def test_wrong_configurations_end_before_spark(monkeypatch, home):
    from embedall_spark import session

    def started(*_, **__):
        raise AssertionError("Spark was started")

    monkeypatch.setattr(session, "get", started)
    file = configure(home)
    for override, message in {
        "input={path: x, format: csv}": "",
        "evaluate.gates={next_item/hit_rate_5: 1}": "evaluate.gates.next_item/hit_rate_5: no such figure .*mrr_20",
        "train.until.metric=analogy": "train.until.metric: analogy is for words",
        "stories.max_length=1": "stories.max_length: found 1",
        "evaluate.map_items=1": "evaluate.map_items: found 1: need two or more, or 0 for none",
    }.items():
        extra = ["--set", "stories.session_gap=5"] if override.startswith("input") else []
        result = embedall("sequences", "--config", file, "--set", override, *extra)
        assert result.code == 2, override
        with pytest.raises(ConfigError, match=message or r"stories.session_gap needs input.order"):
            raise ConfigError(result.log)


def test_a_dry_run_and_an_input_that_is_not_there(spark, home, tmp_path):
    result = embedall("sequences", "--config", configure(home), "--dry-run")
    assert result.code == 0, result.log
    assert result.summary["status"] == "checked" and result.summary["tokens"] > 0
    assert embedall("sequences", "--config", configure(tmp_path)).code == 3
    metadata = {"path": f"{home}/labels.csv", "label": "topic"}
    wrong = embedall("sequences", "--config", configure(home, evaluate={"metadata": metadata}), "--run-id", "never")
    assert wrong.code == 3 and "no column 'topic' (columns: id, label); set metadata.label" in wrong.log
    assert not Path(home, "output", ".runs", "never").exists()
