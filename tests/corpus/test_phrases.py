from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from fake_run import FakeRun
from gensim.models.phrases import Phrases

from embedall_spark.corpus import encoded_pages, phrases
from embedall_spark.corpus.phrases import PhrasesConfig
from embedall_spark.corpus.tokenizer import Sequences
from embedall_spark.schemas import SEQUENCES


def corpus(count: int) -> list[list[str]]:
    """Sentences with frequent pairs and triples, repeated tokens, an underscore spelling and non-ASCII."""
    draw = random.Random(1)
    common = [
        ["new", "york"],
        ["new", "york", "city"],
        ["ha", "ha", "ha"],
        ["нью", "йорк"],
        ["서울", "시"],
        ["a", "b", "c", "d"],
    ]
    words = [f"w{number}" for number in range(60)] + ["new_york", "new", "ha", "b_c", "e\u0301"]
    sentences = []
    for _ in range(count):
        sentence: list[str] = []
        for _ in range(draw.randint(0, 6)):
            sentence += draw.choice(common) if draw.random() < 0.4 else [draw.choice(words)]
        sentences.append(sentence)
    return sentences


def by_id(df) -> list[list[str]]:
    actual = {}
    for batch in [df.toArrow()]:
        for record in batch.combine_chunks().to_batches():
            for page in encoded_pages.read(record):
                words = page.tokens.take(pa.array(page.codes)).to_pylist()
                assert page.counts.tolist() == np.bincount(page.codes, minlength=len(page.tokens)).tolist()
                assert len(set(page.tokens.to_pylist())) == len(page.tokens) and (page.counts > 0).all()
                ends = np.cumsum(page.lengths)
                for number, length, end in zip(page.ids, page.lengths, ends, strict=True):
                    actual[int(number)] = words[end - length : end]
    return [actual[key] for key in sorted(actual)]


@pytest.mark.parametrize(("passes", "min_count", "threshold", "delimiter"), [(2, 1, 0.5, "_"), (1, 3, 2.0, " + ")])
def test_same_as_gensim(spark, tmp_path, passes, min_count, threshold, delimiter):
    sentences = corpus(400)
    run = FakeRun(spark, tmp_path)
    config = PhrasesConfig(passes=passes, min_count=min_count, threshold=threshold, delimiter=delimiter)
    table = spark.createDataFrame(list(enumerate(sentences)), SEQUENCES).repartition(3)
    actual = phrases.join_phrases(run, run.stage("pages", lambda: encoded_pages.from_sequences(table)), config)

    first = Phrases(sentences, min_count=min_count, threshold=threshold, delimiter=delimiter)
    once = [first[sentence] for sentence in sentences]
    assert by_id(spark.read.parquet(run.stage_path("phrases-1"))) == once
    if passes == 2:
        second = Phrases(once, min_count=min_count, threshold=threshold, delimiter=delimiter)
        twice = [second[sentence] for sentence in once]
        assert by_id(actual) == twice
        assert any(word.count(delimiter) == 3 for sentence in twice for word in sentence)

    # Phrases and scores, against every pair of neighbors that gensim accepts.
    scores = {}
    for sentence in sentences:
        for a, b in pairwise(sentence):
            phrase, score = first.score_candidate(a, b, [])
            if score is not None:
                scores[f"{len(a.encode())} {a}{b}"] = (phrase, score)
    rows = spark.read.parquet(run.stage_path("phrases-1-accepted")).collect()
    assert {row["token"]: (row["phrase"], row["score"]) for row in rows} == scores
    assert sorted(row["id"] for row in rows) == list(range(len(rows)))


def test_no_pass_changes_nothing(spark, tmp_path):
    table = spark.createDataFrame([(1, ["a", "b"])], SEQUENCES)
    pages = encoded_pages.from_sequences(table)
    assert phrases.join_phrases(FakeRun(spark, tmp_path), pages, PhrasesConfig()) is pages


def test_pass_that_accepts_nothing(spark, tmp_path):
    sentences = [["a", "b", "c"], [], ["c"], ["b", "a"]]
    run = FakeRun(spark, tmp_path)
    pages = encoded_pages.from_sequences(spark.createDataFrame(list(enumerate(sentences)), SEQUENCES))
    assert by_id(phrases.join_phrases(run, pages, PhrasesConfig(passes=1))) == sentences


def test_keys_tell_pairs_apart():
    page = encoded_pages.encode([Sequences(np.array([1]), np.array([0, 4]), pa.array(["a", "a b", "b", "é"]))])
    first, second = phrases._halves(page, np.arange(16))
    assert len(set(phrases._keys(first, second).to_pylist())) == 16
