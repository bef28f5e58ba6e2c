import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import chisquare

from embedall_spark.train import aligned_rows, sgns

DIM, NEGATIVE = 32, 5


def rows(number, seed, dim=DIM, scale=1.0, used=None):
    result = aligned_rows.zeros(number, dim)
    values = np.random.default_rng(seed).standard_normal((number, used or dim)) * scale
    result[:, : used or dim] = values
    return result


def run(stream, inputs, outputs, negatives, cursor=0, alpha=0.05, share=1, dim=DIM, negative=NEGATIVE, batch_size=32):
    stream, negatives = np.asarray(stream, np.int32), np.asarray(negatives, np.int32)
    kernel = sgns.kernel(dim, negative, batch_size)
    return kernel(stream, 0, len(stream), inputs, outputs, negatives, cursor, np.float32(alpha), share)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def stepped(x):
    """The sigmoid as word2vec has it: constant on each of 1024 steps from -6 to 6, 0 and 1 beyond."""
    middle = (np.floor((x + 6) * 1024 / 12) + 0.5) * 12 / 1024 - 6
    return sigmoid(middle) if abs(x) < 6 else float(x > 0)


def loss_of(center, contexts, others, inputs, outputs):
    """Loss of a group: the paper's formula, a negative that is the center left out."""
    others = [row for row in others if row != center]
    return sum(
        -np.log(sigmoid(inputs[x] @ outputs[center])) - sum(np.log(sigmoid(-inputs[x] @ outputs[o])) for o in others)
        for x in contexts
    )


def gradients(center, contexts, others, inputs, outputs, sigmoid=sigmoid):
    by_inputs, by_outputs = np.zeros_like(inputs), np.zeros_like(outputs)
    for x in contexts:
        for row, label in [(center, 1), *((row, 0) for row in others if row != center)]:
            error = sigmoid(inputs[x] @ outputs[row]) - label
            by_inputs[x] += error * outputs[row]
            by_outputs[row] += error * inputs[x]
    return by_inputs, by_outputs


def reference(stream, inputs, outputs, negatives, cursor, alpha, share, negative, batch_size):
    """The same training in float64; groups of more than ``batch_size`` contexts are cut."""
    inputs, outputs, at, used, pairs = inputs.astype(float), outputs.astype(float), 0, share, 0
    while at < len(stream):
        center, count = stream[at], stream[at + 1]
        for first in range(0, count, batch_size):
            contexts = stream[at + 2 + first : at + 2 + min(count, first + batch_size)]
            if used >= share:
                others = [negatives[(cursor + i) % len(negatives)] for i in range(negative)]
                cursor, used = (cursor + negative) % len(negatives), 0
            by_inputs, by_outputs = gradients(center, contexts, others, inputs, outputs, stepped)
            inputs -= alpha * by_inputs
            outputs -= alpha * by_outputs
            used += len(contexts)
            pairs += len(contexts)
        at += 2 + count
    return inputs, outputs, cursor, pairs


def random_stream(groups, number, most, seed):
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(groups):
        count = random.integers(1, most + 1)
        parts += [random.integers(0, number), count, *random.integers(0, number, count)]
    return np.array(parts, np.int32)


@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_the_reference_gradient_is_that_of_the_loss(name):
    matrices = {"inputs": rows(6, 1, 16, 0.5).astype(float), "outputs": rows(6, 2, 16, 0.5).astype(float)}
    group = (2, [0, 3, 3], [1, 1, 2, 5])
    exact = dict(zip(matrices, gradients(*group, **matrices), strict=True))[name]
    step, actual = 1e-6, np.zeros((6, 16))
    for place in np.ndindex(6, 16):
        matrices[name][place] += step
        above = loss_of(*group, **matrices)
        matrices[name][place] -= 2 * step
        actual[place] = (above - loss_of(*group, **matrices)) / (2 * step)
        matrices[name][place] += step
    assert np.allclose(actual, exact, atol=1e-6)


@pytest.mark.parametrize(
    ("dim", "negative", "share", "most", "batch_size"),
    [
        (32, 5, 1, 10, 32),
        (32, 5, 6, 3, 32),
        (16, 1, 1, 4, 32),
        (112, 11, 6, 70, 32),
        (48, 64, 1, 100, 32),
        (32, 5, 1, 10, 1),
        (112, 7, 2, 40, 3),
    ],
)
def test_the_kernel_does_the_steps_of_the_reference(dim, negative, share, most, batch_size):
    # Few rows, so that a context or a negative often is there twice, or is the center.
    stream, negatives = random_stream(30, 12, most, 3), np.random.default_rng(4).integers(0, 12, 37).astype(np.int32)
    inputs, outputs = rows(12, 5, dim, 0.3), rows(12, 6, dim, 0.3)
    expected = reference(stream, inputs, outputs, negatives, 11, 0.01, share, negative, batch_size)
    cursor, pairs, _, _ = run(stream, inputs, outputs, negatives, 11, 0.01, share, dim, negative, batch_size)
    assert (cursor, pairs) == expected[2:]
    # A dot product may fall on the other side of a step.
    for actual, wanted, seed in ((inputs, expected[0], 5), (outputs, expected[1], 6)):
        moved = np.abs(wanted - rows(12, seed, dim, 0.3)).max()
        assert moved > 0.01
        assert np.abs(actual - wanted).max() < 0.001 * moved


def test_the_loss_is_that_of_the_sampled_groups():
    inputs, outputs = rows(6, 1, scale=0.3), rows(6, 2, scale=0.3)
    group = (2, [0, 3, 3, 4], [1, 1, 2, 5, 0])
    expected = loss_of(*group, inputs.astype(float), outputs.astype(float))
    _, pairs, loss, sampled = run([2, 4, 0, 3, 3, 4], inputs, outputs, group[2])
    assert (pairs, sampled) == (4, 4)
    assert loss == pytest.approx(expected, rel=1e-5)
    stream = random_stream(1000, 6, 5, 1)
    _, pairs, loss, sampled = run(stream, inputs, outputs, np.arange(6))
    assert pairs / 100 < sampled < pairs / 40


@pytest.mark.parametrize("dot", [6.0, np.nextafter(np.float32(6), np.float32(0)), 6.001, 1e6, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_dot_products_give_steps_between_0_and_alpha(dot, sign):
    inputs, outputs = rows(2, 0, scale=0), rows(2, 0, scale=0)
    inputs[:, 0], outputs[:, 0] = sign * np.float32(dot), 1
    before = outputs.copy()
    run([0, 1, 0], inputs, outputs, [1], alpha=0.5)
    steps = (outputs - before)[:, 0] / inputs[1, 0] / 0.5
    truth = sigmoid(np.clip(sign * float(dot), -500, 500))
    assert steps[0] == pytest.approx(1 - truth, abs=0.003)
    assert steps[1] == pytest.approx(-NEGATIVE * truth, abs=0.015)
    assert np.isfinite(inputs).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_do_no_harm_elsewhere(value):
    inputs, outputs = rows(4, 1), rows(4, 2)
    inputs[0] = value
    untouched = inputs[3].copy(), outputs[3].copy()
    run([0, 2, 0, 1], inputs, outputs, [1, 2])
    assert np.array_equal(inputs[3], untouched[0]) and np.array_equal(outputs[3], untouched[1])


def test_an_empty_stream_changes_nothing():
    inputs, outputs = rows(3, 1), rows(3, 2)
    before = inputs.copy(), outputs.copy()
    assert run([], inputs, outputs, [0, 1, 2], cursor=2) == (2, 0, 0.0, 0)
    assert np.array_equal(inputs, before[0]) and np.array_equal(outputs, before[1])


def test_padded_columns_stay_zero():
    inputs, outputs = (
        rows(9, 1, aligned_rows.padded_length(20), 0.3, used=20),
        rows(9, 2, aligned_rows.padded_length(20), 0.3, used=20),
    )
    run(random_stream(200, 9, 8, 1), inputs, outputs, np.arange(9))
    assert not inputs[:, 20:].any() and not outputs[:, 20:].any()


def test_one_thread_gives_the_same_bits_however_the_stream_is_cut():
    stream, kernel = random_stream(300, 50, 8, 1), sgns.kernel(DIM, NEGATIVE)
    table = aligned_rows.negative_table(np.arange(50), 0.75, 1000, 3)
    results = []
    for cut in (False, False, True):
        inputs, outputs = rows(50, 1), rows(50, 2)
        ends, at = [], 0
        while at < len(stream):
            at += 2 + stream[at + 1]
            ends.append(at)
        start = cursor = 0
        for end in ends if cut else ends[-1:]:
            cursor, *_ = kernel(stream, start, end, inputs, outputs, table, cursor, np.float32(0.05), 1)
            start = end
        results.append((inputs, outputs))
    for inputs, outputs in results[1:]:
        assert np.array_equal(inputs, results[0][0]) and np.array_equal(outputs, results[0][1])


def test_training_separates_two_topics():
    random = np.random.default_rng(0)
    # Tokens 0 to 9 meet only each other, and so do 10 to 19.
    parts = [[t, 4, *(random.integers(0, 10, 4) + 10 * (t >= 10))] for t in random.integers(0, 20, 8000)]
    inputs, outputs = rows(20, 1, scale=0.01), aligned_rows.zeros(20, DIM)
    table, losses = aligned_rows.negative_table(np.full(20, 400), 0.75, 4096, 1), []
    for part in (parts[:1000], parts[1000:-1000], parts[-1000:]):
        _, _, loss, sampled = run(np.concatenate(part), inputs, outputs, table)
        losses.append(loss / sampled)
    assert losses[0] > losses[2]
    unit = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    neighbors = unit @ unit.T
    assert min(neighbors[:10, :10].min(), neighbors[10:, 10:].min()) > neighbors[:10, 10:].max() + 0.2


def test_read_only_streams_and_python_numbers_are_taken():
    stream, table = np.array([0, 1, 1], np.int32), np.arange(3, dtype=np.int32)
    stream.flags.writeable = table.flags.writeable = False
    assert sgns.kernel(DIM, NEGATIVE)(stream, 0, 3, rows(3, 1), rows(3, 2), table, 0, 0.05, 6)[1] == 1


def test_rows_that_are_not_padded_are_refused():
    with pytest.raises(ValueError, match="16"):
        sgns.kernel(100, 5)


def test_aligned_rows_begin_at_a_cache_line():
    for number, dim in ((1, 16), (7, 112), (0, 16)):
        actual = aligned_rows.zeros(number, dim)
        assert actual.shape == (number, dim) and actual.dtype == np.float32 and actual.flags.c_contiguous
        assert not actual.any() and (number == 0 or actual.ctypes.data % 64 == 0)
    assert [aligned_rows.padded_length(d) for d in (1, 16, 100, 300)] == [16, 16, 112, 304]


@pytest.mark.parametrize("exponent", [0.75, 0.0, -0.5])
def test_negatives_are_drawn_in_proportion(exponent):
    counts = np.array([100_000, 3000, 500, 40, 5, 1, 1, 1])
    weights = counts.astype(float) ** exponent
    share, size, keys = weights / weights.sum(), 50, 4000
    seen = np.zeros(len(counts), np.int64)
    for key in range(keys):
        table = aligned_rows.negative_table(counts, exponent, size, 1, key)
        assert len(table) == size and table.dtype == np.int32
        actual = np.bincount(table, minlength=len(counts))
        assert (np.abs(actual - share * size) < 1).all()
        seen += actual
    # Stratified counts spread less than independent ones would, so that the test can only be too kind to chance.
    assert chisquare(seen, share * size * keys).pvalue > 0.01
    rare = share * size < 0.5
    assert np.allclose(seen[rare], (share * size * keys)[rare], rtol=0.2, atol=25)


def test_a_table_depends_on_its_keys_and_has_no_order():
    counts = np.full(1000, 7)
    one, same, other = (aligned_rows.negative_table(counts, 0.75, 10_000, 1, key) for key in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.05 and abs(np.corrcoef(one, np.arange(10_000))[0, 1]) < 0.05


@pytest.mark.slow
def test_another_process_finds_the_kernel_on_disk(tmp_path):
    code = "from embedall_spark.train import sgns; print(sum(sgns.kernel(64, 3).stats.cache_hits.values()))"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    hits = [
        int(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)
        for _ in range(2)
    ]
    assert hits == [0, 1]
