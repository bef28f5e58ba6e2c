"""What holds a candidate back, and the overlap of neighborhoods."""

import numpy as np
import pyarrow as pa
import pytest

from embedall_spark.publish import drift
from embedall_spark.publish.drift import Drift
from embedall_spark.publish.gates import Gates, failures

EMPTY = pa.schema({"id": pa.string(), "count": pa.int64(), "cosine": pa.float64()}).empty_table()


def moved(**values):
    facts = {"overlap": 0.8, "overlap_error": 0.01, "shared": 90, "new": 5, "lost": 10, "lost_share": 0.1}
    return Drift(**facts | {"quartiles": (0.5, 0.6, 0.7), "frequent": EMPTY} | values)


@pytest.mark.parametrize(
    ("gates", "changes", "candidate", "published", "expected"),
    [
        ({}, moved(), {"a": 0.5}, {"a": 0.509}, []),
        ({}, moved(), {"a": 0.5}, {"a": 0.52}, ["a falls from 0.5200 to 0.5000, more than 0.01 (gates.max_drop)"]),
        (
            {},
            moved(),
            {"a": float("nan")},
            {"a": 0.52},
            ["a falls from 0.5200 to nan, more than 0.01 (gates.max_drop)"],
        ),
        ({}, None, {}, {}, []),
        ({"floors": {"a": 0.3}}, None, {"a": 0.2}, {}, ["a is 0.2000, need 0.3 (gates.floors)"]),
        ({"floors": {"b": 0.3}}, None, {"a": 0.5}, {}, ["b is nan, need 0.3 (gates.floors)"]),
        ({"max_new": 0.05}, moved(), {}, {}, []),
        (
            {"max_new": 0.05},
            moved(new=6),
            {},
            {},
            ["6 ids are new beside 100 published ones, more than 5.0% (gates.max_new)"],
        ),
        ({"min_overlap": 0.9}, moved(), {}, {}, ["the neighbors' overlap is 0.800, need 0.9 (gates.min_overlap)"]),
        (
            {"max_lost": 0.05},
            moved(),
            {},
            {},
            ["10 published ids are not in it, 10.0%, more than 5.0% (gates.max_lost)"],
        ),
    ],
)
def test_sentences(gates, changes, candidate, published, expected):
    assert failures(Gates(**gates), changes, candidate, published) == expected


def test_a_baseline_stands_in_for_an_unset_overlap():
    (sentence,) = failures(Gates(), moved(), {}, {}, 0.85)
    assert sentence == "the neighbors' overlap is 0.800, need 0.85 (embedall baseline, less three standard errors)"
    assert failures(Gates(min_overlap=0.7), moved(), {}, {}, 0.85) == []


def test_overlap_by_hand(monkeypatch):
    random = np.random.default_rng(6)
    before, after = (drift.unit(random.normal(size=(40, 5)).astype(np.float32)) for _ in range(2))
    monkeypatch.setattr(drift, "_BLOCK", 7)

    def nearest(units, row):
        order = np.argsort(-(units @ units[row]))
        return {*order[order != row][:10].tolist()}

    expected = [len(nearest(before, row) & nearest(after, row)) / 10 for row in range(40)]
    np.testing.assert_allclose(drift.overlap(before, after), expected)
    np.testing.assert_array_equal(drift.overlap(before, before), 1)
    assert len(drift.overlap(before[:1], after[:1])) == 0
