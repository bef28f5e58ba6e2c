"""Events to stories through Spark: sorted, weighed, cut, and the same whatever the partitioning."""

from collections import defaultdict
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from conftest import setting

from embedall_spark.config import parse
from embedall_spark.corpus import sessionize
from embedall_spark.corpus.stories_config import StoriesConfig
from embedall_spark.errors import ConfigError
from embedall_spark.schemas import EVENTS, SEQUENCES

SEED = 5


def events(spark, rows):
    """Return (key, item, order, weight) rows as EVENTS."""
    full = [(key, item, None if order is None else Decimal(str(order)), weight, "here", None)
            for key, item, order, weight in rows]  # fmt: skip
    return spark.createDataFrame(full, EVENTS)


def assemble(spark, table, **options):
    actual = sessionize.sessionize(table, StoriesConfig(**options), SEED)
    assert actual.schema.simpleString() == SEQUENCES.simpleString()
    return {row.id: row.tokens for row in actual.collect()}


def random_rows(count=600, seed=1):
    draw = np.random.default_rng(seed)
    return [
        (f"user {draw.integers(12)}", f"item {draw.integers(9)}", int(draw.integers(100)) / 4, None)
        for _ in range(count)
    ]


def plain(rows, gap, longest):
    """Return the sessions of at most ``longest`` events, as sorted lists."""
    by_key = defaultdict(list)
    for key, item, order, _ in rows:
        by_key[key].append((order, item))
    actual = []
    for part in by_key.values():
        part.sort()
        sessions = [[part[0]]]
        for before, event in pairwise(part):
            if event[0] - before[0] > gap:
                sessions.append([])
            sessions[-1].append(event)
        actual += [[item for _, item in session] for session in sessions if 2 <= len(session) <= longest]
    return sorted(actual)


def test_sessions_against_a_plain_cut_whatever_the_partitioning(spark):
    rows = random_rows()
    table = events(spark, rows)
    actual = assemble(spark, table, session_gap=1.5)
    assert sorted(actual.values()) == plain(rows, 1.5, 1000)
    assert len(actual) > 25
    with setting(spark, "spark.sql.shuffle.partitions", "7"):
        again = assemble(spark, events(spark, rows[::-1]).repartition(5), session_gap=1.5)
    assert again == actual


def test_a_robot_neither_dominates_nor_is_lost(spark):
    with setting(spark, "spark.sql.execution.arrow.maxRecordsPerBatch", "64"):
        robot = spark.range(20_000).selectExpr(
            "'robot' key", "cast(id as string) item", "cast(id as decimal(38,6)) order", "cast(null as double) weight",
            "'here' origin", "cast(null as string) problem",
        )  # fmt: skip
        people = events(spark, [(f"user {user}", f"i{at}", at, None) for user in range(5) for at in range(3)])
        actual = assemble(spark, robot.unionByName(people), max_length=100)
        split = assemble(spark, robot.unionByName(people), max_length=100, too_long="split")
    assert sorted(map(len, actual.values())) == [3] * 5 + [100]
    (window,) = [tokens for tokens in actual.values() if len(tokens) == 100]
    first = int(window[0])
    assert first % 100 == 0 and window == [str(at) for at in range(first, first + 100)]
    # The same windows with the same ids, one of which was the sample.
    assert actual.items() <= {key: tokens for key, tokens in split.items()}.items()
    assert sorted(map(len, split.values())) == [3] * 5 + [100] * 200


def test_baskets_have_the_same_meaningless_order_each_time(spark):
    rows = [(f"basket {basket}", f"item {item}", None, None) for basket in range(8) for item in range(6)]
    actual = assemble(spark, events(spark, rows))
    assert actual == assemble(spark, events(spark, rows[::-1]).repartition(3))
    assert all(sorted(tokens) == [f"item {item}" for item in range(6)] for tokens in actual.values())
    assert len({tuple(tokens) for tokens in actual.values()}) > 4


def test_weights_are_counts_in_expectation(spark):
    rows = [("a", "twice", 1, 2.0), ("a", "never", 2, 0.0), ("a", "once", 3, None)]
    assert list(assemble(spark, events(spark, rows)).values()) == [["twice", "twice", "once"]]
    rows = [("b", f"{at}", at, 1.25) for at in range(4000)] + [("b", f"{at}", at, 0.25) for at in range(4000, 8000)]
    (tokens,) = assemble(spark, events(spark, rows), max_length=100_000).values()
    counts = np.array([tokens.count(str(at)) for at in range(0, 8000, 4)])
    assert set(counts[:1000]) == {1, 2} and set(counts[1000:]) == {0, 1}
    # Six standard deviations of 4000 draws with probability 1/4.
    assert abs(len(tokens) - 4000 - 0.25 * 8000) < 6 * (8000 * 0.25 * 0.75) ** 0.5


def test_rows_with_a_problem_are_left_out(spark):
    good = events(spark, [("a", "x", 1, None), ("a", "y", 2, None)])
    bad = spark.createDataFrame([("a", "z", None, None, "here", "no order: z")], EVENTS)
    assert list(assemble(spark, good.unionByName(bad)).values()) == [["x", "y"]]


def test_lengths_must_fit():
    with pytest.raises(ConfigError, match="min_length must not be above max_length, got 5 > 4"):
        parse(StoriesConfig, {"min_length": 5, "max_length": 4})
