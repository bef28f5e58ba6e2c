"""How well the last item of a story is predicted from the items before it: by the model, and by two baselines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedall_spark import list_offsets
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.evaluate import cooccurrence_baseline, skipgram_ranking
from embedall_spark.evaluate.questions import Questions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.train.config import TrainConfig

    Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)

MAX_STORIES = 100_000
_MAX_CONTEXT = 20  # items of a basket; more change no figure
_CUTS = (10, 20)
_SYSTEMS = ("next_item", "popularity", "cooccurrence")
_MISS = 2**31 - 1
_ENCODED = "context array<int>, answer int"


def reach(config: TrainConfig) -> int:
    """Return how many items before the last one are used: the window, and 20 at most."""
    return min(config.window, _MAX_CONTEXT)


def figures() -> list[str]:
    """Return the names of evaluate()'s figures."""
    return [name for system in _SYSTEMS for name in _summary(system, np.array([0]))]


def evaluate(
    held: DataFrame, vectors: DataFrame, blocks: DataFrame, vocabulary: DataFrame, folder: str, config: TrainConfig
) -> dict[str, float]:
    """Return hit rate and MRR at 10 and 20 on the held-out stories, for the model and the baselines.

    A story whose answer is unknown, or all of its context, is a miss; items of the context are no candidates.

    ``next_item``: by the model's own estimate of the logarithm of P(answer | context), up to a constant: the dot
    product of the mean of the context's vectors with the answer's context vector, plus ``ns_exponent`` times the
    logarithm of the answer's count (Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization",
    section 3.1). ``popularity``: by count. ``cooccurrence``: by the sum of cooccurrence_baseline.similar() over the
    context.
    The item at distance d weighs 1 / d^2 if windows shrink, that is if the order counts, and else 1.

    Args:
        held: as last_item_holdout.split() returns it; each row is a question.
        vectors: id, vector, context and count, context vectors included.
        blocks: BLOCKS, what the model was trained on.
        vocabulary: VOCABULARY, whose parquet files lie in ``folder``.
        folder: a path or URI.
        config: options of the training.
    """
    questions = _encode(held, folder, config)
    if not len(questions.answer):
        log.warning("no story was held out, so that predictions cannot be judged; raise evaluate.holdout")
        return {}
    # Stories without a known context or answer count as misses.
    is_known = (questions.answer >= 0) & (questions.weights > 0).any(axis=1)
    ranks = {system: np.full(len(is_known), _MISS) for system in _SYSTEMS}
    if is_known.any():
        known, shrink = questions.select(is_known), config.shrink_windows
        ranks["next_item"][is_known] = skipgram_ranking.ranks(known, vectors, folder, config)
        ranks["popularity"][is_known] = _popularity(known)
        ranks["cooccurrence"][is_known] = cooccurrence_baseline.ranks(
            known, blocks, vocabulary, config.window, shrink, max(_CUTS)
        )
    figures = {name: value for system, places in ranks.items() for name, value in _summary(system, places).items()}
    for system in ranks:
        hit_rate, mrr = figures[f"{system}/hit_rate_20"], figures[f"{system}/mrr_20"]
        log.info("%s: hit rate at 20 %.3f, MRR %.3f, %d stories", system, hit_rate, mrr, len(questions.answer))
    return figures


def _summary(system: str, ranks: NDArray[np.int64]) -> dict[str, float]:
    """Return the figures of ranks, the best one 0."""
    hits = {f"{system}/hit_rate_{cut}": float((ranks < cut).mean()) for cut in _CUTS}
    return hits | {f"{system}/mrr_{cut}": float(np.where(ranks < cut, 1 / (ranks + 1.0), 0).mean()) for cut in _CUTS}


def _encode(held: DataFrame, folder: str, config: TrainConfig) -> Questions:
    """Bring the stories to the driver, MAX_STORIES at most, a few integers each."""
    table = held.orderBy("draw", "id").select("context", "answer").mapInArrow(_coder(folder), _ENCODED).toArrow()
    width, lists = reach(config), table["context"].combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    ends, flat = np.cumsum(lengths, dtype=np.int64), lists.flatten().to_numpy()
    context = np.full((len(lists), width), -1, np.int32)
    for step in range(width):
        rows = np.flatnonzero(lengths > step)
        context[rows, step] = flat[ends[rows] - 1 - step]
    # The order counts if windows shrink.
    weights = np.where(context < 0, 0.0, 1.0 / np.arange(1, width + 1) ** (2 if config.shrink_windows else 0))
    sums = weights.sum(axis=1, keepdims=True)
    np.divide(weights, sums, out=weights, where=sums > 0)
    return Questions(context, weights, table["answer"].to_numpy().astype(np.int32))


def _coder(folder: str) -> Callable[[Batches], Batches]:
    def encoded(batches: Batches) -> Batches:
        lookup = None
        for batch in batches:
            lookup = lookup or VocabularyIndex.open(folder)
            lists = batch.column("context")
            offsets = list_offsets.from_lengths(lists.value_lengths().to_numpy(zero_copy_only=False))
            context = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(lookup.ids(lists.flatten())))
            answers = pa.array(lookup.ids(batch.column("answer")))
            yield pa.RecordBatch.from_arrays([context, answers], names=["context", "answer"])

    return encoded


def _popularity(questions: Questions) -> NDArray[np.int64]:
    """Return the ranks of the answers by count; ids are in the order of falling counts."""
    ordered = np.sort(questions.context, axis=1)
    is_first = (ordered >= 0) & (np.diff(ordered, axis=1, prepend=-2) != 0)
    before = (is_first & (ordered < questions.answer[:, None])).sum(axis=1)
    return np.asarray(questions.answer - before, np.int64)
