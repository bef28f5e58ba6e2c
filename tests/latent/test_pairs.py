"""Pairs that can be used and those that cannot; tables side by side."""

import numpy as np
import pytest
import vector_tables

from embedall_spark.errors import ConfigError
from embedall_spark.latent import pairs
from embedall_spark.latent.fit import covariance
from embedall_spark.latent.preprocessing import PLAIN, Preparation
from embedall_spark.schemas import PAIRS, REJECTS, conform


def test_every_pair_is_used_or_told_why_not(spark):
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
    told = {(row.record, row.reason) for row in conform(bad, REJECTS).collect()}
    assert told == {
        ("gone x 1.0", pairs.NO_LEFT), ("a gone 1.0", pairs.NO_RIGHT), ("a y 0.0", pairs.NO_WEIGHT),
        ("a z -1.0", pairs.NO_WEIGHT), ("b x NaN", pairs.NO_WEIGHT), ("b z Infinity", pairs.NO_WEIGHT),
    }  # fmt: skip


def test_tables_lie_beside_each_other_with_zeros_where_one_lacks_an_id(spark, monkeypatch):
    one = vector_tables.table(spark, "ab", [[4.0, 9.0], [0.0, -16.0]])
    other = vector_tables.table(spark, "bc", [[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]], partitions=3)
    found = (
        pairs.concat_vectors([one, other], [Preparation(0.5), Preparation(unit=True)])
        .toArrow()
        .sort_by("id")
        .to_pydict()
    )
    assert found["id"] == ["a", "b", "c"]
    third = 3**-0.5
    wished = [[2, 3, 0, 0, 0], [0, -4, 0.6, 0.8, 0], [0, 0, third, third, third]]
    np.testing.assert_allclose(found["vector"], wished, atol=1e-7)
    np.testing.assert_allclose(found["norm"], np.linalg.norm(wished, axis=1))
    monkeypatch.setattr(covariance, "MAX_SIZE", 4)
    with pytest.raises(ConfigError, match=r"2 \+ 3 dimensions, and the closed form takes at most 4"):
        pairs.concat_vectors([one, other], [PLAIN, PLAIN])
