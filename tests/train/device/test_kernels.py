"""Windows and kernels for GPUs beside those of the CPU and references in numpy, in Triton's interpreter."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from embedall_spark.corpus import windows as on_cpu
from embedall_spark.train import aligned_rows, plan
from embedall_spark.train import glove_kernel as glove_on_cpu
from embedall_spark.train.device import batches, glove_kernel, sgns_kernel, windows

SEED = 0xFEDCBA9876543210
CPU = torch.device("cpu")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rows(number, seed, dim):
    result = aligned_rows.zeros(number, dim)
    result[:] = np.random.default_rng(seed).standard_normal((number, dim)) * 0.3
    return result


def sequences(random, vocabulary):
    lengths = np.array([*random.integers(0, 30, 20), 1, 2])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = random.integers(0, vocabulary, offsets[-1]).astype(np.int32)
    return tokens, offsets, random.integers(-(2**62), 2**62, len(lengths))


def unpack(stream):
    """Return the groups of a stream: center, and list of contexts."""
    groups, at = [], 0
    while at < len(stream):
        groups.append((stream[at], stream[at + 2 : at + 2 + stream[at + 1]]))
        at += 2 + stream[at + 1]
    return groups


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize(("workers", "parts", "sample"), [(1, 1, 1e-2), (1, 2, 0), (3, 1, 1e-2), (3, 2, 0)])
def test_windows_are_those_of_the_cpu(workers, parts, sample, shrink):
    random = np.random.default_rng(workers)
    counts = np.sort(random.integers(1, 1000, 40))[::-1]
    tokens, offsets, ids = sequences(random, 40)
    shard, local = plan.assign_shards(counts, workers, sample)
    streams, fill = np.empty((workers**2, 1 << 14), np.int32), np.zeros(workers**2, np.int64)
    keep = on_cpu.keep_thresholds(counts, sample)
    routes = (shard, local, workers, 5, shrink, 1, False)
    on_cpu.draw_windows(tokens, offsets, ids, 0, keep, *routes, np.uint64(SEED), streams, fill)
    windower = windows.make(counts, shard, local, sample, 5, shrink, SEED, CPU)
    for i in range(workers):
        drawn = windower.draw(windows.Tokens(*map(torch.from_numpy, (tokens, offsets, ids))), i, workers, parts)
        places, centers, first, stop, skip, bounds = (tensor.tolist() for tensor in drawn)
        for j in range(workers):
            expected = unpack(streams[i * workers + j, : fill[i * workers + j]].tolist())
            assert len(expected) > 20
            for part in range(parts):
                actual = [
                    (centers[g] * parts + part, [places[p] for p in range(first[g], stop[g]) if p != skip[g]])
                    for g in range(bounds[j * parts + part], bounds[j * parts + part + 1])
                ]
                assert actual == [group for group in expected if group[0] % parts == part]


def test_groups_of_a_stream():
    groups = [(4, [7]), (1, [2, 3, 5]), (2, [6, 6])]
    stream = np.array([value for center, contexts in groups for value in (center, len(contexts), *contexts)], np.int32)
    ((arrays, number, _),) = batches.of_streams([stream])
    drawn = windows.of_stream(*map(torch.from_numpy, arrays))
    places, centers, first, stop, skip, bounds = (tensor.tolist() for tensor in drawn)
    assert number == 0 and skip == [-1, -1, -1] and bounds == [0, 3]
    assert [(centers[g], places[first[g] : stop[g]]) for g in range(3)] == groups


def groups_of(groups):
    """Return groups with a hole in the middle each as part 1, and one group of another part before them."""
    places, first, stop, skip = [3], [0], [1], [-1]
    for _, contexts in groups:
        first.append(len(places))
        half = len(contexts) // 2
        skip.append(len(places) + half)
        # What lies in a hole would be out of bounds.
        places += [*contexts[:half], 1 << 30, *contexts[half:]]
        stop.append(len(places))
    centers = [1 << 30, *(center for center, _ in groups)]
    arrays = (places, centers, first, stop, skip, [0, 1, len(centers)])
    return sgns_kernel.Groups(*(torch.tensor(array, dtype=torch.int32) for array in arrays))


def reference(groups, inputs, outputs, negatives, cursor, alpha, negative, batch_size, window):
    """The same training in float64; contexts see each other's changes, targets change after a batch."""
    inputs, outputs, pairs, loss = inputs.astype(float), outputs.astype(float), 0, []
    for number, (center, contexts) in enumerate(groups, 1):
        half = len(contexts) // 2
        places = [*contexts[:half], None, *contexts[half:]]
        for batch, first in enumerate(range(0, len(places), batch_size)):
            start = cursor + (number * -(-(2 * window + 1) // batch_size) + batch) * negative
            drawn = [negatives[(start + k) % len(negatives)] for k in range(negative)]
            targets = [(center, 1.0), *((row, 0.0) for row in drawn if row != center)]
            changes = np.zeros_like(outputs)
            for x in (place for place in places[first : first + batch_size] if place is not None):
                vector, change = inputs[x].copy(), 0.0
                for row, label in targets:
                    dot = vector @ outputs[row]
                    step = alpha * (label - sigmoid(dot))
                    change = change + step * outputs[row]
                    changes[row] += step * vector
                    loss += [-np.log(sigmoid(dot if label else -dot))] if number % 64 == 0 else []
                inputs[x] += change
                pairs += 1
            outputs += changes
    return inputs, outputs, pairs, loss


@pytest.mark.parametrize(
    ("dim", "negative", "most", "batch_size", "count"),
    [(32, 5, 5, 32, 10), (16, 1, 3, 32, 64), (304, 7, 6, 3, 4), (48, 3, 4, 1, 5)],
)
def test_the_kernel_takes_the_steps_of_the_reference(dim, negative, most, batch_size, count):
    random = np.random.default_rng(dim)
    # Few rows, so that a context or a negative often is there twice, or is the center.
    groups = [(random.integers(8), random.integers(0, 8, random.integers(1, most + 1)).tolist()) for _ in range(count)]
    inputs, outputs, negatives = rows(8, 1, dim), rows(8, 2, dim), random.integers(0, 8, 13).astype(np.int32)
    options = (7, 0.05, negative, batch_size, 3)
    expected = reference(groups, inputs, outputs, negatives, *options)
    before = inputs.copy(), outputs.copy()
    tensors = (*map(torch.from_numpy, (inputs, outputs)), torch.from_numpy(negatives))
    figures = sgns_kernel.train(groups_of(groups), 1, *tensors, *options, 1)
    pairs, loss, sampled = figures.sum(0).tolist()
    assert (pairs, sampled) == (expected[2], len(groups[63][1]) if count > 63 else 0)
    assert loss == pytest.approx(sum(expected[3]), rel=1e-4)
    for actual, wanted, old in zip((inputs, outputs), expected[:2], before, strict=True):
        assert np.abs(wanted - old).max() > 0.01
        assert np.abs(actual - wanted).max() < 1e-5


def test_programs_share_the_groups():
    groups = [(k, [7 - k]) for k in range(4)]
    results = []
    for programs in (1, 3):
        inputs, outputs = rows(8, 1, 16), rows(8, 2, 16)
        tensors = (torch.from_numpy(inputs), torch.from_numpy(outputs), torch.tensor([4], dtype=torch.int32))
        figures = sgns_kernel.train(groups_of(groups), 1, *tensors, 0, 0.05, 1, 32, 3, programs)
        assert sorted(figures[:, 0].tolist()) == ([4] if programs == 1 else [1, 1, 2])
        results.append((inputs, outputs))
    # All groups have the same negative, so that their order makes a difference, but a small one.
    assert all(np.abs(one - two).max() < 1e-3 for one, two in zip(*results, strict=True))


def test_an_empty_batch_changes_nothing():
    tokens = windows.Tokens(
        torch.empty(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    )
    ones = np.ones(3, np.int64)
    windower = windows.make(ones, np.zeros(3, np.int32), np.arange(3, dtype=np.int32), 0, 5, True, 1, CPU)
    inputs, outputs = torch.ones(3, 16), torch.ones(3, 16)
    negatives = torch.zeros(4, dtype=torch.int32)
    figures = sgns_kernel.train(windower.draw(tokens), 0, inputs, outputs, negatives, 0, 0.1, 2, 32, 5, 2)
    assert not figures.any() and (inputs == 1).all() and (outputs == 1).all()


@pytest.mark.parametrize(("dim", "clip"), [(3, 100.0), (50, 0.05)])
def test_glove_takes_the_steps_of_the_cpu(dim, clip):
    random = np.random.default_rng(dim)
    cells = [random.integers(8, size=60).astype(np.int32) for _ in range(2)]
    counts = (random.pareto(0.7, 60) + 0.03).astype(np.float32)
    counts[7] = np.nan
    values = [(random.random((8, dim + 1)).astype(np.float32) - 0.5) / dim for _ in range(2)]
    inputs, outputs = glove_on_cpu.initial_rows(*values, dim)
    constants = glove_kernel.Constants(10.0, 0.75, 0.05, clip)
    tensors = glove_kernel.CellBatch(*map(torch.from_numpy, (*cells, counts)))
    expected = inputs.copy(), outputs.copy()
    loss = glove_on_cpu.kernel(dim)(*cells, counts, 0, 60, *expected, *map(np.float32, constants))
    figures = glove_kernel.train(tensors, *map(torch.from_numpy, (inputs, outputs)), dim, constants, 1)
    trained, device_loss, _ = figures.sum(0).tolist()
    assert device_loss == pytest.approx(loss, rel=1e-4) and trained == 60
    half = glove_on_cpu.half_length(dim)
    for actual, wanted, one in zip((inputs, outputs), expected, (dim + 1, dim), strict=True):
        assert np.allclose(np.delete(actual, half + one, 1), np.delete(wanted, half + one, 1), atol=2e-5)
        assert (actual[:, one] == 1).all()


@pytest.mark.parametrize(("dim", "negative", "expected"), [(112, 5, 1), (128, 5, 1), (304, 5, 2), (128, 64, 8)])
def test_a_program_has_few_warps(dim, negative, expected):
    assert sgns_kernel.warps(dim, negative) == expected
