import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from embedall_spark.graph.walks import MAX_BIAS, Graph, walk

SIZE, SINK = 30, 29
PEER = Path(__file__).resolve().parents[2] / ".bench-env" / "bin" / "python"
BIASES = [*product((0.25, 1.0, 4.0), repeat=2), (0.3, 0.7), (3.0, 0.6)]


def matrix(weighted, directed, seed=1):
    """Weights [n, n] of a graph with a hub, self-loops, vertices with one neighbor and, if directed, a dead end."""
    random = np.random.default_rng(seed)
    there = random.random((SIZE, SIZE)) < 0.15
    weights = random.lognormal(0, 1.5, (SIZE, SIZE)) if weighted else np.ones((SIZE, SIZE))
    there[:, 1:4] = there[1:4, :] = False
    there[0, :] = True
    if directed:
        there[1:4, 0] = True
        there[SINK, :] = False
    else:
        # Loops included, of vertices that the walks come to from everywhere.
        there, weights = np.triu(there), np.triu(weights)
        there, weights = there | there.T, np.maximum(weights, weights.T)
    there[0, 0] = there[7, 7] = True
    return there * weights


def graph_of(weights, directed, weighted=True):
    rows, indices = np.nonzero(weights)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(weights)))])
    sums = [np.cumsum(row[row > 0]) for row in weights]
    cumulative = np.concatenate(sums) if weighted else np.empty(0)
    return Graph(indptr, indices.astype(np.int32), cumulative, directed)


def walks(graph, each, length, p, q, seed=1, starts=None):
    starts = np.arange(len(graph.indptr) - 1) if starts is None else np.asarray(starts)
    numbers = np.repeat(np.arange(each), len(starts))
    return walk(graph, np.tile(starts, each).astype(np.int32), numbers, length, p, q, seed)


def rows(tokens, lengths):
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


def expected(weights, p, q):
    """Chances [from, at, to] by the formula, and of first steps [at, to]."""
    same, there = np.eye(len(weights), dtype=bool), weights > 0
    bias = np.where(same, 1 / p, np.where(there, 1.0, 1 / q))
    mass = weights[None, :, :] * bias[:, None, :]
    return mass / np.maximum(mass.sum(axis=2, keepdims=True), 1e-300), weights / np.maximum(weights.sum(1), 1e-300)[
        :, None
    ]


def counts(tokens, lengths, size):
    """How often [from, at, to] came up, and as a first step [at, to]."""
    place = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = tokens.astype(np.int64)
    later, first = np.flatnonzero(place >= 2), np.flatnonzero(place == 1)
    triples = (tokens[later - 2] * size + tokens[later - 1]) * size + tokens[later]
    pairs = tokens[first - 1] * size + tokens[first]
    return np.bincount(triples, minlength=size**3).reshape(size, size, size), np.bincount(
        pairs, minlength=size**2
    ).reshape(size, size)


def p_value(seen, chances):
    """Chi-square test of counts [groups, cells] against chances; rare cells are counted with the most likely one."""
    seen, chances = seen.reshape(-1, seen.shape[-1]), chances.reshape(-1, chances.shape[-1])
    want = chances * seen.sum(axis=1, keepdims=True)
    assert not seen[chances == 0].any()
    statistic = freedom = 0
    for have, hope in zip(seen, want, strict=True):
        rest = hope >= 5
        if rest.sum() > 1:
            rest[hope.argmax()] = False
            have, hope = (np.append(part[rest], part[~rest].sum()) for part in (have, hope))
            statistic += ((have - hope) ** 2 / hope).sum()
            freedom += len(hope) - 1
    assert freedom > 0
    return chi2.sf(statistic, freedom)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_have_the_chances_of_the_paper(weighted, directed):
    weights = matrix(weighted, directed)
    graph = graph_of(weights, directed, weighted)
    for p, q in BIASES:
        tokens, lengths = walks(graph, 1000, 40, p, q)
        later, first = counts(tokens, lengths, SIZE)
        chances, alone = expected(weights, p, q)
        assert p_value(later, chances) > 1e-4, (p, q)
        assert p_value(first, alone) > 1e-4, (p, q)
        # The test would notice.
        for wrong in ((p * 1.5, q), (p, q * 1.5), (q, p)):
            if wrong != (p, q):
                assert p_value(later, expected(weights, *wrong)[0]) < 1e-6, (p, q)


def test_all_alike_is_of_first_order():
    weights = matrix(True, False)
    seen, _ = counts(*walks(graph_of(weights, False), 1000, 20, 1, 1), SIZE)
    assert p_value(seen.sum(axis=0), weights / weights.sum(axis=1, keepdims=True)) > 1e-4


@pytest.mark.skipif(not PEER.exists(), reason="PecanPy is in an environment of its own: make bench-env")
def test_chances_are_those_of_pecanpy():
    weights, (p, q) = matrix(True, True), (0.3, 2.5)
    graph = graph_of(weights, True)
    ways = [(int(t), int(v)) for t, v in zip(*np.nonzero(weights), strict=True) if weights[v].any()]
    code = """
import json, sys, numpy as np
from pecanpy.rw import SparseRWGraph
indptr, indices, data, p, q, ways = json.load(sys.stdin)
arrays = np.array(data), np.array(indices, np.uint32), np.array(indptr, np.uint32)
print(json.dumps([SparseRWGraph.get_normalized_probs(*arrays, p, q, v, t, None).tolist() for t, v in ways]))
"""
    source = json.dumps([graph.indptr.tolist(), graph.indices.tolist(), weights[weights > 0].tolist(), p, q, ways])
    said = subprocess.run([PEER, "-c", code], input=source, capture_output=True, text=True, check=True).stdout
    chances, _ = expected(weights, p, q)
    assert len(ways) > 100
    for (t, v), theirs in zip(ways, json.loads(said), strict=True):
        np.testing.assert_allclose(chances[t, v][weights[v] > 0], theirs, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_walk_depends_on_its_vertex_and_number_alone(weighted):
    graph = graph_of(matrix(weighted, True), True, weighted)
    starts, numbers = (part.ravel() for part in np.meshgrid(np.arange(SIZE, dtype=np.int32), np.arange(20)))
    whole = rows(*walk(graph, starts, numbers, 15, 0.25, 4, 7))
    order = np.random.default_rng(1).permutation(len(starts))
    mixed = rows(*walk(graph, starts[order], numbers[order].astype(np.int32), 15, 0.25, 4, 7))
    assert [whole[i] for i in order] == mixed
    parts = [walk(graph, starts[i : i + 7], numbers[i : i + 7], 15, 0.25, 4, 7) for i in range(0, len(starts), 7)]
    assert [row for part in parts for row in rows(*part)] == whole
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda _: walk(graph, starts, numbers, 15, 0.25, 4, 7), range(8)))
    assert all(rows(*result) == whole for result in again)
    # A shorter walk is a longer one's beginning; distinct vertices, numbers and seeds have walks of their own.
    assert rows(*walk(graph, starts, numbers, 6, 0.25, 4, 7)) == [row[:6] for row in whole]
    long = [tuple(row) for row in whole if len(row) == 15 and row[0] == 0]
    assert len(set(long)) == len(long) > 5
    other = rows(*walk(graph, starts, numbers, 15, 0.25, 4, 8))
    assert sum(one != two for one, two in zip(whole, other, strict=True)) > 0.7 * len(whole)


def test_arrays_may_be_mapped_and_read_only(tmp_path):
    graph = graph_of(matrix(True, False), False)
    mapped = []
    for name, array in zip("abc", graph[:3], strict=True):
        np.save(tmp_path / name, array)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    assert rows(*walks(Graph(*mapped, False), 3, 9, 0.5, 2)) == rows(*walks(graph, 3, 9, 0.5, 2))


def test_a_walk_ends_at_a_dead_end():
    # 0 -> 1 -> 2 -> 3, 4 alone.
    weights = np.zeros((5, 5))
    weights[[0, 1, 2], [1, 2, 3]] = 1
    for weighted, p in product((False, True), (1, 4)):
        actual = rows(*walks(graph_of(weights, True, weighted), 1, 3, p, 1))
        assert actual == [[0, 1, 2], [1, 2, 3], [2, 3], [3], [4]]


def test_sizes_of_nothing():
    graph = graph_of(matrix(False, False), False, False)
    tokens, lengths = walks(graph, 2, 5, 0.5, 2, starts=[])
    assert (tokens.dtype, lengths.dtype, len(tokens), len(lengths)) == (np.int32, np.int32, 0, 0)
    tokens, lengths = walks(graph, 2, 1, 0.5, 2)
    assert tokens.tolist() == [*range(SIZE)] * 2
    assert set(lengths) == {1}
    # Of no vertices, and without an edge.
    assert walks(Graph(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0), True), 1, 5, 1, 1)[0].size == 0
    assert walks(Graph(np.zeros(3, np.int64), np.empty(0, np.int32), np.empty(0), True), 1, 5, 1, 1)[0].tolist() == [
        0,
        1,
    ]


def test_one_neighbor_is_always_gone_to():
    weights = np.array([[0, 5.0], [5.0, 0]])
    for weighted, p in product((False, True), (1 / MAX_BIAS, 1, MAX_BIAS)):
        assert rows(*walks(graph_of(weights, False, weighted), 1, 5, p, MAX_BIAS)) == [[0, 1, 0, 1, 0], [1, 0, 1, 0, 1]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("p", "q"), [(0.25, 4.0), (4.0, 0.25), (1.0, 1.0)])
def test_steps_at_a_hub(p, q, weighted):
    leaves, each = 100_000, 400_000
    hub = np.arange(1, leaves + 1, dtype=np.int32)
    indptr = np.concatenate([[0], np.arange(leaves, 2 * leaves + 1)])
    masses = 1.0 + hub % 3
    cumulative = np.concatenate([np.cumsum(masses), masses]) if weighted else np.empty(0)
    graph = Graph(indptr, np.concatenate([hub, np.zeros(leaves, np.int32)]), cumulative, False)
    start = 5
    actual = np.reshape(walks(graph, each, 3, p, q, starts=[start])[0], (each, 3))
    assert (actual[:, :2] == [start, 0]).all()
    chances = (masses if weighted else np.ones(leaves)) / q
    chances[start - 1] *= q / p
    # By hundreds, the step back apart.
    groups = np.append(np.arange(leaves) // 100, 0)
    groups[start - 1] = leaves // 100
    seen = np.bincount(groups[actual[:, 2] - 1], minlength=leaves // 100 + 1)
    chances = np.bincount(groups[:-1], chances, minlength=leaves // 100 + 1)
    assert p_value(seen[None], chances[None] / chances.sum()) > 1e-4


def test_weights_of_all_sizes():
    # 0: twice 1e12 and many of 1e-12; 1: nothing but 1e-12.
    weights = np.zeros((20, 20))
    weights[0, 2:], weights[1, 2:] = 1e-12, 1e-12
    weights[0, [5, 19]] = 1e12
    weights = weights + weights.T
    graph = graph_of(weights, False)
    for p, q in product((0.25, 1.0, 4.0), repeat=2):
        tokens, lengths = walks(graph, 3000, 12, p, q)
        seen, first = counts(tokens, lengths, 20)
        # What is lost beside a sum of 2e12 has no chance worth mention.
        chances, alone = expected(np.where(weights < weights.sum(axis=1, keepdims=True) / 1e15, 0, weights), p, q)
        assert p_value(seen[:, 1:], chances[:, 1:]) > 1e-4, (p, q)
        assert p_value(first, alone) > 1e-4
        assert set(np.flatnonzero(seen[:, 0].sum(axis=0))) == {5, 19}


def test_a_step_back_that_has_all_the_weight_and_no_chance():
    # By rejection it would take 1e9 trials.
    weights = np.zeros((3, 3))
    weights[0, 1] = weights[1, 0] = 1e9
    weights[1, 2] = weights[2, 1] = 1.0
    actual = walks(graph_of(weights, False), 20_000, 3, MAX_BIAS, 1.0, starts=[0])[0].reshape(-1, 3)
    chance = 1e9 / MAX_BIAS / (1e9 / MAX_BIAS + 1)
    assert abs((actual[:, 2] == 0).mean() - chance) < 0.02


def test_extreme_biases_and_weights_come_to_an_end():
    # No triangles: these would take 1/q trials.
    weights = np.zeros((6, 6))
    weights[0, 1:] = weights[1:, 0] = 10.0 ** np.arange(-12, 13, 6)
    for weighted, directed, p, q in product(
        (False, True), (False, True), (1 / MAX_BIAS, 1, MAX_BIAS), (1 / MAX_BIAS, 1)
    ):
        tokens, lengths = walks(graph_of(weights, directed, weighted), 50, 30, p, q)
        assert set(lengths) == {30}
        steps = tokens.reshape(-1, 30)
        assert weights[steps[:, :-1], steps[:, 1:]].all()


def test_long_lists_of_uneven_weights():
    # Weights that rise by ten orders of magnitude along the list, and one that has a third of all.
    random = np.random.default_rng(3)
    for weights in (np.geomspace(1e-5, 1e5, 50_000), random.pareto(0.7, 50_000) + 1e-3, np.full(50_000, 1.0)):
        weights[7] = weights.sum() / 2
        hub = np.concatenate([[0, 50_000], np.full(50_000, 50_000)])
        graph = Graph(hub, np.arange(1, 50_001, dtype=np.int32), np.cumsum(weights), True)
        actual = walks(graph, 300_000, 2, 1, 1, starts=[0])[0][1::2]
        groups = np.searchsorted(np.arange(1, 200) / 200, np.cumsum(weights) / weights.sum(), "right")
        seen, share = (np.bincount(groups, each, 200) for each in (np.bincount(actual - 1, minlength=50_000), weights))
        assert p_value(seen[None], share[None] / share.sum()) > 1e-4


def test_what_cannot_be_walked_is_refused():
    graph = graph_of(matrix(False, False), False, False)
    for length, p, q in ((0, 1, 1), (5, 0, 1), (5, 1, -1), (5, float("nan"), 1), (5, 1, float("inf"))):
        with pytest.raises(ValueError, match="need length"):
            walks(graph, 1, length, p, q)
    for start in (-1, SIZE):
        with pytest.raises(ValueError, match="from 0 to 29"):
            walks(graph, 1, 5, 1, 1, starts=[start])
