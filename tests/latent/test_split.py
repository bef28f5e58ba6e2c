"""The split: shares, near-duplicates in one part, the same for any partitioning."""

import numpy as np
import pytest
import vector_tables
from pyspark.sql import functions as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from embedall_spark.latent import near_duplicates, split
from embedall_spark.latent.split import SplitConfig


@pytest.fixture(scope="module")
def planted():
    """Return 400 ids and vectors of positive values; 60 are slightly changed copies of others, or copies of copies."""
    random = np.random.default_rng(8)
    base = np.abs(random.standard_normal((340, 24))) + 0.3
    copies = [base[at] for at in range(40)]
    for at in range(20):
        copies.append(copies[at])
    changed = np.array(copies) + 0.02 * random.standard_normal((60, 24))
    vectors = np.vstack([base, changed]).astype(np.float32)
    order = random.permutation(400)
    return [f"v{at:03d}" for at in order], vectors


def components(ids, vectors, cosine):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    links = coo_matrix(unit @ unit.T >= cosine)
    _, labels = connected_components(links)
    least = {label: min(np.array(ids)[labels == label]) for label in set(labels)}
    return {name: least[label] for name, label in zip(ids, labels, strict=True)}


def rows(df):
    table = df.toArrow().to_pydict()
    return {name: (same, part) for name, same, part in zip(table["id"], table["same"], table["part"], strict=True)}


def test_near_duplicates_are_those_of_all_pairs_and_stay_together(spark, planted):
    ids, vectors = planted
    config = SplitConfig(validation=0.2, test=0.2, same=0.995)
    actual = rows(split.split(vector_tables.table(spark, ids, vectors), config))
    expected = components(ids, vectors, 0.995)
    assert len(set(expected.values())) == 340
    assert {name: same for name, (same, _) in actual.items()} == expected
    parts = [{same for same, part in actual.values() if part == name} for name in split.PARTS]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    shares = [np.mean([part == name for _, part in actual.values()]) for name in split.PARTS]
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.07)
    reordered = split.split(vector_tables.table(spark, ids[::-1], vectors[::-1], partitions=5), config)
    assert rows(reordered) == actual


def test_equal_content_and_equal_vectors_stay_together_whatever_the_threshold(spark):
    vectors = np.eye(6, dtype=np.float32)
    vectors[4] = vectors[1]
    vectors[5] = 2 * vectors[2]
    table = vector_tables.table(spark, ["b", "c", "d", "e", "a", "f"], vectors)
    digests = F.when(F.col("id").isin("e", "b", "c"), F.lit("same")).otherwise(F.col("id"))
    actual = rows(split.split(table.withColumn("digest", digests), SplitConfig(same=1)))
    assert {name: same for name, (same, _) in actual.items()} == {
        "a": "a", "c": "a", "b": "a", "e": "a", "d": "d", "f": "f",
    }  # fmt: skip


def test_a_long_chain_is_one_component(spark):
    links = spark.createDataFrame(
        [(f"n{at:02d}", f"n{at + 1:02d}") for at in range(20) if at != 9], "a string, b string"
    )
    components = split._components(links).toArrow().to_pydict()
    assert dict(zip(components["id"], components["same"], strict=True)) == {
        f"n{at:02d}": "n00" if at < 10 else "n10" for at in range(21)
    }


def test_the_seed_decides(spark):
    table = vector_tables.table(spark, [str(at) for at in range(60)], np.random.default_rng(1).standard_normal((60, 3)))
    first, second = (rows(split.split(table, SplitConfig(test=0.5, same=1, seed=seed))) for seed in (1, 2))
    assert first != second
    with pytest.raises(ValueError, match="leave nothing to train on"):
        SplitConfig(test=0.5, validation=0.5)


def test_the_plan_finds_all_but_a_few_pairs():
    for rows_, cosine, square in ((1000, 0.98, 0.0), (10**6, 0.98, 0.0), (10**6, 0.99, 0.5)):
        agree, bits, bands = near_duplicates.plan(rows_, cosine, square)
        assert (1 - agree**bits) ** bands <= 0.011
        assert 2**bits >= min(rows_, 2**24) / 2
    assert near_duplicates.plan(10**9, 0.6, 0.0)[1:] == (24, 64)
    assert near_duplicates.plan(1, 0.98, 1.0)[2] >= 1


def test_a_bucket_that_is_too_large_is_compared_in_pieces(spark, monkeypatch):
    monkeypatch.setattr(near_duplicates, "MAX_BUCKET", 10)
    random = np.random.default_rng(1)
    vectors = np.ones((100, 8)) + 0.001 * random.standard_normal((100, 8))
    table = vector_tables.table(spark, [f"v{at:03d}" for at in range(100)], np.vstack([vectors]))
    links = near_duplicates.near_duplicates(table.select("id", "vector"), 0.99, 1).toArrow().to_pydict()
    assert 0 < len(links["a"]) < 100 * near_duplicates.NEAREST * 64
    assert all(a < b for a, b in zip(links["a"], links["b"], strict=True))
