from __future__ import annotations

import numpy as np
import pytest
from vector_tables import table

from embedall_spark.errors import ConfigError, UnknownId
from embedall_spark.search import exact

N, D = 500, 12


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors(spark, matrix):
    return table(spark, [f"w{i:03}" for i in range(N)], matrix, range(2 * N, N, -1), partitions=3).cache()


def cosines(matrix, queries):
    matrix, queries = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (matrix, queries))
    return queries @ matrix.T


def test_top_k_same_as_brute_force(vectors, matrix):
    queries = np.random.default_rng(1).normal(size=(20, D)).astype(np.float32)
    scores = cosines(matrix, queries)
    actual = exact.top_k(vectors, queries, 5)
    assert [[name for name, _ in hits] for hits in actual] == [
        [f"w{i:03}" for i in row] for row in np.argsort(-scores)[:, :5]
    ]
    np.testing.assert_allclose([[s for _, s in hits] for hits in actual], -np.sort(-scores)[:, :5], atol=1e-6)


def test_excluded_ids_make_room_for_the_next(vectors, matrix):
    order = np.argsort(-cosines(matrix, matrix[:3]))
    exclude = [{f"w{i:03}" for i in row[:4]} for row in order]
    exclude[1] = set()
    actual = exact.top_k(vectors, matrix[:3], 2, exclude=exclude)
    expected = [order[0, 4:6], order[1, :2], order[2, 4:6]]
    assert [[name for name, _ in hits] for hits in actual] == [[f"w{i:03}" for i in row] for row in expected]


def test_restrict_looks_among_the_most_frequent_only(vectors, matrix):
    actual = exact.top_k(vectors, matrix[400:401], 3, restrict=50)
    best = np.argsort(-cosines(matrix[:50], matrix[400:401]))[0, :3]
    assert [name for name, _ in actual[0]] == [f"w{i:03}" for i in best]


def test_most_frequent_cuts_ties_by_id_and_keeps_a_table_without_counts(spark):
    counted = table(spark, ["d", "c", "b", "a"], np.eye(4), [5, 5, 9, 5])
    assert {row.id for row in exact.most_frequent(counted, 3).collect()} == {"b", "a", "c"}
    bare = table(spark, ["d", "c"], np.eye(2))
    assert exact.most_frequent(bare, 1).count() == 2


def test_ties_do_not_depend_on_the_partitioning(spark):
    rng = np.random.default_rng(4)
    matrix = np.repeat(rng.normal(size=(10, D)), 30, axis=0)
    ids = [f"é{i}" for i in rng.permutation(300)]
    actual = [exact.top_k(table(spark, ids, matrix, partitions=p), matrix[:60:30], 40) for p in (1, 4)]
    assert actual[0] == actual[1]
    assert [name for name, _ in actual[0][0][:30]] == sorted(ids[:30])


def test_neighbors_leave_the_id_itself_out(vectors, matrix):
    actual = exact.neighbors(vectors, ["w007", "w003"], 4)
    for hits, row in zip(actual, (7, 3), strict=True):
        best = np.argsort(-cosines(matrix, matrix[row : row + 1]))[0, 1:5]
        assert [name for name, _ in hits] == [f"w{i:03}" for i in best]


def test_results_of_a_task_are_merged_as_they_come(spark, vectors, matrix, monkeypatch):
    original = exact._searcher  # the task's function, run here over many small batches
    monkeypatch.setattr(exact, "_MERGE_ROWS", 30)
    search = original(exact.partial(exact.block_top_k, queries=exact.unit(matrix[:6])), 3, [])
    batches = vectors.select("id", "vector").toArrow().to_batches(max_chunksize=16)
    rows = [row for batch in search(iter(batches)) for row in batch.to_pylist()]
    assert len(rows) == 18
    assert [row["id"] for row in rows[::3]] == [f"w{i:03}" for i in range(6)]


def test_fewer_ids_than_k(spark):
    assert exact.top_k(table(spark, ["b", "a"], [[1, 0], [1, 0]]), np.eye(2)[:1], 5) == [[("a", 1.0), ("b", 1.0)]]
    assert exact.top_k(table(spark, ["b", "a"], [[1, 0], [1, 0]]), np.empty((0, 2)), 5) == []


def test_fetch_returns_float32_and_names_what_is_missing(vectors, matrix):
    actual = exact.require_vectors(vectors, ["w499", "w000", "w499"])
    np.testing.assert_array_equal(actual["w499"], matrix[499])
    assert actual["w000"].dtype == np.float32
    with pytest.raises(UnknownId, match=r"'w49', 'x' are not in the table \(500 ids\)\n'w49': nearest spellings: w049"):
        exact.require_vectors(vectors, ["w001", "w49", "x", "x"])
    assert list(exact.find_vectors(vectors, ["w001", "w49", "x"])) == ["w001"]
    assert exact.find_vectors(vectors, ["x"]) == {}


def test_limits_say_what_to_do(vectors):
    with pytest.raises(ConfigError, match="96 MiB, at most 64 MiB"):
        exact.top_k(vectors, np.zeros((1 << 21, D), dtype=np.float32), 1)
    with pytest.raises(ConfigError, match="k = 0"):
        exact.top_k(vectors, np.zeros((1, D)), 0)
    with pytest.raises(ConfigError, match="need 10,000 ids or fewer"):
        exact.require_vectors(vectors, [str(i) for i in range(10_001)])


def test_queries_of_another_length_are_refused(vectors):
    with pytest.raises(ConfigError, match=f"queries have 3 dimensions, the table's vectors {D}"):
        exact.top_k(vectors, np.ones((1, 3)), 1)


def test_an_id_with_several_rows_is_found_once(spark, caplog):
    rows = [[1, 0], [1, 0.1], [1, 0.2], [1, 0.3], [0, 1]]
    vectors = table(spark, ["cat", "sheep", "sheep", "cat", "dog"], rows, partitions=1)
    assert [name for name, _ in exact.neighbors(vectors, ["cat"], 2)[0]] == ["sheep", "dog"]
    assert "several rows of some ids, such as 'sheep', and one row of each is used" in caplog.text
    assert exact.find_vectors(vectors, ["cat"])["cat"].tolist() == pytest.approx(
        exact.find_vectors(vectors.orderBy("norm"), ["cat"])["cat"].tolist()
    )
