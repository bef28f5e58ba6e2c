"""Runs, pieces and their merging beside sorting all at once."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from embedall_spark.graph import external_sort


def entries(count, vertices, seed, alike=False):
    """Return entries with duplicates, half of them of vertex 3."""
    random = np.random.default_rng(seed)
    src, dst = random.integers(0, vertices, (2, count))
    src[: count // 2] = 3
    weights = np.full(count, 0.1) if alike else random.choice([0.1, 0.7, 1e9, 3e-5], count)
    return src << 32 | dst, weights


def pieces(source, bounds, max_piece):
    """Return the pieces of each part as Spark would bring them, in batches of three."""
    edges, weights = source
    batches = ((edges[at : at + 70], weights[at : at + 70]) for at in range(0, len(edges), 70))
    table = pa.Table.from_batches(
        [external_sort.cut_run(run, bounds, max_piece) for run in external_sort.sorted_runs(batches)]
    )
    assert all(len(piece.as_py()) <= 8 * max_piece for piece in table.column("edges"))
    table = table.sort_by([("part", "ascending"), ("edge", "ascending"), ("weight", "ascending")])
    for part in range(len(bounds) + 1):
        yield part, table.filter(pc.field("part") == part).combine_chunks().to_batches(3)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize(
    ("run", "max_piece", "buffered"), [(100, 7, 40), (500, 50, 1), (10**6, 10**6, 10**6), (300, 1, 100)]
)
def test_parts_are_sorted_and_complete(monkeypatch, alike, run, max_piece, buffered):
    monkeypatch.setattr(external_sort, "RUN", run)
    source = entries(3000, 20, 1, alike)
    # Two bounds that are equal: a part without entries.
    bounds = np.array([3, 4, 4, 11])
    order = np.lexsort(source[::-1])
    actual = []
    cut = list(pieces(source, bounds, max_piece))
    monkeypatch.setattr(external_sort, "RUN", buffered)
    for part, batches in cut:
        for number, edges, weights in external_sort.merge(batches):
            assert number == part
            assert (np.searchsorted(bounds, edges >> 32, side="right") == part).all()
            actual.append((edges, weights))
    edges, weights = (np.concatenate(arrays) for arrays in zip(*actual, strict=True))
    assert edges.tolist() == source[0][order].tolist()
    assert weights.tolist() == source[1][order].tolist()


def test_a_hub_streams(monkeypatch):
    monkeypatch.setattr(external_sort, "RUN", 2000)
    edges = 3 << 32 | np.random.default_rng(1).permutation(100_000)
    (_, batches), *_ = pieces((edges, np.ones(len(edges))), np.empty(0, np.int64), 100)
    yielded = [len(actual) for _, actual, _ in external_sort.merge(batches)]
    # Of 50 runs 100 entries each may be open.
    assert max(yielded) <= 12_000
    assert sum(yielded) == len(edges)


def test_one_edge_many_times_streams(monkeypatch):
    monkeypatch.setattr(external_sort, "RUN", 2000)
    edges = np.full(50_000, 3 << 32 | 5)
    (_, batches), *_ = pieces((edges, np.full(len(edges), 0.1)), np.empty(0, np.int64), 100)
    assert max(len(actual) for _, actual, _ in external_sort.merge(batches)) <= 4000


def test_equal_edges_are_added_up_one_after_the_other():
    edges = np.array([1, 1, 1, 2, 5, 5])
    weights = np.array([0.1, 0.2, 0.3, 7.0, 1e16, 1.0])
    assert external_sort.sum_equal_edges(edges, weights) == 3
    assert edges[:3].tolist() == [1, 2, 5]
    assert weights[:3].tolist() == [0.1 + 0.2 + 0.3, 7.0, 1e16 + 1.0]
    assert external_sort.sum_equal_edges(edges[:0], weights[:0]) == 0


def test_pieces_of_all_runs_fit():
    for total in (1, 10**7, 10**10, 10**12):
        runs = -(-total // external_sort.RUN)
        assert external_sort.max_piece(total) * runs <= max(1 << 20, 256 * runs)
