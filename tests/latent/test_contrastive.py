"""The contrastive loss against numpy; the refinement with and without something to gain."""

import numpy as np
import pytest

from embedall_spark.errors import ConfigError, TrainingDiverged
from embedall_spark.evaluate import retrieval
from embedall_spark.latent.fit import contrastive
from embedall_spark.latent.fit.contrastive import ContrastiveConfig, Pairs

torch = pytest.importorskip("torch")


def test_the_loss_equals_numpys():
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
    actual = contrastive.loss(batch, *ends, torch.tensor(np.log(5.0)))
    assert float(actual) == pytest.approx(total / weights.sum())


@pytest.fixture(scope="module")
def noisy():
    """Return pairs that share three of ten dimensions; the other seven, which are larger, are noise."""
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


def test_refinement_improves_the_score_and_is_deterministic(noisy):
    pairs, score = noisy
    config = ContrastiveConfig(epochs=15, batch=100, rate=0.1)
    refined, again = (contrastive.refine(pairs, config, score) for _ in range(2))
    assert refined.scores[0] < 0.3 < 0.7 < refined.scores[refined.epoch] == max(refined.scores)
    assert score(refined.left, refined.right) == refined.scores[refined.epoch]
    np.testing.assert_array_equal(refined.left, again.left)
    assert len(refined.scores) == 16


def test_the_closed_form_stays_if_nothing_is_better(noisy):
    pairs, _ = noisy
    refined = contrastive.refine(pairs, ContrastiveConfig(epochs=2), lambda a, b: -np.abs(a - np.eye(10)).sum())
    assert (refined.epoch, refined.temperature) == (0, 0.07)
    np.testing.assert_array_equal(refined.left, np.eye(10))


def test_errors_say_why_nothing_can_be_refined(noisy):
    pairs, score = noisy
    with pytest.raises(ConfigError, match="need 2 or more"):
        contrastive.refine(Pairs(*(part[:1] for part in pairs)), ContrastiveConfig(), score)
    broken = pairs._replace(left=np.full_like(pairs.left, np.nan))
    with pytest.raises(TrainingDiverged, match="not finite in epoch 1"):
        contrastive.refine(broken, ContrastiveConfig(), score)
