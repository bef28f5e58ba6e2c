"""Ranks of answers by a skip-gram model's own estimate of their likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.vectors import to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.evaluate.questions import Questions
    from embedall_spark.train.config import TrainConfig

    Batches = Iterable[pa.RecordBatch]

_MAX_BYTES = 64 << 20  # of the vectors that come to the driver at once
_MAX_CELLS = 1 << 22  # scores in a task's memory at once
_WANTED = "id int, vector array<float>, context array<float>, count bigint"


def ranks(questions: Questions, vectors: DataFrame, folder: str, config: TrainConfig) -> NDArray[np.int64]:
    """Return how many items are likelier than each answer, int64 [n]; the context's items are not counted.

    The score of an item is the dot product of its context vector with the context's weighted mean of vectors, plus
    ``ns_exponent`` times the logarithm of its count; with GloVe, which fits log X_ij, the logarithm itself.

    Args:
        questions: the stories, whose answers are known.
        vectors: id, vector, context and count of every item.
        folder: where the VOCABULARY's parquet files lie, a path or URI.
        config: options of the training.
    """
    exponent = 1.0 if config.method == "glove" else config.ns_exponent
    step = max(1, _MAX_BYTES // (8 * config.vector_size * (questions.context.shape[1] + 1)))
    parts = [slice(start, start + step) for start in range(0, len(questions.answer), step)]
    return np.concatenate([_ranks(questions.select(part), vectors, folder, exponent) for part in parts])


def _ranks(questions: Questions, vectors: DataFrame, folder: str, exponent: float) -> NDArray[np.int64]:
    wanted = np.unique(np.r_[questions.context.ravel(), questions.answer])
    table = vectors.mapInArrow(_fetcher(folder, wanted), _WANTED).toArrow().sort_by("id").combine_chunks()
    ids, inputs = table["id"].to_numpy(), to_matrix(table["vector"])

    def place(items: NDArray[np.int32]) -> NDArray[np.int64]:
        # An unknown item is read from place 0, but weighs nothing.
        return np.where(items < 0, 0, np.searchsorted(ids, items))

    outputs = _outputs(table, exponent)
    queries = np.ones((len(questions.answer), outputs.shape[1]), np.float32)
    queries[:, :-1] = 0
    for items, weights in zip(questions.context.T, questions.weights.T, strict=True):
        queries[:, :-1] += inputs[place(items)] * weights[:, None]
    answer_scores = np.einsum("ij,ij->i", queries, outputs[place(questions.answer)])
    excluded = np.c_[questions.context, questions.answer]
    job = vectors.mapInArrow(
        _counter(folder, queries, answer_scores, excluded, exponent), "counts array<bigint>"
    ).toArrow()
    counts: NDArray[np.int64] = (
        job["counts"].combine_chunks().flatten().to_numpy().reshape(-1, len(queries)).sum(axis=0)
    )
    return counts


def _outputs(table: pa.Table | pa.RecordBatch, exponent: float) -> NDArray[np.float32]:
    """Return the context vectors and, as a last column, the scaled logarithm of the counts, float32 [n, d + 1]."""
    columns: NDArray[np.float64] = np.c_[to_matrix(table["context"]), exponent * np.log(table["count"].to_numpy())]
    return columns.astype(np.float32)


def _fetcher(folder: str, wanted: NDArray[np.int32]) -> Callable[[Batches], Batches]:
    def fetched(batches: Batches) -> Batches:
        lookup = VocabularyIndex.open(folder)
        for batch in batches:
            ids = lookup.ids(batch["id"])
            rows = pa.array(np.flatnonzero(np.isin(ids, wanted)))
            columns = [batch[name].take(rows) for name in ("vector", "context", "count")]
            yield pa.RecordBatch.from_arrays([pa.array(ids).take(rows), *columns], ["id", "vector", "context", "count"])

    return fetched


def _counter(
    folder: str,
    queries: NDArray[np.float32],
    answer_scores: NDArray[np.float32],
    excluded: NDArray[np.int32],
    exponent: float,
) -> Callable[[Batches], Batches]:
    """Build the task's function: how many of its items, without the excluded ones, score above each query's answer."""

    def counted(batches: Batches) -> Batches:
        lookup = VocabularyIndex.open(folder)
        counts = np.zeros(len(queries), np.int64)
        with threadpool_limits(1):
            for batch in batches:
                if not batch.num_rows:
                    continue
                ids, outputs = lookup.ids(batch["id"]), _outputs(batch, exponent)
                order = np.argsort(ids)
                places = np.minimum(np.searchsorted(ids, excluded, sorter=order), len(ids) - 1)
                here = ids[order[places]] == excluded
                step = max(1, _MAX_CELLS // len(ids))
                for start in range(0, len(queries), step):
                    part = slice(start, start + step)
                    scores = queries[part] @ outputs.T
                    query, column = np.nonzero(here[part])
                    scores[query, order[places[part][query, column]]] = -np.inf
                    counts[part] += (scores > answer_scores[part, None]).sum(axis=1)
        offsets = pa.array([0, len(counts)], pa.int32())
        yield pa.RecordBatch.from_arrays([pa.ListArray.from_arrays(offsets, pa.array(counts))], ["counts"])

    return counted
