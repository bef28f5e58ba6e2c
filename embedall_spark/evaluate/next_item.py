"""How well the last item of a story is predicted from those before it: by the model, and by two baselines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.evaluate import cooccurrence_baseline, skipgram_ranking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.train.config import SkipGram

    Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)

MAX_STORIES = 100_000
# Of a basket as many items are looked at; more change no figure.
_MOST = 20
_CUTS = (10, 20)
_SYSTEMS = ("next_item", "popularity", "cooccurrence")
_MISS = 2**31 - 1
_ENCODED = "context array<int>, answer int"


class Questions(NamedTuple):
    """Stories to be completed; ids are those of VOCABULARY."""

    context: NDArray[np.int32]
    """The items before the last, the nearest one first, int32 [n, reach]; -1 where there is none, or it is unknown."""
    weights: NDArray[np.float64]
    """What each of them counts, float64 [n, reach]; each story's sum is 1, or 0 where no item is known."""
    answer: NDArray[np.int32]
    """The last item, int32 [n]; -1 where it is unknown."""

    def some(self, at: slice | NDArray[np.bool_]) -> Questions:
        """Return a part of the stories."""
        return Questions(self.context[at], self.weights[at], self.answer[at])


def reach(config: SkipGram) -> int:
    """Return how many items before the last are looked at: the window, and 20 at most."""
    return min(config.window, _MOST)


def figures() -> list[str]:
    """Return the names of evaluate()'s figures."""
    return [name for system in _SYSTEMS for name in _summary(system, np.array([0]))]


def evaluate(
    held: DataFrame, vectors: DataFrame, blocks: DataFrame, vocabulary: DataFrame, folder: str, config: SkipGram
) -> dict[str, float]:
    """Return hit rate and MRR at 10 and 20 of the stories held out, for the model and the baselines.

    An unknown answer is a miss; items of the context are no candidates.

    ``next_item``: by the model's own estimate of the logarithm of P(answer | context), up to a constant: the dot
    product of the mean of the context's vectors with the answer's context vector, plus ``ns_exponent`` times the
    logarithm of the answer's count (Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization",
    section 3.1). ``popularity``: by count. ``cooccurrence``: by the sum of cooccurrence.similar() over the context.
    The item at distance d weighs 1 / d^2 where windows shrink, that is where the order counts, and else 1.

    Args:
        held: as holdout.split() returns it; all rows are asked.
        vectors: id, vector, context and count, context vectors included.
        blocks: BLOCKS, what the model was trained on.
        vocabulary: VOCABULARY, whose parquet files lie in ``folder``.
        folder: a path or URI.
        config: options of the training.
    """
    asked = _encode(held, folder, config)
    if not len(asked.answer):
        log.warning("no story was held out, so that predictions cannot be judged; raise evaluate.holdout")
        return {}
    # Without a known item there is nothing to go by, and an unknown answer is not to be had.
    told = (asked.answer >= 0) & (asked.weights > 0).any(axis=1)
    ranks = {system: np.full(len(told), _MISS) for system in _SYSTEMS}
    if told.any():
        some, shrink = asked.some(told), config.shrink_windows
        ranks["next_item"][told] = skipgram_ranking.ranks(some, vectors, folder, config)
        ranks["popularity"][told] = _popularity(some)
        ranks["cooccurrence"][told] = cooccurrence_baseline.ranks(
            some, blocks, vocabulary, config.window, shrink, max(_CUTS)
        )
    found = {name: value for system, places in ranks.items() for name, value in _summary(system, places).items()}
    for system in ranks:
        log.info("%s: hit rate at 20 %.3f, MRR %.3f, %d stories", system, found[f"{system}/hit_rate_20"],
                 found[f"{system}/mrr_20"], len(asked.answer))  # fmt: skip
    return found


def _summary(system: str, ranks: NDArray[np.int64]) -> dict[str, float]:
    """Return the figures of ranks, the best one 0."""
    hits = {f"{system}/hit_rate_{cut}": float((ranks < cut).mean()) for cut in _CUTS}
    return hits | {f"{system}/mrr_{cut}": float(np.where(ranks < cut, 1 / (ranks + 1.0), 0).mean()) for cut in _CUTS}


def _encode(held: DataFrame, folder: str, config: SkipGram) -> Questions:
    """Bring the stories to the driver, MAX_STORIES at most, a few numbers each."""
    table = held.orderBy("draw", "id").select("context", "answer").mapInArrow(_coder(folder), _ENCODED).toArrow()
    most, lists = reach(config), table["context"].combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    ends, flat = np.cumsum(lengths, dtype=np.int64), lists.flatten().to_numpy()
    context = np.full((len(lists), most), -1, np.int32)
    for step in range(most):
        some = np.flatnonzero(lengths > step)
        context[some, step] = flat[ends[some] - 1 - step]
    # The order counts where windows shrink.
    weights = np.where(context < 0, 0.0, 1.0 / np.arange(1, most + 1) ** (2 if config.shrink_windows else 0))
    sums = weights.sum(axis=1, keepdims=True)
    np.divide(weights, sums, out=weights, where=sums > 0)
    return Questions(context, weights, table["answer"].to_numpy().astype(np.int32))


def _coder(folder: str) -> Callable[[Batches], Batches]:
    def encoded(batches: Batches) -> Batches:
        lookup = VocabularyIndex.open(folder)
        for batch in batches:
            lists = batch.column("context")
            offsets = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))])
            context = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(lookup.ids(lists.flatten())))
            answers = pa.array(lookup.ids(batch.column("answer")))
            yield pa.RecordBatch.from_arrays([context, answers], names=["context", "answer"])

    return encoded


def _popularity(asked: Questions) -> NDArray[np.int64]:
    """Return the ranks of the answers by count: ids are by falling count."""
    ordered = np.sort(asked.context, axis=1)
    fresh = (ordered >= 0) & (np.diff(ordered, axis=1, prepend=-2) != 0)
    before = (fresh & (ordered < asked.answer[:, None])).sum(axis=1)
    return np.asarray(asked.answer - before, np.int64)
