"""Analogies by vector arithmetic: a is to b as c is to what? Exact, for one question or many at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from embedall_spark.errors import ConfigError
from embedall_spark.search import exact
from embedall_spark.search.exact_kernel import block_top_k_mul
from embedall_spark.vectors import unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from embedall_spark.search.local_table import Vectors

    Question = tuple[str, str, str]
    Hit = tuple[str, float]

Method = Literal["add", "mul"]


def answer(
    vectors: Vectors,
    questions: Sequence[Question],
    k: int = 10,
    *,
    method: Method = "add",
    restrict: int | None = None,
    epsilon: float = 1e-3,
) -> list[list[Hit]]:
    """Return the ``k`` best answers to each question "a is to b as c is to" as (id, score), best first.

    ``add`` is 3CosAdd (Mikolov et al. 2013): the cosine to b - a + c over unit vectors. ``mul`` is 3CosMul (Levy and
    Goldberg 2014, eq. 4): cos(b)cos(c) / (cos(a) + epsilon) with cosines shifted to [0, 1]. The three ids of a
    question are never its answer.

    Args:
        vectors: VECTORS.
        questions: ids (a, b, c) of the table.
        k: how many answers.
        method: ``add`` or ``mul``.
        restrict: answer with this many most frequent ids only.
        epsilon: of ``mul``; 1e-3 as in the paper.

    Raises:
        UnknownId: ids that are not in the table, with the nearest spellings.
        BadData: an id's vector has no direction.
        ConfigError: too many questions at once.
    """
    words = exact.require_vectors(vectors, [word for question in questions for word in question])
    exact.require_directions(words)
    return solve(vectors, words, questions, k, method=method, restrict=restrict, epsilon=epsilon)


def combine(
    vectors: Vectors,
    positive: Sequence[str],
    negative: Sequence[str],
    k: int = 10,
    *,
    words: Mapping[str, NDArray[np.float32]] | None = None,
    candidates: Vectors | None = None,
    restrict: int | None = None,
) -> list[Hit]:
    """Return the ``k`` ids nearest to the sum of some ids' unit vectors minus others', as (id, score), best first.

    None of the given ids is among the answers.

    Args:
        vectors: VECTORS.
        positive: ids whose vectors are added.
        negative: ids whose vectors are subtracted.
        k: how many.
        words: the vectors of the ids, float32 [d] each; None: those of the table.
        candidates: the rows to find; None: all.
        restrict: answer with this many most frequent ids only.

    Raises:
        UnknownId: ids that are not in the table.
        BadData: an id's vector has no direction.
        ConfigError: the vectors cancel each other out.
    """
    if words is None:
        words = exact.require_vectors(vectors, [*positive, *negative])
        exact.require_directions(words)
    added, subtracted = (
        unit(np.stack([words[name] for name in names])).sum(axis=0) if names else np.float32(0)
        for names in (positive, negative)
    )
    query = np.atleast_1d(added - subtracted)
    if not np.abs(query).max() > 1e-6:
        raise ConfigError("these ids cancel each other out: the sum of their vectors is zero; leave some of them out")
    rows, exclude = vectors if candidates is None else candidates, [{*positive, *negative}]
    [hits] = exact.top_k(rows, query[None], k, exclude=exclude, restrict=restrict, same_table=True)
    return hits


def solve(
    vectors: Vectors,
    words: Mapping[str, NDArray[np.float32]],
    questions: Sequence[Question],
    k: int,
    *,
    method: Method = "add",
    restrict: int | None = None,
    epsilon: float = 1e-3,
) -> list[list[Hit]]:
    """Return answers as answer() does, given the vectors of the questions' ids, float32 [d] each, as ``words``.

    Many questions are answered in several jobs, each within what travels to a task.
    """
    if not questions:
        return []
    names = {word: row for row, word in enumerate(words)}
    units = unit(np.stack(list(words.values())))
    per_question = 3 * units.shape[1] * units.itemsize
    step = max(1, min(exact.MAX_QUERY_BYTES // per_question, exact.MAX_RESULTS // k))
    candidates = vectors if restrict is None else exact.most_frequent(vectors, restrict)
    hits: list[list[Hit]] = []
    for start in range(0, len(questions), step):
        part = questions[start : start + step]
        triples = units[[[names[word] for word in question] for question in part]]
        exclude = [set(question) for question in part]
        if method == "add":
            a, b, c = (triples[:, i] for i in range(3))
            hits += exact.top_k(candidates, b - a + c, k, exclude=exclude, same_table=True)
        else:
            block = partial(block_top_k_mul, triples=triples, epsilon=epsilon)
            hits += exact.search(candidates, block, triples, k, exclude=exclude)
    return hits
