"""GloVe's kernel cell by cell against a reference in numpy, and its gradient against finite differences."""

import numpy as np
import pytest

from embedall_spark.train import glove_kernel

TOKENS = 9
X_MAX, ALPHA, ETA, CLIP = (np.float32(value) for value in (10, 0.75, 0.05, 100))


class Reference:
    """The model as the authors' program holds it, in float64: vectors, biases, sums of squared gradients."""

    def __init__(self, random, dim):
        self.w, self.c = ((random.random((TOKENS, dim + 1)) - 0.5) / dim for _ in range(2))
        self.w_squares, self.c_squares = np.ones_like(self.w), np.ones_like(self.c)

    def cost(self, i, j, x):
        difference = self.w[i, :-1] @ self.c[j, :-1] + self.w[i, -1] + self.c[j, -1] - np.log(x)
        return 0.5 * min(1.0, (x / X_MAX) ** ALPHA) * difference**2

    def gradients(self, i, j, x):
        difference = self.w[i, :-1] @ self.c[j, :-1] + self.w[i, -1] + self.c[j, -1] - np.log(x)
        factor = min(1.0, (x / X_MAX) ** ALPHA) * difference
        return factor * np.append(self.c[j, :-1], 1), factor * np.append(self.w[i, :-1], 1)

    def step(self, i, j, x, clip):
        # Biases are neither clipped nor slowed by eta.
        of_w, of_c = (
            np.append(ETA * np.clip(gradient[:-1], -clip, clip), gradient[-1]) for gradient in self.gradients(i, j, x)
        )
        self.w[i] -= of_w / np.sqrt(self.w_squares[i])
        self.c[j] -= of_c / np.sqrt(self.c_squares[j])
        self.w_squares[i] += of_w**2
        self.c_squares[j] += of_c**2


def cells(random, count=400):
    ids = random.integers(TOKENS, size=(2, count)).astype(np.int32)
    return ids[0], ids[1], (random.pareto(0.7, count) + 0.03).astype(np.float32)


@pytest.mark.parametrize(("dim", "clip"), [(3, 100), (14, 100), (50, 0.05)])
def test_steps(dim, clip):
    random = np.random.default_rng(dim)
    reference, (rows, columns, counts) = Reference(random, dim), cells(random)
    inputs, outputs = glove_kernel.initial_rows(reference.w.astype(np.float32), reference.c.astype(np.float32), dim)
    loss = glove_kernel.kernel(dim)(
        rows, columns, counts, 0, len(counts), inputs, outputs, X_MAX, ALPHA, ETA, np.float32(clip)
    )
    cost = 0.0
    for i, j, x in zip(rows, columns, counts.astype(np.float64), strict=True):
        cost += reference.cost(i, j, x)
        reference.step(i, j, x, clip)
    half = glove_kernel.half_length(dim)
    assert loss == pytest.approx(cost, rel=1e-4)
    assert np.allclose(inputs[:, : dim + 1], reference.w, atol=2e-5)
    assert np.allclose(outputs[:, [*range(dim), dim + 1]], reference.c, atol=2e-5)
    assert np.allclose(inputs[:, half : half + dim + 1], reference.w_squares, rtol=1e-4)
    # The constants stay, and what fills up a row stays zero.
    assert (inputs[:, dim + 1] == 1).all() and (outputs[:, dim] == 1).all()
    assert not inputs[:, dim + 2 : half].any() and not outputs[:, dim + 2 : half].any()


def test_reference_gradient_by_finite_differences():
    random = np.random.default_rng(1)
    reference = Reference(random, 4)
    of_w, of_c = reference.gradients(2, 2, 3.7)
    for values, gradient in ((reference.w, of_w), (reference.c, of_c)):
        for k in range(5):
            costs = []
            for change in (1e-6, -2e-6):
                values[2, k] += change
                costs.append(reference.cost(2, 2, 3.7))
            values[2, k] += 1e-6
            assert (costs[0] - costs[1]) / 2e-6 == pytest.approx(gradient[k], rel=1e-5, abs=1e-8)


def test_a_part_of_the_cells_and_values_that_are_not_finite():
    random = np.random.default_rng(2)
    rows, columns, counts = cells(random, 20)
    inputs, outputs = glove_kernel.initial_rows(*(random.random((2, TOKENS, 9)).astype(np.float32) - 0.5), 8)
    before = inputs.copy()
    inputs[rows[7], 0] = np.nan
    marked = inputs.copy()
    loss = glove_kernel.kernel(8)(rows, columns, counts, 7, 8, inputs, outputs, X_MAX, ALPHA, ETA, CLIP)
    assert loss == 0
    assert np.array_equal(inputs, marked, equal_nan=True)
    inputs[:] = before
    assert glove_kernel.kernel(8)(rows, columns, counts, 3, 5, inputs, outputs, X_MAX, ALPHA, ETA, CLIP) > 0
    changed = np.flatnonzero((inputs != before).any(axis=1))
    assert set(changed) == {rows[3], rows[4]}


def test_few_tokens_in_many_dimensions_stay_finite():
    random = np.random.default_rng(3)
    inputs, outputs = glove_kernel.initial_rows(
        *((random.random((2, TOKENS, 501)).astype(np.float32) - 0.5) / 500), 500
    )
    rows, columns = (side.ravel().astype(np.int32) for side in np.mgrid[:TOKENS, :TOKENS])
    counts = np.exp(random.uniform(-7, 14, len(rows))).astype(np.float32)
    losses = [
        glove_kernel.kernel(500)(rows, columns, counts, 0, len(rows), inputs, outputs, X_MAX, ALPHA, ETA, CLIP)
        for _ in range(200)
    ]
    assert np.isfinite(inputs).all() and np.isfinite(outputs).all()
    assert losses[-1] < losses[0] / 10
