from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import MultiLabelBinarizer

from embedall_spark.evaluate import node_classification
from embedall_spark.randomness import permutation


@pytest.fixture(scope="module")
def data():
    """Return vectors, 1 to 3 of 6 labels each, one of them rare, and one that two ids alone have."""
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(300, 8)).astype(np.float32)
    scores = matrix @ rng.normal(size=(8, 7)) + rng.normal(size=(300, 7)) - [0, 0, 0, 0, 0, 2, 9]
    member = node_classification.best(scores, rng.integers(1, 4, 300))
    member[:2, 6] = True
    return matrix, member


def test_by_hand():
    truth = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]], dtype=bool)
    predicted = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0]], dtype=bool)
    # Right: 3 of 4 predicted, 3 of 4 true. Of the labels: 4/4, 2/3, 0/1, and one that is nowhere.
    assert node_classification.f1(truth, predicted) == pytest.approx((6 / 8, (1 + 2 / 3) / 4))


def test_f1_is_that_of_sklearn():
    rng = np.random.default_rng(1)
    names = [[str(label) for label in rng.choice(9, rng.integers(1, 4), replace=False)] for _ in range(200)]
    binarizer = MultiLabelBinarizer(classes=[str(label) for label in range(10)])
    truth = binarizer.fit_transform(names[:100]).astype(bool)
    predicted = binarizer.transform(names[100:]).astype(bool)
    expected = [f1_score(truth, predicted, average=average, zero_division=0) for average in ("micro", "macro")]
    assert node_classification.f1(truth, predicted) == pytest.approx(expected)


def test_as_many_as_are_true_and_ties_in_order():
    scores = np.array([[0.5, 0.5, -np.inf, 0.5], [np.inf, 1, 2, 3]])
    assert node_classification.best(scores, np.array([2, 3])).tolist() == [
        [True, True, False, False],
        [True, False, True, True],
    ]


@pytest.mark.parametrize("solver", ["lbfgs", "liblinear"])
def test_the_protocol_with_sklearns_own_parts(data, solver):
    matrix, member = data
    actual = node_classification.learn(matrix, member, (0.2, 0.8), 3, seed=5)
    for result, share in zip(actual, (0.2, 0.8), strict=True):
        scores = []
        for split in range(3):
            order = permutation(300, 5, split)
            train, test = order[: int(300 * share)], order[int(300 * share) :]
            rest = OneVsRestClassifier(LogisticRegression(solver=solver)).fit(matrix[train], member[train].astype(int))
            odds = rest.predict_proba(matrix[test])
            counts = member[test].sum(axis=1)
            predicted = np.zeros_like(member[test])
            for row, count in enumerate(counts):
                predicted[row, np.argsort(-odds[row], kind="stable")[:count]] = True
            scores.append([f1_score(member[test], predicted, average=a, zero_division=0) for a in ("micro", "macro")])
        # liblinear penalizes the intercept too.
        tolerance = {"lbfgs": 1e-3, "liblinear": 0.02}[solver]
        assert result.vectors == pytest.approx(np.mean(scores, axis=0), abs=tolerance)
        assert result.vectors.micro > result.majority.micro + 0.1


def test_the_majority_is_that_of_the_training_ids(data):
    matrix, member = data
    (result,) = node_classification.learn(matrix, member, (0.5,), 1, seed=1)
    order = permutation(300, 1, 0)
    most = np.argsort(-member[order[:150]].sum(axis=0), kind="stable")
    right = sum(int(row[most[: row.sum()]].sum()) for row in member[order[150:]])
    assert result.majority.micro == pytest.approx(right / member[order[150:]].sum())


def test_two_ids_and_labels_that_all_have():
    member = np.array([[True, True], [True, False]])
    (result,) = node_classification.learn(np.eye(2, dtype=np.float32), member, (0.01,), 4, seed=1)
    assert 0.5 <= result.vectors.micro <= 1
