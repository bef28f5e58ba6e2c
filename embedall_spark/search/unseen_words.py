"""Vectors of words that no table has, composed from the vectors of their n-grams as fastText does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.corpus import ngrams
from embedall_spark.vectors import to_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame


def compose(table: DataFrame, words: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of a few words, float32 [d] each: the mean over their n-grams.

    An n-gram that no word of the vocabulary has counts as zeros; a word that has only such n-grams is left out.

    Args:
        table: NGRAMS.
        words: the words, as the run's tokenizer would give them.
    """
    first = table.first()
    if first is None:
        return {}
    lengths = ngrams.Lengths(first["min_n"], first["max_n"], first["buckets"])
    offsets, buckets = ngrams.buckets_of(pa.array(words, pa.string()), lengths)
    wanted = table.where(F.col("bucket").isin(np.unique(buckets).tolist())).select("bucket", "vector").toArrow()
    if not wanted.num_rows:
        return {}
    rows = dict(zip(wanted["bucket"].to_pylist(), to_matrix(wanted["vector"]), strict=True))
    composed = {}
    for word, begin, end in zip(words, offsets[:-1], offsets[1:], strict=True):
        known = [rows[bucket] for bucket in buckets[begin:end].tolist() if bucket in rows]
        if known:
            composed[word] = (np.sum(known, axis=0, dtype=np.float64) / (end - begin)).astype(np.float32)
    return composed
