"""The benchmarks' arithmetic and last line, without a long run."""

import bz2
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = ["words", "published", "rotation", "ingestion"]
GRAPHS = ["walks", "nodes"]


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        *GRAPHS,
        "fixed_cost",
        "sequences",
        "hubs",
        "images",
        "search",
        "latent",
        "latent_words",
        "questions",
        "warm_start",
        "nightly",
    ],
)
def test_has_quick(load, capsys, name):
    with pytest.raises(SystemExit) as stop:
        load(name).main(["--help"])
    assert stop.value.code == 0
    assert "--quick" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_peer_or_corpus_meets_no_goal(load, capsys, monkeypatch, tmp_path, name):
    module, common = load(name), load("common")
    monkeypatch.setattr(common, "SHARED", tmp_path / "none")
    for case in ("corpus", "gensim"):
        if case == "gensim":
            monkeypatch.setitem(sys.modules, "gensim", None)
        module.main(["--quick"])
        *said, last = capsys.readouterr().out.splitlines()
        assert case in " ".join(said)
        actual = json.loads(last)
        assert list(actual) == ["benchmark", "ratios", "goals", "met"]
        assert (actual["benchmark"], actual["ratios"], actual["met"]) == (name, {}, False)
        assert actual["goals"]


@pytest.mark.parametrize("name", GRAPHS)
def test_without_pecanpy_no_goal_is_met(load, capsys, monkeypatch, tmp_path, name):
    module = load(name)
    monkeypatch.setattr(module, "PEER", tmp_path / "none")
    monkeypatch.setattr(module, "GRAPHS", tmp_path, raising=False)
    module.main(["--quick"])
    *said, last = capsys.readouterr().out.splitlines()
    assert "pecanpy" in " ".join(said)
    assert not json.loads(last)["met"]


def test_without_pictures_no_goal_is_met(load, capsys, monkeypatch, tmp_path):
    module = load("images")
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "none")
    module.main(["--quick"])
    *said, last = capsys.readouterr().out.splitlines()
    assert "no pictures" in " ".join(said)
    assert not json.loads(last)["met"]


def test_neighbors_of_pictures_are_those_of_scikit_learn(load):
    from sklearn.neighbors import NearestNeighbors

    rows = np.random.default_rng(1).normal(size=(60, 5)).astype(np.float32)
    labels = np.arange(60) % 4
    actual = load("images").neighbors(rows, labels.tolist())
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    by_distance, by_direction = (
        NearestNeighbors(n_neighbors=10).fit(points).kneighbors(return_distance=False) for points in (rows, unit)
    )
    assert actual == pytest.approx({
        "accuracy_1nn": (labels[by_distance[:, 0]] == labels).mean(),
        "accuracy_1nn_cosine": (labels[by_direction[:, 0]] == labels).mean(),
        "precision_10": (labels[by_direction] == labels[:, None]).mean(),
    })  # fmt: skip


def test_graphs_are_what_they_say(load, tmp_path):
    graphs = load("graphs")
    ends = graphs.rmat(64, 300)
    assert ends.shape == (300, 2)
    assert len({tuple(sorted(edge)) for edge in ends.tolist()}) == 300
    assert (ends[:, 0] != ends[:, 1]).all()
    graphs.write(graphs.star(10), tmp_path / "star", rows=4)
    table = pq.read_table(tmp_path / "star")
    assert (set(table["src"].to_pylist()), sorted(table["dst"].to_pylist())) == ({0}, list(range(1, 11)))
    graphs.save_for_pecanpy(ends, tmp_path / "graph.npz")
    saved = np.load(tmp_path / "graph.npz")
    assert saved["indptr"][-1] == 600
    names = saved["IDs"].astype(int)
    first = {tuple(sorted((names[0], names[at]))) for at in saved["indices"][: saved["indptr"][1]]}
    assert first == {tuple(sorted(edge)) for edge in ends.tolist() if names[0] in edge}


def test_goals_are_least_values_and_all_must_be_measured(load):
    result = load("common").result
    assert json.loads(result("x", {"a": 6.00004, "b": 1}, {"a": 6.0})) == {
        "benchmark": "x", "ratios": {"a": 6.0, "b": 1.0}, "goals": {"a": 6.0}, "met": True,
    }  # fmt: skip
    assert "\n" not in result("x", {"a": 1}, {})
    for ratios in ({"a": 5.9}, {}, {"a": float("nan")}):
        assert not json.loads(result("x", ratios, {"a": 6.0}))["met"]


def test_words_compares_medians(load):
    ours = {"words_per_second": [30.0, 10.0], "seconds": 5.0, "peak_bytes": 4, "analogy": 0.5}
    gensim = {"words_per_second": [2.0, 2.0, 8.0], "seconds": 20.0, "peak_bytes": 1, "analogy": 0.4}
    actual = {
        "ours": [ours, {**ours, "words_per_second": [20.0]}],
        "gensim": [gensim],
        "mllib": [{"words_per_second": [1.0]}],
    }
    assert load("words").compare(actual, "d100") == pytest.approx({
        "training_over_gensim_d100": 10, "training_over_mllib_d100": 20, "end_to_end_over_gensim_d100": 4,
        "memory_over_gensim_d100": 0.25, "analogy_minus_gensim_d100": 0.1,
    })  # fmt: skip


def test_rotation_compares_with_one_worker_and_with_the_kernel(load):
    def facts(training, total, analogy):
        return {
            "training_words_per_second": training, "kernel_words_per_second": 10, "words_per_second": total,
            "analogy": analogy, "ws353": 0.6, "simlex": 0.3,
        }  # fmt: skip

    actual = {1: [facts(8, 4, 0.3)], 2: [facts(5, 1, 0.2), facts(7, 3, 0.4)]}
    assert load("rotation").compare(actual) == pytest.approx({
        "training_over_kernel_w1": 0.8, "training_over_kernel_w2": 0.6, "speed_w2_over_w1": 0.5,
        "analogy_w2_minus_w1": 0, "ws353_w2_minus_w1": 0, "simlex_w2_minus_w1": 0,
    })  # fmt: skip


def test_gpu_runs_in_the_interpreter(load, capsys, monkeypatch):
    pytest.importorskip("triton")
    gpu = load("gpu")
    monkeypatch.setattr(gpu, "_TINY_SIZES", [(16, 60)])
    line = json.loads(gpu.main([]))
    assert line == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "interpreter" in line["device"] and line["met"] is False
    assert line["figures"]["kernel_error"] < 1e-5
    kinds = ("resident", "pinned", "end_to_end")
    assert all(line["figures"][f"{kind}_pairs_per_second_d16_v60"] > 0 for kind in kinds)
    # The example of the field: six contexts that share five negatives, 128 dimensions, 4.8 TB/s.
    assert gpu.trial.bound(4.8e12, 128, 6) == pytest.approx(2.34e9, rel=0.01)


def test_gpu_trains_a_corpus_as_a_worker_does(load, tmp_path):
    pytest.importorskip("triton")
    gpu, file = load("gpu"), tmp_path / "text"
    file.write_text("a b c a b c rare\n" * 6)
    words, counts, batches = gpu._encode(file, tmp_path)
    assert (words, counts.tolist()) == (["a", "b", "c", "rare"], [12, 12, 12, 6])
    for kind in ("cpu", "cuda"):
        assert np.abs(gpu._train(tmp_path, kind, counts, batches, 8, 2)).max(axis=1).min() > 0


def test_corpus_follows_the_rules_of_text8(load, monkeypatch, tmp_path):
    common, text = load("common"), tmp_path / "wiki.tsv.bz2"
    text.write_bytes(bz2.compress("1\tA\tOn 24 May, Zoë's\n2\tB\tthe\tend\n".encode()))
    monkeypatch.setattr(common, "SHARED", text)
    monkeypatch.setattr(common.user_cache, "folder", lambda _: tmp_path)
    assert common.corpus(None, None, tmp_path).read_text() == "on two four may zo s the end\n"
    file = tmp_path / "mine.txt"
    file.write_text("a b c\nd e f\ng\n")
    assert common.corpus(file, 5, tmp_path).read_text() == "a b c\nd e\n"
    assert common.corpus(file, None, tmp_path) == file
    assert common.corpus(tmp_path / "none", 5, tmp_path) is None


def test_a_process_is_measured_with_those_below_it(load):
    common = load("common")
    child = "import time; held = b'x' * 80_000_000; time.sleep(1.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('{{\"a\": 1}}')"
    actual = common.measured(common.this_python("-c", parent))
    assert actual.said == {"a": 1}
    assert 80_000_000 < actual.peak_bytes < 400_000_000
    assert actual.seconds > 1.5
    with pytest.raises(RuntimeError, match="no such thing"):
        common.measured(common.this_python("-c", "raise SystemExit('no such thing')"))
    with pytest.raises(RuntimeError):
        common.measured(common.this_python("-c", "import time; time.sleep(60)"), limit=0.5)


def test_quality_is_what_gensim_computes(load):
    models = pytest.importorskip("gensim.models")
    from gensim.test.utils import datapath

    words = dict.fromkeys(
        Path(datapath("questions-words.txt")).read_text().split("\n: capital-world")[0].lower().split()
    )
    pairs = [line.split("\t")[:2] for line in Path(datapath("wordsim353.tsv")).read_text().splitlines()[2:40]]
    names = list(dict.fromkeys([*words, *(word.lower() for pair in pairs for word in pair)]))
    vectors = models.KeyedVectors(3)
    vectors.add_vectors(names, np.random.default_rng(1).standard_normal((len(names), 3)).astype(np.float32))
    actual = load("common").quality(names, vectors.vectors)
    assert actual["analogy"] > 0
    assert actual["analogy"] == vectors.evaluate_word_analogies(datapath("questions-words.txt"))[0]
    for name, file in (("ws353", "wordsim353.tsv"), ("simlex", "simlex999.txt")):
        assert actual[name] == pytest.approx(vectors.evaluate_word_pairs(datapath(file))[1].statistic, abs=1e-6)
