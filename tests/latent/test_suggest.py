"""Suggested titles and words, against loops over the same rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from vector_tables import table

from embedall_spark.errors import ConfigError
from embedall_spark.latent import suggest
from embedall_spark.latent.latent_model import WordDecoder
from embedall_spark.search import ann, exact_batch

TITLES = {"t:1": "red hat", "t:2": "red hat", "t:3": "red hat", "t:4": "red hat", "t:5": "blue hat", "t:6": None}
ROWS = np.array([[1, 0], [1, 0], [1, 0], [1, 0.1], [0.5, 1], [1, 0]], np.float32)


def test_a_title_is_suggested_once_and_not_by_its_own_row(spark):
    titles = spark.createDataFrame([*TITLES.items(), ("t:7", "lost")], "id string, title string")
    candidates = suggest.candidates(table(spark, list(TITLES), ROWS, partitions=3), titles)
    # Two rows of the same title and vector stay, and one of each other vector.
    assert sorted((row.id, row.title) for row in candidates.collect()) == [
        ("t:1", "red hat"), ("t:2", "red hat"), ("t:4", "red hat"), ("t:5", "blue hat"),
    ]  # fmt: skip
    for query, expected in [("t:1", [("red hat", 1.0), ("blue hat", 0.447)]), ("t:5", [("red hat", 1.0)])]:
        hits = exact_batch.search(candidates, ann.in_memory_queries([query], [[1.0, 0]]), 10, exclude_same_id=True)
        rows = suggest.titles(hits, candidates, 5).orderBy("rank").collect()
        assert [(row.text, round(row.score, 3)) for row in rows] == expected
        assert [(row.id, row.kind, row.rank) for row in rows] == [(query, "title", at + 1) for at in range(len(rows))]


def test_words_are_those_with_the_greatest_shares(spark, monkeypatch):
    random = np.random.default_rng(2)
    rows, decoder = random.normal(size=(9, 3)).astype(np.float32), random.normal(size=(3, 7)).astype(np.float32)
    mean, weights, tokens = random.random(7), 1 + random.random(7), list("abcdefg")
    monkeypatch.setattr(suggest, "_CELLS", 14)
    names = [f"r{at}" for at in range(9)]
    suggestions = suggest.words(table(spark, names, rows), WordDecoder(mean, decoder, weights), tokens, 4)
    for at, name in enumerate(names):
        scores = (mean + np.linalg.norm(rows[at].astype(float)) * (rows[at].astype(float) @ decoder)) / weights
        actual = suggestions.where(f"id = '{name}'").orderBy("rank").collect() if at in (0, 8) else []
        for row, best in zip(actual, np.argsort(-scores), strict=False):
            assert (row.text, row.score) == (tokens[best], pytest.approx(scores[best], rel=1e-5))
        assert len(actual) == (4 if at in (0, 8) else 0)
    monkeypatch.setattr(suggest, "_MATRIX_BYTES", 10)
    with pytest.raises(ConfigError, match="the decoder of 7 words has"):
        suggest.words(table(spark, names, rows), WordDecoder(mean, decoder, weights), tokens, 4)


def test_words_are_reranked_by_the_titles_that_they_share_with_a_prefix(spark, monkeypatch):
    bags = [["a", "b"], ["a", "b", "c"], ["a", "c"], ["b", "d"], ["d"], ["e"], ["e", "a"], []]
    titles = spark.createDataFrame([(str(at), bag) for at, bag in enumerate(bags)], "id string, tokens array<string>")
    counts = suggest.cooccurrence_counts(titles, ["b", "a", "z"])
    items = Counter(word for bag in bags for word in bag)
    assert counts == (8, dict(items), {w: [sum({w, g} <= set(bag) for bag in bags) for g in "baz"] for w in items})
    shares = [("d", 0.5), ("c", 0.4), ("e", 0.3), ("f", -0.1)]
    ranked = dict(suggest.rerank_by_prefix(shares, ["b", "a", "z"], counts))
    lift = ((1 + 2 / 8) / (4 * 2 / 8)) * ((2 + 2 / 8) / (5 * 2 / 8))
    assert ranked["c"] == pytest.approx(0.4 * lift ** (0.35 / 2**0.5))
    assert ranked["f"] == pytest.approx(1e-4 * (1 / 4 / 5) ** (0.35 / 2**0.5))
    assert next(iter(ranked)) == "c"
    # If no title has a word of the prefix, the order is that of the shares.
    assert suggest.rerank_by_prefix(shares[:3], ["z"], counts) == shares[:3]
    monkeypatch.setattr(suggest, "MAX_COOCCURRING", 2)
    with pytest.raises(ConfigError, match="words share a title"):
        suggest.cooccurrence_counts(titles, ["a"])
