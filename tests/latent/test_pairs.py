"""Usable pairs and rejects; concatenated tables."""

import numpy as np
import pytest
import vector_tables

from embedall_spark.errors import ConfigError
from embedall_spark.latent import pairs
from embedall_spark.latent.fit import covariance
from embedall_spark.latent.preprocessing import PLAIN, Preparation
from embedall_spark.schemas import PAIRS, REJECTS, conform


def test_every_pair_is_usable_or_a_reject_with_its_reason(spark):
    left, right = (vector_tables.table(spark, names, np.ones((3, 2))) for names in ("abc", "xyz"))
    rows = [
        ("a", "x", None),
        ("b", "y", 2.0),
        ("gone", "x", 1.0),
        ("a", "gone", 1.0),
        ("a", "y", 0.0),
        ("a", "z", -1.0),
    ]
    rows += [("b", "x", float("nan")), ("b", "z", float("inf")), ("a", "x", None)]
    good, bad = pairs.check(spark.createDataFrame(rows, PAIRS), left, right)
    assert sorted(map(tuple, good.collect()), key=str) == [("a", "x", None), ("a", "x", None), ("b", "y", 2.0)]
    reasons = {(row.record, row.reason) for row in conform(bad, REJECTS).collect()}
    assert reasons == {
        ("gone x 1.0", pairs.NO_LEFT), ("a gone 1.0", pairs.NO_RIGHT), ("a y 0.0", pairs.NO_WEIGHT),
        ("a z -1.0", pairs.NO_WEIGHT), ("b x NaN", pairs.NO_WEIGHT), ("b z Infinity", pairs.NO_WEIGHT),
    }  # fmt: skip


def test_vectors_are_concatenated_with_zeros_for_missing_ids(spark, monkeypatch):
    first = vector_tables.table(spark, "ab", [[4.0, 9.0], [0.0, -16.0]])
    second = vector_tables.table(spark, "bc", [[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]], partitions=3)
    table = (
        pairs.concat_vectors([first, second], [Preparation(0.5), Preparation(unit=True)])
        .toArrow()
        .sort_by("id")
        .to_pydict()
    )
    assert table["id"] == ["a", "b", "c"]
    third = 3**-0.5
    expected = [[2, 3, 0, 0, 0], [0, -4, 0.6, 0.8, 0], [0, 0, third, third, third]]
    np.testing.assert_allclose(table["vector"], expected, atol=1e-7)
    np.testing.assert_allclose(table["norm"], np.linalg.norm(expected, axis=1))
    monkeypatch.setattr(covariance, "MAX_SIZE", 4)
    with pytest.raises(ConfigError, match=r"2 \+ 3 dimensions, and the closed form takes at most 4"):
        pairs.concat_vectors([first, second], [PLAIN, PLAIN])
