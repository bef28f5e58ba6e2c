"""CBOW, hierarchical softmax and n-grams against numpy, whose gradients are checked by finite differences."""

import heapq
from collections import Counter

import numpy as np
import pytest
from train.test_sgns import sigmoid, stepped

from embedall_spark.train import huffman, word2vec_kernel

TOKENS, NGRAMS, DIM, ALPHA = 12, 20, 16, 0.05
VARIANTS = [  # cbow, mean, hs, negative, n-grams, batch_size
    (True, True, False, 3, False, 1),
    (True, False, True, 2, True, 1),
    (True, True, False, 4, True, 1),
    (False, True, True, 0, False, 1),
    (False, True, False, 5, True, 32),
    (False, True, True, 2, True, 2),
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
    assert {way[0][0] for way in turns} == {0}
    # A node's turns lead to two different places: each inner node is reached in one way only.
    parents = {}
    for way in turns:
        for step, (node, _) in enumerate(way[1:], 1):
            assert parents.setdefault(node, way[step - 1]) == way[step - 1]


def test_the_path_to_the_only_token_has_no_turns():
    assert path(huffman.paths(np.array([3])), 0) == []


def targets(predicted, others, paths, hs, negative, batch_size):
    """Output rows, sums of labels, and weights of a prediction of several tokens; each inner node comes once."""
    wanted = []
    labels, weights = Counter(), Counter()
    for node, code in (turn for token in predicted for turn in path(paths, token)) if hs else ():
        labels[node] += 1 - code
        weights[node] += 1
    wanted += [("nodes", node, labels[node], weight) for node, weight in weights.items()]
    for number, token in enumerate(predicted):
        wanted += [("tokens", token, 1, 1)] if negative else []
        if negative and number % batch_size == 0:
            shared = predicted[number : number + batch_size]
            weighed = [(next(others), shared) for _ in range(negative)]
            wanted += [("tokens", other, 0, len(shared) - shared.count(other)) for other, shared in weighed]
    return wanted


def hidden_of(inputs, sources, mean):
    total = inputs[sources].sum(axis=0)
    return total / len(sources) if mean else total


def loss_of(model, sources, wanted, mean):
    hidden = hidden_of(model["inputs"], sources, mean)
    dots = [(hidden @ model[matrix][row], label, weight) for matrix, row, label, weight in wanted]
    return -sum(label * np.log(sigmoid(dot)) + (weight - label) * np.log(sigmoid(-dot)) for dot, label, weight in dots)


def step(model, sources, wanted, mean, alpha, slope=stepped):
    """Make the steps with the dot products from before, and return the loss; each source is changed as by gensim."""
    hidden, error, loss = (
        hidden_of(model["inputs"], sources, mean),
        np.zeros(DIM),
        loss_of(model, sources, wanted, mean),
    )
    dots = [hidden @ model[matrix][row] for matrix, row, *_ in wanted]
    for dot, (matrix, row, label, weight) in zip(dots, wanted, strict=True):
        change = alpha * (label - weight * slope(dot))
        error += change * model[matrix][row]
        model[matrix][row] += change * hidden
    for source in sources:
        model["inputs"][source] += error if mean else error / len(sources)
    return loss


def random_model(random):
    rows = {"inputs": TOKENS + NGRAMS, "tokens": TOKENS, "nodes": TOKENS}
    return {name: random.standard_normal((count, DIM)) for name, count in rows.items()}


def test_reference_gradient_by_finite_differences(counts):
    random = np.random.default_rng(0)
    model, paths = random_model(random), huffman.paths(counts)
    # Different sources and targets: with a small step, each row moves along its own gradient.
    wanted = targets([1, 3], iter([5, 3]), paths, True, 2, 2)
    nodes = {row for matrix, row, *_ in wanted if matrix == "nodes"}
    sources = [2, TOKENS, TOKENS + 3]
    moved = {name: rows.copy() for name, rows in model.items()}
    step(moved, sources, wanted, True, 1e-7, sigmoid)
    for matrix, row in [("inputs", 2), ("inputs", TOKENS + 3), ("tokens", 1), ("tokens", 5), ("nodes", min(nodes))]:
        for k in (0, 7):
            losses = []
            for change in (1e-5, -2e-5):
                model[matrix][row, k] += change
                losses.append(loss_of(model, sources, wanted, True))
            model[matrix][row, k] += 1e-5
            slope = (losses[0] - losses[1]) / 2e-5
            # word2vec does not divide a source's gradient by the number of sources.
            factor = len(sources) if matrix == "inputs" else 1
            moves = (moved[matrix][row, k] - model[matrix][row, k]) / 1e-7
            assert moves == pytest.approx(-factor * slope, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("threads", [1, 16])
@pytest.mark.parametrize(("cbow", "mean", "hs", "negative", "ngrams", "batch_size"), VARIANTS)
def test_steps(counts, cbow, mean, hs, negative, ngrams, batch_size, threads):
    random = np.random.default_rng(1)
    model, paths = random_model(random), huffman.paths(counts)
    table = random.integers(TOKENS, size=7).astype(np.int32)
    sizes = random.integers(0, 9, TOKENS) * ngrams
    offsets, rows = np.append(0, np.cumsum(sizes)), random.integers(NGRAMS, size=sizes.sum()).astype(np.int32)
    inputs = model["inputs"].astype(np.float32)
    outputs = np.hstack(([model["tokens"]] if negative else []) + ([model["nodes"]] if hs else [])).astype(np.float32)
    stream, drawn, losses, predicted = [], 4, [], 0

    def others():
        nonlocal drawn
        while True:
            yield int(table[drawn])
            drawn = (drawn + 1) % 7

    def sources_of(token):
        return [token, *(TOKENS + rows[offsets[token] : offsets[token + 1]])]

    drawing = others()
    for group in range(130):
        center, contexts = int(random.integers(TOKENS)), random.choice(TOKENS, random.integers(1, 6), replace=False)
        contexts = random.integers(TOKENS, size=40) if group == 7 else contexts
        stream += [center, len(contexts), *contexts]
        contexts, loss = contexts.tolist(), 0.0
        for first in range(0, 1 if cbow else len(contexts), 32):
            wanted = targets(
                [center] if cbow else contexts[first : first + 32], drawing, paths, hs, negative, batch_size
            )
            sources = [row for token in (contexts if cbow else [center]) for row in sources_of(token)]
            loss += step(model, sources, wanted, mean, ALPHA)
        losses.append((loss, 1 if cbow else len(contexts)))
    kernel = word2vec_kernel.kernel(DIM, negative, cbow=cbow, mean=mean, hs=hs, ngrams=ngrams, batch_size=batch_size)
    stream = np.array(stream, np.int32)
    arguments = tuple(paths if hs else huffman.NO_PATHS), (offsets, rows)
    # A thread's copies of rows, without another thread, change nothing.
    end, predicted, loss, sampled = kernel(
        stream, 0, len(stream), inputs, outputs, table, 4, np.float32(ALPHA), threads, *arguments
    )
    assert (predicted, sampled) == (sum(n for _, n in losses), sum(n for _, n in losses[::64]))
    assert not negative or table[end] == next(drawing)
    # A dot product at the edge of one of the sigmoid's steps may fall on either side of it.
    assert np.allclose(inputs, model["inputs"], atol=3e-3)
    if negative:
        assert np.allclose(outputs[:, :DIM], model["tokens"], atol=3e-3)
    if hs:
        assert np.allclose(outputs[:, -DIM:], model["nodes"], atol=3e-3)
    assert loss == pytest.approx(sum(loss for loss, _ in losses[::64]), rel=1e-3)
