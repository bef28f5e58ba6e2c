from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from vector_tables import table

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.search import ann, exact, exact_batch, faiss_exact, mapped_vectors
from embedall_spark.search.exact_kernel import block_top_k
from embedall_spark.vectors import unit

N, D = 300, 8


@pytest.fixture(scope="module")
def matrix():
    rows = np.random.default_rng(3).normal(size=(N, D)).astype(np.float32)
    rows[10:14] = rows[20]  # ties, whose order ids give
    rows[30] = 0
    rows[40] *= 1e-3  # the length does not matter
    return rows


@pytest.fixture(scope="module")
def names():
    order = np.random.default_rng(4).permutation(N)
    return [f"v{i:03}" for i in order]


@pytest.fixture(scope="module")
def vectors(spark, names, matrix):
    return table(spark, names, matrix, partitions=3).cache()


def brute(names, matrix, queries, k, exclude=()):
    """Return (id, score) of the best, by numpy in double precision and Python's sort."""
    wide = matrix.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    scores = np.divide(wide @ queries, lengths * np.linalg.norm(queries), where=lengths > 0, out=np.zeros(len(wide)))
    rounded = scores.astype(np.float32).round(6)
    pairs = [pair for pair in zip(names, rounded, strict=True) if pair[0] not in exclude]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k]


def hits(found):
    by_query = {}
    for row in found.orderBy("query", "rank").collect():
        ranked = by_query.setdefault(row["query"], [])
        ranked.append((row["id"], row["score"]))
        assert row["rank"] == len(ranked)
    return by_query


def same(found, expected):
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=2e-6)


def test_same_as_sorting_all_scores(spark, vectors, names, matrix, tmp_path):
    query_rows = [20, 10, 40, 77, 78, 79]
    queries = table(spark, [f"q{i}" for i in query_rows], matrix[query_rows] * 3)
    actual = hits(exact_batch.top_k(vectors, queries, 7, folder=str(tmp_path / "q")))
    assert len(actual) == 6
    for i in query_rows:
        same(actual[f"q{i}"], brute(names, matrix, matrix[i].astype(np.float64), 7))
    tied = [name for name, _ in actual["q20"][:5]]
    assert tied == sorted(names[i] for i in (10, 11, 12, 13, 20))


def test_a_query_need_not_find_itself(vectors, names, matrix, tmp_path):
    chosen = [names[i] for i in (5, 20, 30)]
    queries = vectors.where(vectors.id.isin(chosen))
    actual = hits(exact_batch.top_k(vectors, queries, 4, folder=str(tmp_path / "q"), exclude_same_id=True))
    for name in chosen:
        row = matrix[names.index(name)].astype(np.float64)
        if row.any():
            same(actual[name], brute(names, matrix, row, 4, {name}))
        else:
            # Nothing is nearer than anything else: the order of ids.
            assert actual[name] == [(other, 0.0) for other in sorted(set(names) - {name})[:4]]
    actual = hits(exact_batch.top_k(vectors, queries, 4, folder=str(tmp_path / "q")))
    assert actual[names[5]][0] == (names[5], pytest.approx(1))


def test_partitioning_and_spreading_change_nothing(spark, vectors, names, matrix, tmp_path, monkeypatch):
    queries = table(spark, names[:50], matrix[:50])
    first = hits(exact_batch.top_k(vectors, queries, 3, folder=str(tmp_path / "q"), exclude_same_id=True))
    # The single search by numpy gives the same to the last bit.
    alone = exact.top_k(vectors, matrix[:50], 3, exclude=[{name} for name in names[:50]])
    assert [first[name] for name in names[:50]] == alone
    monkeypatch.setattr(exact_batch, "_MIN_SPREAD", 10)
    monkeypatch.setattr(exact_batch, "QUERIES", 16)
    lopsided = vectors.where("id < 'v200'").coalesce(1).union(vectors.where("id >= 'v200'").coalesce(1))
    for other, query_table in [(vectors.repartition(7), queries.repartition(5)), (lopsided, queries.coalesce(1))]:
        again = exact_batch.top_k(other, query_table, 3, folder=str(tmp_path / "other"), exclude_same_id=True)
        assert hits(again) == first


def csls(matrix, queries, k):
    """Return 2 cos(x, y) - r(y) of each query and row, float64 [q, n], by the definition."""
    rows, units = (np.nan_to_num(one / np.linalg.norm(one, axis=1)[:, None]) for one in (matrix * 1.0, queries * 1.0))
    cosines = units @ rows.T
    return 2 * cosines - np.sort(cosines, axis=0)[-k:].mean(axis=0)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_csls_is_its_definition(spark, vectors, names, matrix, tmp_path, monkeypatch):
    rng = np.random.default_rng(8)
    # One row is near to all queries.
    query_matrix = (rng.normal(size=(40, D)) + 3 * matrix[77] / np.linalg.norm(matrix[77])).astype(np.float32)
    queries = table(spark, [f"q{i:02}" for i in range(40)], query_matrix)
    expected = csls(matrix.astype(np.float64), query_matrix.astype(np.float64), 5)
    similarity = exact_batch.mean_similarity(vectors, queries, 5, folder=str(tmp_path / "hubs"))
    actual = hits(exact_batch.top_k(vectors, queries, 6, folder=str(tmp_path / "q"), similarity=similarity))
    plain = hits(exact_batch.top_k(vectors, queries, 6, folder=str(tmp_path / "q")))
    for i in range(40):
        order = sorted(zip(names, expected[i].astype(np.float32).round(6), strict=True), key=lambda p: (-p[1], p[0]))
        same(actual[f"q{i:02}"], order[:6])
    firsts = [sum(one[0][0] == names[77] for one in each.values()) for each in (actual, plain)]
    assert firsts[0] < firsts[1]
    # In other partitions, spread, and one by one: the same to the last bit.
    monkeypatch.setattr(exact_batch, "_MIN_SPREAD", 10)
    again = exact_batch.mean_similarity(
        vectors.repartition(5), queries.repartition(1), 5, folder=str(tmp_path / "other")
    )
    assert (
        hits(exact_batch.top_k(vectors.repartition(4), queries, 6, folder=str(tmp_path / "o"), similarity=again))
        == actual
    )
    alone = exact_batch.search(vectors, ann.in_memory_queries(["q07"], query_matrix[7:8]), 6, similarity=again)
    assert hits(alone)["q07"] == actual["q07"]
    # A row does not count as near to itself.
    itself = exact_batch.mean_similarity(vectors, vectors, 3, folder=str(tmp_path / "self"), exclude_same_id=True)
    means = {row["id"]: row["similarity"] for row in itself.collect()}
    rows = unit(matrix).astype(np.float64)
    cosines = rows @ rows.T - 9 * np.eye(N)
    np.testing.assert_allclose(
        [means[name] for name in names], np.sort(cosines, axis=1)[:, -3:].mean(axis=1), atol=1e-6
    )


def test_few_rows_and_equal_query_ids(spark, tmp_path):
    vectors = table(spark, ["b", "a"], [[1, 0], [1, 0]])
    queries = table(spark, ["q", "q"], [[1, 0], [0, 1]], partitions=1)
    actual = exact_batch.top_k(vectors, queries, 5, folder=str(tmp_path / "q")).collect()
    assert sorted((r["query"], r["rank"], r["id"], r["score"]) for r in actual) == [
        ("q", 1, "a", 0.0), ("q", 1, "a", 1.0), ("q", 2, "b", 0.0), ("q", 2, "b", 1.0),
    ]  # fmt: skip


def test_what_cannot_be_asked_is_told(spark, vectors, matrix, tmp_path):
    folder = str(tmp_path / "q")
    with pytest.raises(ConfigError, match="the queries have 2 dimensions, the table's vectors 8"):
        exact_batch.top_k(vectors, table(spark, ["a"], [[1, 0]]), 3, folder=folder)
    with pytest.raises(ConfigError, match="k = 0: need 1 to"):
        exact_batch.top_k(vectors, vectors, 0, folder=folder)
    with pytest.raises(BadData, match="table of vectors is empty"):
        exact_batch.top_k(vectors.where("false"), vectors, 3, folder=folder)
    mixed = vectors.unionByName(table(spark, ["z"], [[1, 0]]))
    with pytest.raises(Exception, match="need one dimension in all of a table"):
        exact_batch.top_k(mixed, vectors, 3, folder=folder).collect()


def test_the_busiest_core():
    assert exact_batch._last([5, 5, 5], 2) == 10
    assert exact_batch._last([4, 3, 3, 2], 2) == 6
    assert exact_batch._last([7], 3) == 7


def test_rounding_hides_no_row():
    """Rows that differ less than single precision tells: the same as without faiss, ties by row."""
    rng = np.random.default_rng(6)
    neighbors = rng.normal(size=64).astype(np.float32)
    matrix = unit(
        np.concatenate([neighbors + rng.normal(size=(900, 64)) * 1e-6, rng.normal(size=(600, 64))]).astype(np.float32)
    )
    queries = unit(np.stack([neighbors, *rng.normal(size=(30, 64))]).astype(np.float32))
    rows, scores = faiss_exact.nearest(matrix, queries, 10)
    expected = block_top_k(matrix, queries, 10)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(scores, expected[1])
    self_rows = np.full(len(queries), -1)
    self_rows[0], self_rows[3] = rows[0, 0], rows[3, 2]
    without = faiss_exact.nearest(matrix, queries, 9, self_rows)[0]
    assert without[0].tolist() == rows[0, 1:].tolist()
    assert without[3].tolist() == [*rows[3, :2], *rows[3, 3:]]
    assert without[5].tolist() == rows[5, :9].tolist()


def test_rows_are_packed_in_the_order_of_ids():
    ids = ["b", "c", "a"]
    batches = [
        pa.record_batch({"id": ids[:2], "vector": pa.array([[3, 4], [0, 0]], pa.list_(pa.float32()))}),
        pa.record_batch({"id": ids[2:], "vector": pa.array([[0, 2]], pa.list_(pa.float32()))}),
        pa.record_batch({"id": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))}),
    ]
    with mapped_vectors.ordered(iter(batches), 2) as rows:
        assert rows.ids.to_pylist() == ["a", "b", "c"]
        np.testing.assert_allclose(rows.matrix, [[0, 1], [0.6, 0.8], [0, 0]], rtol=1e-6)
    with mapped_vectors.ordered(iter([]), 2) as rows:
        assert rows.matrix.shape == (0, 2)
    with pytest.raises(BadData, match="of 3 and of 2 dimensions"), mapped_vectors.ordered(iter(batches), 3):
        pass
