"""CBOW and hierarchical softmax against a reference in numpy whose gradients are checked by finite differences."""

import heapq

import numpy as np
import pytest
from train.test_sgns import sigmoid, stepped

from embedall_spark.train import huffman, word2vec_kernel

TOKENS, DIM, ALPHA = 12, 16, 0.05
VARIANTS = [  # cbow, mean, hs, negative
    (True, True, False, 3),
    (True, False, False, 3),
    (True, True, True, 0),
    (False, True, True, 0),
    (False, True, True, 2),
    (True, False, True, 2),
]


@pytest.fixture
def counts():
    return np.random.default_rng(3).zipf(1.4, TOKENS)


def path(paths, token):
    part = slice(paths.offsets[token], paths.offsets[token + 1])
    return list(zip(paths.nodes[part].tolist(), paths.codes[part].tolist(), strict=True))


@pytest.mark.parametrize("counts", [[5, 3, 2, 1], [1, 1], [4, 4, 0, 0, 9], range(200), np.arange(300) ** 3])
def test_paths_are_optimal_prefix_codes_from_the_root(counts):
    counts = np.array(counts)
    paths = huffman.paths(counts)
    heap = [max(int(count), 1) for count in counts]
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        heap.append(heapq.heappop(heap) + heapq.heappop(heap))
        cost += heap[-1]
        heapq.heapify(heap)
    assert int((np.diff(paths.offsets) * np.maximum(counts, 1)).sum()) == cost
    turns = {tuple(path(paths, token)) for token in range(len(counts))}
    assert len(turns) == len(counts)
    assert {way[0][0] for way in turns} == {len(counts) - 2}
    # A node's turns lead to two different places: each inner node is reached in one way only.
    parents = {}
    for way in turns:
        for step, (node, _) in enumerate(way[1:], 1):
            assert parents.setdefault(node, way[step - 1]) == way[step - 1]


def test_one_token_has_no_tree():
    with pytest.raises(ValueError, match="two tokens at least"):
        huffman.paths(np.array([3]))


def predictions(center, contexts, cbow):
    return [contexts] if cbow else [[context] for context in contexts]


def targets(center, others, paths, hs, negative):
    """Output rows and labels of a prediction: (matrix, row, label)."""
    nodes = [("nodes", node, 1 - code) for node, code in path(paths, center)] if hs else []
    tokens = [("tokens", center, 1), *(("tokens", other, 0) for other in others if other != center)]
    return nodes + (tokens if negative else [])


def hidden_of(inputs, contexts, mean):
    total = inputs[contexts].sum(axis=0)
    return total / len(contexts) if mean else total


def loss_of(model, contexts, wanted, mean):
    hidden = hidden_of(model["inputs"], contexts, mean)
    return -sum(np.log(sigmoid((2 * label - 1) * (hidden @ model[matrix][row]))) for matrix, row, label in wanted)


def step(model, contexts, wanted, mean, alpha, slope=stepped):
    """Make the steps of word2vec one after the other, and return the loss; a row that comes again has changed."""
    hidden, error, loss = hidden_of(model["inputs"], contexts, mean), np.zeros(DIM), 0.0
    for matrix, row, label in wanted:
        loss -= np.log(sigmoid((2 * label - 1) * (hidden @ model[matrix][row])))
        change = alpha * (label - slope(hidden @ model[matrix][row]))
        error += change * model[matrix][row]
        model[matrix][row] += change * hidden
    for context in contexts:
        model["inputs"][context] += error if mean else error / len(contexts)
    return loss


def random_model(random):
    return {name: random.standard_normal((TOKENS, DIM)) for name in ("inputs", "tokens", "nodes")}


def test_reference_gradient_by_finite_differences(counts):
    random = np.random.default_rng(0)
    model, paths = random_model(random), huffman.paths(counts)
    # Different contexts and targets: with a small step, each row moves along its own gradient.
    wanted = targets(1, [5, 7], paths, True, 2)
    moved = {name: rows.copy() for name, rows in model.items()}
    step(moved, [2, 4, 9], wanted, True, 1e-6, sigmoid)
    for matrix, row in [("inputs", 4), ("tokens", 1), ("tokens", 5), ("nodes", wanted[0][1])]:
        for k in (0, 7):
            losses = []
            for change in (1e-5, -2e-5):
                model[matrix][row, k] += change
                losses.append(loss_of(model, [2, 4, 9], wanted, True))
            model[matrix][row, k] += 1e-5
            slope = (losses[0] - losses[1]) / 2e-5
            # word2vec does not divide a context's gradient by the number of contexts.
            factor = 3 if matrix == "inputs" else 1
            moves = (moved[matrix][row, k] - model[matrix][row, k]) / 1e-6
            assert moves == pytest.approx(-factor * slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("cbow", "mean", "hs", "negative"), VARIANTS)
def test_steps(counts, cbow, mean, hs, negative):
    random = np.random.default_rng(1)
    model, paths = random_model(random), huffman.paths(counts)
    table = random.integers(TOKENS, size=7).astype(np.int32)
    inputs = model["inputs"].astype(np.float32)
    outputs = np.hstack(([model["tokens"]] if negative else []) + ([model["nodes"]] if hs else [])).astype(np.float32)
    stream, cursor, losses = [], 4, []
    for _ in range(130):
        center, contexts = int(random.integers(TOKENS)), random.choice(TOKENS, random.integers(1, 6), replace=False)
        stream += [center, len(contexts), *contexts]
        for group in predictions(center, contexts.tolist(), cbow):
            others = [int(table[(cursor + i) % 7]) for i in range(negative)]
            cursor = (cursor + negative) % 7
            wanted = targets(center, others, paths, hs, negative)
            losses.append(step(model, group, wanted, mean or not cbow, ALPHA))
    kernel = word2vec_kernel.kernel(DIM, negative, cbow=cbow, mean=mean, hs=hs)
    stream = np.array(stream, np.int32)
    end, predicted, loss, sampled = kernel(
        stream, 0, len(stream), inputs, outputs, table, 4, np.float32(ALPHA), 1, *(paths if hs else huffman.NO_PATHS)
    )
    assert (end, predicted, sampled) == (cursor, len(losses), len(losses[::64]))
    assert np.allclose(inputs, model["inputs"], atol=1e-3)
    if negative:
        assert np.allclose(outputs[:, :DIM], model["tokens"], atol=1e-3)
    if hs:
        assert np.allclose(outputs[:, -DIM:], model["nodes"], atol=1e-3)
    assert loss == pytest.approx(sum(losses[::64]), rel=1e-3)
