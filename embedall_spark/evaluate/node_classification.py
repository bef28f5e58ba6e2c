"""Node classification as in the papers of DeepWalk and node2vec: how well vectors predict labels, without Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from embedall_spark.randomness import permutation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Matrix = NDArray[np.floating[Any]]
    Member = NDArray[np.bool_]


class F1(NamedTuple):
    """F1 over all decisions together (micro), and as the mean of the labels' own F1 (macro)."""

    micro: float
    macro: float


class Result(NamedTuple):
    """F1 of the vectors, and of always guessing the most frequent labels of the training set."""

    vectors: F1
    majority: F1


def learn(matrix: Matrix, member: Member, shares: Sequence[float], splits: int, seed: int) -> list[Result]:
    """Return how well vectors predict labels, for each training share, as the mean over splits.

    Protocol of DeepWalk's scoring script (Perozzi et al. 2014), which node2vec (Grover and Leskovec 2016, section 4.3)
    follows: one logistic regression per label with an L2 penalty of C = 1 on the vectors as they are; how many labels
    each test id has is given, and so many of the likeliest are predicted; macro F1 counts every label. The solver is
    L-BFGS, which is several times faster here than the script's liblinear. It finds the same optimum, but for the
    intercept, which liblinear alone penalizes.

    Args:
        matrix: a vector per id, floats [n, d], n of at least 2.
        member: which labels an id has, bool [n, labels], at least one each.
        shares: the shares of the ids to train on, each above 0 and below 1.
        splits: over how many random splits to take the mean.
        seed: of the splits; a larger share of the same split contains the smaller one.
    """
    sums = np.zeros((len(shares), 2, 2))
    for split in range(splits):
        order = permutation(len(matrix), seed, split)
        for place, share in enumerate(shares):
            cut = min(max(round(share * len(order)), 1), len(order) - 1)
            sums[place] += _one_split(matrix, member, order[:cut], order[cut:])
    return [Result(F1(*vectors), F1(*majority)) for vectors, majority in (sums / splits).tolist()]


def f1(truth: Member, predicted: Member) -> F1:
    """Return micro and macro F1, bool [n, labels] each; a label that is nowhere counts as 0, as in scikit-learn."""
    right = (truth & predicted).sum(axis=0)
    both = truth.sum(axis=0) + predicted.sum(axis=0)
    return F1(float(2 * right.sum() / max(both.sum(), 1)), float(np.mean(2 * right / np.maximum(both, 1))))


def best(scores: Matrix, counts: NDArray[np.int64]) -> Member:
    """Return the ``counts`` highest of each row of scores, bool [n, labels]; equal scores in the order of labels."""
    ranked = np.argsort(-scores, axis=1, kind="stable")
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, ranked, np.arange(scores.shape[1]) < counts[:, None], axis=1)
    return chosen


def _one_split(matrix: Matrix, member: Member, train: NDArray[np.int64], test: NDArray[np.int64]) -> list[F1]:
    truth = member[test]
    counts = truth.sum(axis=1)
    majority = np.broadcast_to(member[train].sum(axis=0), truth.shape)
    scores = _decide(matrix[train], member[train], matrix[test])
    return [f1(truth, best(ranked, counts)) for ranked in (scores, majority)]


def _decide(train: Matrix, member: Member, test: Matrix) -> Matrix:
    """Return the log odds of each label for each test vector, floats [test, labels]."""
    # Imported here, as all of scikit-learn and matplotlib: that takes seconds, and few commands need it.
    from sklearn.linear_model import LogisticRegression

    odds = np.empty((len(test), member.shape[1]), dtype=np.float32)
    # The products are small: several threads would wait for each other longer than they work.
    with threadpool_limits(1):
        for label, has_label in enumerate(member.T):
            if has_label.all() or not has_label.any():
                odds[:, label] = np.inf if has_label.any() else -np.inf
                continue
            model = LogisticRegression(C=1.0, solver="lbfgs", max_iter=1000).fit(train, has_label)
            odds[:, label] = model.decision_function(test)
    return odds
