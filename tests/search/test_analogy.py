from __future__ import annotations

import numpy as np
import pytest
from gensim.models import KeyedVectors
from vector_tables import table

from embedall_spark.errors import BadData, ConfigError, UnknownId
from embedall_spark.search import analogy, exact

N, D = 400, 10


@pytest.fixture(scope="module")
def peer():
    peer = KeyedVectors(D)
    peer.add_vectors([f"w{i}" for i in range(N)], np.random.default_rng(5).normal(size=(N, D)).astype(np.float32))
    return peer


@pytest.fixture(scope="module")
def vectors(spark, peer):
    return table(spark, peer.index_to_key, peer.vectors, range(N, 0, -1)).cache()


def questions(count):
    rng = np.random.default_rng(6)
    return [tuple(f"w{i}" for i in rng.choice(N, 3, replace=False)) for _ in range(count)]


@pytest.mark.parametrize(("method", "peers"), [("add", "most_similar"), ("mul", "most_similar_cosmul")])
def test_same_answers_as_gensim(vectors, peer, method, peers):
    analogies = questions(30)
    actual = analogy.answer(vectors, analogies, 5, method=method, epsilon=1e-6)  # gensim's epsilon
    for hits, (a, b, c) in zip(actual, analogies, strict=True):
        expected = getattr(peer, peers)(positive=[b, c], negative=[a], topn=5)
        assert [name for name, _ in hits] == [name for name, _ in expected]
        np.testing.assert_allclose([s for _, s in hits], [s for _, s in expected], rtol=2e-4)


def test_restrict_same_as_gensim(vectors, peer):
    [hits] = analogy.answer(vectors, [("w1", "w2", "w300")], 4, restrict=40)
    expected = peer.most_similar(positive=["w2", "w300"], negative=["w1"], topn=4, restrict_vocab=40)
    assert [name for name, _ in hits] == [name for name, _ in expected]


def test_many_questions_go_through_in_parts(vectors, monkeypatch):
    analogies = questions(7)
    whole = analogy.answer(vectors, analogies, 2)
    monkeypatch.setattr(exact, "MAX_QUERY_BYTES", 3 * 3 * D * 4)
    assert analogy.answer(vectors, analogies, 2) == whole


def test_unknown_word_is_named(vectors):
    with pytest.raises(UnknownId, match="'W7x' is not in the table"):
        analogy.answer(vectors, [("w1", "w2", "W7x")])


def test_any_sum_same_as_gensim(vectors, peer):
    actual = analogy.combine(vectors, ["w1", "w2", "w9"], ["w4", "w5"], 6, restrict=200)
    expected = peer.most_similar(positive=["w1", "w2", "w9"], negative=["w4", "w5"], topn=6, restrict_vocab=200)
    assert [name for name, _ in actual] == [name for name, _ in expected]
    hits = analogy.combine(vectors, ["w1"], [], 3, candidates=vectors.where("id IN ('w1', 'w3', 'w5')"))
    assert {name for name, _ in hits} == {"w3", "w5"}
    with pytest.raises(ConfigError, match="cancel each other out"):
        analogy.combine(vectors, ["w1"], ["w1"])


def test_an_id_without_direction(spark):
    vectors = table(spark, ["a", "b", "zero"], [[1, 0], [0, 1], [0, 0]])
    for ask in (lambda: analogy.answer(vectors, [("a", "b", "zero")]), lambda: analogy.combine(vectors, ["zero"], [])):
        with pytest.raises(BadData, match="the vector of 'zero' is all zeros or not finite: it has no direction"):
            ask()
