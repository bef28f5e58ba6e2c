"""Ranks of answers by a skip-gram model's own estimate of how likely they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.search import exact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.evaluate.next_item import Questions
    from embedall_spark.train.config import SkipGram

    Batches = Iterable[pa.RecordBatch]

_BYTES = 64 << 20  # of the vectors that come to the driver at once
_CELLS = 1 << 22  # scores that a task holds at once
_WANTED = "id int, vector array<float>, context array<float>, count bigint"


def ranks(asked: Questions, vectors: DataFrame, folder: str, config: SkipGram) -> NDArray[np.int64]:
    """Return how many items are likelier than each answer, int64 [n]; the context's items are not counted.

    The score of an item is the dot product of its context vector with the context's weighted mean of vectors, plus
    ``ns_exponent`` times the logarithm of its count.

    Args:
        asked: the stories, answers known.
        vectors: id, vector, context and count of every item.
        folder: where the VOCABULARY's parquet files lie, a path or URI.
        config: options of the training.
    """
    step = max(1, _BYTES // (8 * config.vector_size * (asked.context.shape[1] + 1)))
    parts = [slice(at, at + step) for at in range(0, len(asked.answer), step)]
    return np.concatenate([_ranks(asked.some(part), vectors, folder, config.ns_exponent) for part in parts])


def _ranks(asked: Questions, vectors: DataFrame, folder: str, exponent: float) -> NDArray[np.int64]:
    wanted = np.unique(np.r_[asked.context.ravel(), asked.answer])
    table = vectors.mapInArrow(_fetcher(folder, wanted), _WANTED).toArrow().sort_by("id").combine_chunks()
    ids, inputs = table["id"].to_numpy(), exact.to_matrix(table["vector"].combine_chunks())

    def place(items: NDArray[np.int32]) -> NDArray[np.int64]:
        # An unknown item is that of the place 0, and weighs nothing.
        return np.where(items < 0, 0, np.searchsorted(ids, items))

    outputs = _outputs(table, exponent)
    queries = np.ones((len(asked.answer), outputs.shape[1]), np.float32)
    queries[:, :-1] = 0
    for items, weights in zip(asked.context.T, asked.weights.T, strict=True):
        queries[:, :-1] += inputs[place(items)] * weights[:, None]
    least = np.einsum("ij,ij->i", queries, outputs[place(asked.answer)])
    barred = np.c_[asked.context, asked.answer]
    job = vectors.mapInArrow(_counter(folder, queries, least, barred, exponent), "counts array<bigint>").toArrow()
    counts: NDArray[np.int64] = (
        job["counts"].combine_chunks().flatten().to_numpy().reshape(-1, len(queries)).sum(axis=0)
    )
    return counts


def _outputs(table: pa.Table | pa.RecordBatch, exponent: float) -> NDArray[np.float32]:
    """Return the context vectors with one number more, which a query meets with 1."""
    column = table["context"]
    rows = exact.to_matrix(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    found: NDArray[np.float32] = np.c_[rows, exponent * np.log(table["count"].to_numpy())].astype(np.float32)
    return found


def _fetcher(folder: str, wanted: NDArray[np.int32]) -> Callable[[Batches], Batches]:
    def fetched(batches: Batches) -> Batches:
        lookup = VocabularyIndex.open(folder)
        for batch in batches:
            ids = lookup.ids(batch["id"])
            found = pa.array(np.flatnonzero(np.isin(ids, wanted)))
            columns = [batch[name].take(found) for name in ("vector", "context", "count")]
            yield pa.RecordBatch.from_arrays(
                [pa.array(ids).take(found), *columns], ["id", "vector", "context", "count"]
            )

    return fetched


def _counter(
    folder: str, queries: NDArray[np.float32], least: NDArray[np.float32], barred: NDArray[np.int32], exponent: float
) -> Callable[[Batches], Batches]:
    """Build the task's function: how many of its items, but those barred, score above each query's ``least``."""

    def counted(batches: Batches) -> Batches:
        lookup = VocabularyIndex.open(folder)
        counts = np.zeros(len(queries), np.int64)
        with threadpool_limits(1):
            for batch in batches:
                if not batch.num_rows:
                    continue
                ids, outputs = lookup.ids(batch["id"]), _outputs(batch, exponent)
                order = np.argsort(ids)
                places = np.minimum(np.searchsorted(ids, barred, sorter=order), len(ids) - 1)
                here = ids[order[places]] == barred
                step = max(1, _CELLS // len(ids))
                for start in range(0, len(queries), step):
                    part = slice(start, start + step)
                    scores = queries[part] @ outputs.T
                    query, column = np.nonzero(here[part])
                    scores[query, order[places[part][query, column]]] = -np.inf
                    counts[part] += (scores > least[part, None]).sum(axis=1)
        offsets = pa.array([0, len(counts)], pa.int32())
        yield pa.RecordBatch.from_arrays([pa.ListArray.from_arrays(offsets, pa.array(counts))], ["counts"])

    return counted
