from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from gensim.models import KeyedVectors
from gensim.test.utils import datapath
from vector_tables import here, table

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import word_benchmarks
from embedall_spark.evaluate.benchmark_files import pairs, questions

D = 20


def write(tmp_path, text):
    path = tmp_path / "file.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.fixture(scope="module")
def peer():
    """Vectors over the words of the files in which some analogies hold, others nearly, in three spellings."""
    rng = np.random.default_rng(8)
    score = questions(datapath("questions-words.txt"))
    first = {w: None for _, q in score[:3000] for w in q} | {
        w: None for a, b, _ in pairs(datapath("wordsim353.tsv")) for w in (a, b)
    }
    base: dict[str, np.ndarray] = {}
    for _, (a, b, c, d) in score[:3000]:
        for left, right in ((a, b), (c, d)):
            base.setdefault(left, rng.normal(size=D))
            base.setdefault(right, base[left] + np.linspace(-1, 1, D) + rng.normal(size=D) / 2)
    names = list(first)
    matrix = np.stack([base.get(w, rng.normal(size=D)) for w in names])
    names += [w.lower() for w in names[:60] if w.lower() not in first]
    matrix = np.vstack([matrix, rng.normal(size=(len(names) - len(matrix), D))]).astype(np.float32)
    order = rng.permutation(len(names))
    peer = KeyedVectors(D)
    peer.add_vectors([names[i] for i in order], matrix[order])
    return peer


@pytest.fixture(scope="module")
def vectors(spark, peer):
    return table(spark, peer.index_to_key, peer.vectors, range(len(peer), 0, -1), partitions=3).cache()


@pytest.mark.parametrize(("restrict", "insensitive"), [(300_000, True), (450, True), (300_000, False)])
def test_analogies_same_as_gensim(vectors, peer, tmp_path, restrict, insensitive):
    lines = Path(datapath("questions-words.txt")).read_text(encoding="utf-8").splitlines()
    subset = write(tmp_path, "\n".join(lines[:500] + lines[8300:8400] + [": gram-nothing", "qqq rrr sss ttt"]))
    score, sections = peer.evaluate_word_analogies(subset, restrict_vocab=restrict, case_insensitive=insensitive)
    actual = word_benchmarks.analogies(vectors, subset, restrict, insensitive)
    assert actual == word_benchmarks.analogies(here(vectors), subset, restrict, insensitive)
    assert 0 < score < 1
    assert actual.total == score
    for ours, theirs in zip(actual.sections, sections[:-1], strict=True):
        assert (ours.section, ours.right) == (theirs["section"], len(theirs["correct"]))
        assert ours.used == len(theirs["correct"]) + len(theirs["incorrect"])
    figures = actual.metrics()
    assert figures["analogy/total"] == score
    assert "analogy/gram-nothing" not in figures
    assert 0 < figures["coverage/file"] < 1


def test_semantic_and_syntactic_sections_are_told_apart():
    parts = (
        word_benchmarks.Score("family", 10, 8, 4),
        word_benchmarks.Score("currency", 10, 2, 2),
        word_benchmarks.Score("gram1-adverb", 5, 5, 1),
    )
    figures = word_benchmarks.Analogies("q", parts).metrics()
    assert figures["analogy/semantic"] == 0.6
    assert figures["analogy/syntactic"] == 0.2
    assert figures["analogy/total"] == 7 / 15
    assert figures["coverage/q"] == 15 / 25


@pytest.mark.parametrize("restrict", [300_000, 500])
def test_similarity_same_as_gensim(vectors, peer, restrict):
    file = datapath("wordsim353.tsv")
    _, spearman, unknown = peer.evaluate_word_pairs(file, restrict_vocab=restrict)
    actual = word_benchmarks.similarity(vectors, file, restrict)
    assert actual == word_benchmarks.similarity(here(vectors), file, restrict)
    assert actual.spearman == pytest.approx(spearman.statistic, abs=1e-6)
    assert 100 * (1 - actual.coverage) == pytest.approx(unknown)
    assert actual.metrics()["similarity/wordsim353"] == actual.spearman


def test_a_file_of_unknown_words_has_coverage_but_no_score(vectors, tmp_path):
    actual = word_benchmarks.similarity(vectors, write(tmp_path, "qq\tww\t1\nee\trr\t2\n"))
    assert math.isnan(actual.spearman)
    assert actual.metrics() == {"coverage/file": 0.0}
    nothing = word_benchmarks.analogies(vectors, write(tmp_path, ": a b(c)\nqq ww ee rr\n"))
    assert math.isnan(nothing.total)
    assert nothing.metrics() == {"coverage/file": 0.0}


def test_a_word_may_begin_with_a_number_sign(tmp_path):
    text = "# a comment 1 2\n## two\n#none\n#tag\tword\t5\nword\t#tag\t4\n"
    assert pairs(write(tmp_path, text)) == [("#tag", "word", 5.0), ("word", "#tag", 4.0)]
    assert questions(write(tmp_path, "# x\n#only two\n: tags\n#a #b #c #d\n")) == [("tags", ("#a", "#b", "#c", "#d"))]


def test_published_files_are_read():
    assert len(questions(str(shared("word_eval", "questions-words.txt")))) == 19544
    assert len(pairs(str(shared("word_eval", "EN-WS-353-ALL.txt")))) == 353
    assert len(pairs(str(shared("word_eval", "EN-SIMLEX-999.txt")))) == 999


@pytest.mark.parametrize(
    "text",
    [
        "# comment\nWord 1,Word 2,Human (mean)\ncat,dog,7.5\n\nщит,дым,1\n",
        "word1\tword2\tPOS\tSimLex999\tconc(w1)\r\ncat\tdog\tN\t7.5\t3\r\nщит\tдым\tN\t1\t2\r\n",
        "cat dog 7.5\nщит дым 1",
        "\ufeffcat;dog;7.5\nщит;дым;1.0\n",
    ],
)
def test_pairs_in_any_layout(tmp_path, text):
    assert pairs(write(tmp_path, text)) == [("cat", "dog", 7.5), ("щит", "дым", 1.0)]


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (pairs, "cat dog 1\ncat dog\n", "line 2: need two words and a number, found 'cat dog'"),
        (pairs, "a b c\nd e f\n", "line 2"),
        (pairs, "cat dog 1\ncat dog nan\n", "line 2"),
        (pairs, "cat\tdog\t1\n\tdog\t1\n", "line 2"),
        (pairs, b"cat dog 1\nd\xe9j\xe0 vu 2\n", "line 2: is not UTF-8"),
        (pairs, "# only\n", "no word pair"),
        (questions, ": x\na b c d\na b c\n", "line 3: need four words"),
        (questions, "a b c d\n", "line 1: a question before the first section"),
        (questions, ": x\n", "no question"),
    ],
)
def test_malformed_files_name_the_line(tmp_path, read, text, message):
    with pytest.raises(BadData, match=message):
        read(write(tmp_path, text))


def test_missing_file_is_an_error_of_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.txt: cannot be read"):
        questions(str(tmp_path / "none.txt"))
