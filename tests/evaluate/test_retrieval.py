"""Ranks against a loop over sorted scores; chance against shuffles; the whole over Spark against matrices."""

import itertools

import numpy as np
import pytest
import vector_tables

from embedall_spark.errors import ConfigError
from embedall_spark.evaluate import retrieval
from embedall_spark.schemas import PAIRS


def units(random, *shape):
    rows = random.standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def data(monkeypatch):
    # Blocks of a few queries.
    monkeypatch.setattr(retrieval, "_MAX_CELLS", 100)
    random = np.random.default_rng(7)
    left, right = units(random, 30, 5), units(random, 20, 5)
    links = np.array(
        sorted({*((a, int(b)) for a, b in enumerate(random.integers(0, 20, 30))), *((b % 30, b) for b in range(20))})
    )
    return left, right, links


@pytest.mark.parametrize("csls", [0, 4])
def test_ranks_are_those_of_a_plain_loop(data, csls):
    left, right, links = data
    actual = retrieval.ranks(left, right, links, csls=csls)
    cosines = left.astype(float) @ right.T.astype(float)
    scores = 2 * cosines - (np.sort(cosines, axis=0)[-csls:].mean(axis=0) if csls else 0)
    for query in range(30):
        order = np.argsort(-scores[query])
        partners = set(links[links[:, 0] == query, 1])
        assert actual.rank[query] == next(rank for rank, at in enumerate(order, 1) if at in partners)
        assert actual.within(5)[query] == (actual.rank[query] <= 5)


def test_equal_scores_count_as_in_every_order_that_they_may_have():
    # Two better, then three that are equal, of which some are partners.
    right = np.array([[1, 0], [1, 0.01], [1, 1], [1, 1], [1, 1], [0, 1]], np.float32)
    left = np.array([[1, 0]], np.float32)
    for partners in ([2], [2, 4], [2, 3, 4]):
        actual = retrieval.ranks(left, right, np.array([(0, at) for at in partners]))
        orders = [2 + min(order.index(at) + 1 for at in partners) for order in itertools.permutations([2, 3, 4])]
        assert actual.rank[0] == pytest.approx(np.mean(orders))
        for cut in (1, 2, 3, 4, 5, 10):
            assert actual.within(cut)[0] == pytest.approx(np.mean([rank <= cut for rank in orders]))


def test_csls_takes_hubs_down():
    random = np.random.default_rng(3)
    left = units(random, 200, 8) + np.eye(8)[0].astype(np.float32)
    right = np.vstack([left + 0.5 * units(random, 200, 8), np.eye(8, dtype=np.float32)[:1] * 3])
    links = np.array([(at, at) for at in range(200)] + [(0, 200)])
    plain, hubs = (retrieval.measure(left, right, links, csls=csls)["left_to_right/recall_1"] for csls in (0, 10))
    assert hubs > plain


def test_equal_titles_are_one_answer_and_each_of_their_pictures_is_right():
    random = np.random.default_rng(4)
    titles = units(random, 6, 8)
    of = random.integers(0, 6, 60)
    pictures = titles[of] + 0.3 * units(random, 60, 8)
    # Equal rows as different blocks of a product give them.
    noise = 1e-7 * random.standard_normal((60, 8)).astype(np.float32)
    repeated = retrieval.measure(pictures, titles[of] + noise, np.repeat(np.arange(60)[:, None], 2, axis=1))
    once = retrieval.measure(pictures, titles, np.stack([np.arange(60), of], axis=1))
    assert repeated == pytest.approx(once)
    assert (once["left_to_right/candidates"], once["right_to_left/candidates"]) == (6, 60)


def test_chance_is_that_of_shuffled_candidates(data):
    left, right, links = data
    figures = retrieval.measure(left, right, links)
    random = np.random.default_rng(5)
    several = np.bincount(links[:, 1], minlength=20)
    firsts = np.array([[random.permutation(30)[:partners].min() + 1 for partners in several] for _ in range(2000)])
    for cut in (1, 5, 10):
        assert figures[f"right_to_left/chance_recall_{cut}"] == pytest.approx((firsts <= cut).mean(), abs=0.01)
    assert figures["right_to_left/chance_mrr"] == pytest.approx((1 / firsts).mean(), abs=0.01)
    assert figures["right_to_left/candidates"] == 30
    assert retrieval.measure(left[:3], left[:3], np.array([(0, 0), (1, 1), (2, 2)]))["left_to_right/mrr"] == 1
    small = retrieval.measure(left[:3], left[:3], np.array([(0, 0), (1, 1), (2, 2)]))
    assert small["left_to_right/chance_recall_10"] == pytest.approx(1)


def test_over_spark_as_over_matrices(spark, data):
    left, right, links = data
    lefts = vector_tables.table(spark, [f"l{at:02}" for at in range(30)], left, partitions=3)
    rights = vector_tables.table(spark, [f"r{at:02}" for at in range(20)], right)
    rows = [(f"l{a:02}", f"r{b:02}", None) for a, b in links]
    pairs = spark.createDataFrame([*rows, ("gone", "r01", None), ("l01", "gone", None), rows[0]], PAIRS)
    actual = retrieval.evaluate(lefts, rights, pairs, csls=3)
    assert actual == pytest.approx(retrieval.measure(left, right, links, csls=3))
    sample = retrieval.evaluate(lefts, rights, pairs, limit=4)
    assert sample["right_to_left/candidates"] == 4
    assert sample == retrieval.evaluate(lefts.repartition(1), rights, pairs.repartition(5), limit=4)
    assert retrieval.evaluate(lefts, rights, pairs.where("left = 'gone'")) == {}
    with pytest.raises(ConfigError, match="need 1 to 10,000"):
        retrieval.evaluate(lefts, rights, pairs, limit=20_000)
