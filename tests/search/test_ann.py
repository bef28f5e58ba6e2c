from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from vector_tables import table

from embedall_spark.errors import BadData, TableError
from embedall_spark.search import ann, exact, faiss_part

N, D = 3000, 16


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(8)
    centers = rng.normal(size=(60, D))
    rows = centers[rng.integers(0, 60, N)] + 0.4 * rng.normal(size=(N, D))
    rows[100] = rows[7]
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def names():
    return [f"v{i:04}" for i in np.random.default_rng(4).permutation(N)]


@pytest.fixture(scope="module")
def vectors(spark, names, matrix):
    return table(spark, names, matrix, partitions=3).cache()


@pytest.fixture(scope="module")
def index(vectors, tmp_path_factory):
    """Return the folder of an index with lists, and its manifest."""
    folder = str(tmp_path_factory.mktemp("index") / "of it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ann, "SAMPLE", 200)
        return folder, ann.build(vectors, folder, table="words", version="x@3", parts=2, small=100, seed=5)


def found(frame):
    by_query = {}
    for row in frame.orderBy("query", "rank").collect():
        by_query.setdefault(row["query"], []).append((row["id"], row["score"]))
    return by_query


def test_recall_on_clusters_is_what_the_manifest_says(spark, vectors, names, matrix, index):
    folder, manifest = index
    lists = faiss_part.lists(N // 2, 100)
    assert 1 <= manifest.probes < lists / 3, "else nothing is gained"
    assert manifest.recall >= 0.95
    assert (manifest.rows, manifest.d, manifest.modulus, manifest.parts) == (N, D, 2, (0, 1))
    query_rows = range(500, 800)
    source = ann.in_memory_queries([names[i] for i in query_rows], matrix[query_rows])
    got = found(ann.search(spark, folder, ann.load(folder, "x@3"), source, 10, exclude_same_id=True))
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    hit = 0
    for i in query_rows:
        scores = units @ units[i]
        scores[i] = -9
        best = {names[j] for j in np.argsort(-scores)[:10]}
        hits = got[names[i]]
        hit += len(best & {name for name, _ in hits})
        assert len(hits) == 10
        for name, score in hits:
            assert score == pytest.approx(scores[names.index(name)], abs=1e-5)
        assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)
    assert hit / 3000 >= 0.93


def test_all_lists_give_the_exact_neighbors(spark, vectors, names, matrix, index):
    folder, manifest = index
    whole = manifest.model_copy(update={"probes": 10_000})
    query_ids = [names[7], names[100], *names[200:210]]
    source = ann.in_memory_queries(query_ids, matrix[[7, 100, *range(200, 210)]])
    got = found(ann.search(spark, folder, whole, source, 5, exclude_same_id=True))
    for name, hits in zip(query_ids, exact.neighbors(vectors, query_ids, 5), strict=True):
        assert [other for other, _ in got[name]] == [other for other, _ in hits]


def test_only_some_ids(spark, vectors, names, matrix, index):
    folder, manifest = index
    subset = vectors.where("id < 'v0030'")
    got = found(ann.search(spark, folder, manifest, ann.in_memory_queries(["q"], matrix[:1]), 40, subset=subset))
    [expected] = exact.top_k(subset, matrix[:1], 40)
    # With so few rows all lists are looked into.
    assert [name for name, _ in got["q"]] == [name for name, _ in expected]
    assert len(expected) == 30
    one = vectors.where(vectors.id == names[3])
    alone = ann.search(spark, folder, manifest, ann.in_memory_queries(["q"], matrix[:1]), 4, subset=one)
    assert [name for name, _ in found(alone)["q"]] == [names[3]]
    assert not found(
        ann.search(spark, folder, manifest, ann.in_memory_queries(["q"], matrix[:1]), 4, subset=vectors.where("false"))
    )


def test_small_parts_are_searched_whole_and_partitioning_changes_nothing(spark, vectors, names, matrix, tmp_path):
    built = []
    for turn, rows in enumerate((vectors, vectors.repartition(5))):
        folder = str(tmp_path / str(turn))
        manifest = ann.build(rows.where("id < 'v0500'"), folder, table="t", version="x@1", parts=2, small=100, seed=5)
        got = found(ann.search(spark, folder, manifest, ann.in_memory_queries(["q"], matrix[:1]), 20))
        parts = [path.read_bytes() for path in sorted(Path(folder, manifest.build).glob("*.faiss"))]
        built.append((manifest.recall, manifest.probes, got, parts))
    assert built[0] == built[1]
    flat = ann.build(vectors.where("id < 'v0050'"), str(tmp_path / "flat"), table="t", version="x@1", parts=4)
    assert (flat.recall, flat.probes) == (1, 1)


def test_a_stale_index_is_refused(index, tmp_path):
    folder, _ = index
    with pytest.raises(TableError, match="of version 3 of words, the table is at version 4; build it with: embedall "):
        ann.load(folder, "x@4")
    with pytest.raises(TableError, match="of version 3 of words, the table is at version 3, and is another one or was"):
        ann.load(folder, "y@3")
    with pytest.raises(TableError, match="holds no index; build it with"):
        ann.load(str(tmp_path / "none"), "x@3")
    (tmp_path / "manifest.json").write_text('{"table": "x"}')
    with pytest.raises(TableError, match="is not an index manifest"):
        ann.load(str(tmp_path), "x@3")


def test_a_rebuild_that_is_ended_changes_nothing_and_one_that_ends_leaves_one_build(
    spark, vectors, matrix, tmp_path, monkeypatch
):
    folder = str(tmp_path / "index")
    subset = vectors.where("id < 'v0100'")

    def killed(*_):
        raise KeyboardInterrupt

    # Killed by force: what it wrote is still there, and no manifest.
    with monkeypatch.context() as patch:
        patch.setattr(ann, "_tuned", killed)
        patch.setattr(ann.files, "delete", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            ann.build(subset, folder, table="t", version="x@1", parts=1)
    with pytest.raises(TableError, match="holds an unfinished index"):
        ann.load(folder, "x@1")
    first = ann.build(subset, folder, table="t", version="x@1", parts=1)
    with monkeypatch.context() as patch:
        patch.setattr(ann, "_tuned", killed)
        with pytest.raises(KeyboardInterrupt):
            ann.build(vectors, folder, table="t", version="x@2", parts=1)
    assert ann.load(folder, "x@1") == first
    assert sorted(path.name for path in Path(folder).iterdir()) == [first.build, "manifest.json"]
    assert json.loads(Path(folder, "manifest.json").read_text())["version"] == "x@1"
    Path(folder, first.build, "00000.faiss").unlink()
    with pytest.raises(Exception, match="this part of the index is gone"):
        ann.search(spark, folder, first, ann.in_memory_queries(["q"], matrix[:1]), 4).collect()
    with pytest.raises(BadData, match="t: the table is empty"):
        ann.build(vectors.where("false"), folder, table="t", version="x@1")


def test_efforts_end_with_all_lists():
    assert list(ann._efforts(1)) == [1]
    assert list(ann._efforts(50)) == [1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 50]


def test_a_single_row_has_nothing_to_find(spark, tmp_path):
    manifest = ann.build(table(spark, ["a"], [[1, 0]]), str(tmp_path / "one"), table="t", version="x@1", parts=1)
    assert (manifest.rows, manifest.recall) == (1, 1.0)
