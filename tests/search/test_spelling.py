from __future__ import annotations

import numpy as np
import pytest
from vector_tables import table

from embedall_spark.search import spelling

IDS = {"paris": 10, "Parris": 1, "parties": 90, "parrot": 50, "london": 99, "ferris": 7, "мир": 5, "мор": 6}


@pytest.fixture(scope="module")
def vectors(spark):
    return table(spark, IDS, np.ones((len(IDS), 2)), IDS.values()).cache()


def test_other_case_first_then_fewer_edits_then_frequent_ones(vectors):
    actual = spelling.nearest(vectors, ["parris", "zzzzzzzz", "londen"])
    assert actual == {
        "parris": ["Parris", "paris", "parties", "parrot", "ferris"],
        "zzzzzzzz": [],
        "londen": ["london"],
    }
    assert spelling.nearest(vectors, ["parris"], 2) == {"parris": ["Parris", "paris"]}


def test_short_words_allow_fewer_edits(vectors):
    # Two edits away are мор and мир from any word of two letters: one is allowed.
    assert spelling.nearest(vectors, ["мы", "ми"]) == {"мы": [], "ми": ["мир"]}


def test_letters_count_not_bytes(vectors):
    assert spelling.nearest(vectors, ["мер"])["мер"] == ["мор", "мир"]


def test_text_of_the_error(vectors):
    assert str(spelling.unknown(vectors, ["pariss"])).startswith(
        "'pariss' is not in the table (8 ids); nearest spellings: paris, "
    )
    assert str(spelling.unknown(vectors, ["zzzzzzzz"])).endswith("(8 ids); nothing is spelled alike")
    lines = str(spelling.unknown(vectors, ["zzzzzzzz", "pariss"])).splitlines()
    assert lines[0] == "'zzzzzzzz', 'pariss' are not in the table (8 ids)"
    assert lines[1] == "'zzzzzzzz': nothing is spelled alike"
    assert lines[2].startswith("'pariss': nearest spellings: paris, ")
    many = [f"q{i}" for i in range(12)]
    assert "'q9' and 2 more are not in the table" in str(spelling.unknown(vectors, many))


def test_ids_without_their_kind(spark):
    vectors = table(spark, ["images:a.png", "titles:a.png", "images:a:b"], np.ones((3, 2)))
    assert str(spelling.unknown(vectors, ["a.png"])).endswith(
        "not in the table (3 ids); ids of this table begin with their kind: give images:a.png or titles:a.png"
    )
    assert str(spelling.unknown(vectors, ["a:b"])).endswith("give images:a:b")
