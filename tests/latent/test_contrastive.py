"""The contrastive loss against numpy; the refinement where there is something to gain, and where there is not."""

import numpy as np
import pytest

from embedall_spark.errors import ConfigError, TrainingDiverged
from embedall_spark.evaluate import retrieval
from embedall_spark.latent.fit import contrastive
from embedall_spark.latent.fit.contrastive import ContrastiveConfig, Pairs

torch = pytest.importorskip("torch")


def test_loss_is_numpys():
    random = np.random.default_rng(1)
    x, y = random.standard_normal((2, 6, 3))
    left, right = random.standard_normal((2, 3, 3))
    lefts, rights, weights = np.array([0, 1, 2, 3, 0, 4]), np.array([0, 1, 1, 2, 3, 4]), random.uniform(0.5, 2, 6)
    units = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x @ left, y @ right)]
    logits = units[0] @ units[1].T * 5
    total = 0.0
    for row in range(6):
        partners = (lefts == lefts[row]) | (rights == rights[row])
        for line in (logits[row], logits[:, row]):
            chances = np.exp(line) / np.exp(line).sum()
            total -= weights[row] * np.log(chances[partners]).mean() / 2
    batch = [torch.from_numpy(part) for part in (x, y, lefts, rights, weights)]
    ends = [torch.from_numpy(part) for part in (left, right)]
    found = contrastive.loss(batch, *ends, torch.tensor(np.log(5.0)))
    assert float(found) == pytest.approx(total / weights.sum())


@pytest.fixture(scope="module")
def spoiled():
    """Pairs that share three of ten numbers; the other seven, which are larger, tell nothing."""
    random = np.random.default_rng(2)
    shared = random.standard_normal((600, 3))
    sides = [
        np.hstack([shared + 0.1 * random.standard_normal((600, 3)), 2 * random.standard_normal((600, 7))]) for _ in "xy"
    ]
    left, right = (side.astype(np.float32) for side in sides)
    ids = np.arange(600)

    def score(a, b):
        figures = retrieval.measure(left[500:] @ a, right[500:] @ b, np.repeat(np.arange(100)[:, None], 2, axis=1))
        return figures["left_to_right/mrr"]

    return Pairs(left[:500], right[:500], ids[:500], ids[:500], np.ones(500)), score


def test_what_can_be_gained_is_and_twice_the_same(spoiled):
    pairs, score = spoiled
    config = ContrastiveConfig(epochs=15, batch=100, rate=0.1)
    found, again = (contrastive.refine(pairs, config, score) for _ in range(2))
    assert found.scores[0] < 0.3 < 0.7 < found.scores[found.epoch] == max(found.scores)
    assert score(found.left, found.right) == found.scores[found.epoch]
    np.testing.assert_array_equal(found.left, again.left)
    assert len(found.scores) == 16


def test_the_closed_form_stays_where_nothing_is_better(spoiled):
    pairs, _ = spoiled
    found = contrastive.refine(pairs, ContrastiveConfig(epochs=2), lambda a, b: -np.abs(a - np.eye(10)).sum())
    assert (found.epoch, found.temperature) == (0, 0.07)
    np.testing.assert_array_equal(found.left, np.eye(10))


def test_what_cannot_be_refined_says_why(spoiled):
    pairs, score = spoiled
    with pytest.raises(ConfigError, match="need 2 or more"):
        contrastive.refine(Pairs(*(part[:1] for part in pairs)), ContrastiveConfig(), score)
    broken = pairs._replace(left=np.full_like(pairs.left, np.nan))
    with pytest.raises(TrainingDiverged, match="not finite in epoch 1"):
        contrastive.refine(broken, ContrastiveConfig(), score)
