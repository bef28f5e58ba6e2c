"""The last items of some stories, kept from training, so that a prediction of them can be judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.corpus import encoded_pages as paging
from embedall_spark.corpus.encoded_pages import PAGES
from embedall_spark.randomness import mix_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.encoded_pages import Batches, Page, Table
    from embedall_spark.run_context import Run

HOLDOUT = T.StructType(
    [
        T.StructField("id", T.LongType(), False, {"comment": "id of the sequence"}),
        T.StructField("draw", T.LongType(), False, {"comment": "hash of it; those of the least are asked"}),
        T.StructField("context", T.ArrayType(T.StringType(), False), False, {"comment": "the items before the last"}),
        T.StructField("answer", T.StringType(), False, {"comment": "the last item"}),
    ]
)
_ALL = 2**63


def split(run: Run, pages: DataFrame, share: float, most: int, reach: int, seed: int) -> tuple[DataFrame, DataFrame]:
    """Return what is held out, the stage "holdout", and PAGES to train on, without it.

    A sequence is chosen by a hash of its id. One whose last item is also among the ``reach`` items before it is not:
    to predict what was just there is another task.

    Args:
        run: where the stage goes.
        pages: PAGES.
        share: how many of the sequences to choose, 0 to 1.
        most: choose no more than these; all other sequences stay whole.
        reach: how many items before the last one to keep with it.
        seed: of the choice.
    """
    bound = min(int(share * _ALL), _ALL - 1)
    held = run.stage("holdout", lambda: _held(pages, bound, reach, seed).orderBy("draw", "id").limit(most))
    row = held.agg(F.count("*").alias("rows"), F.max("draw").alias("last")).first()
    if row is not None and row["rows"] == most:
        bound = int(row["last"]) + 1
    columns = pages.select("ids", "lengths", "codes", "tokens", "seen")
    return held, columns.mapInArrow(_without(bound, reach, seed), PAGES)


def _held(pages: DataFrame, bound: int, reach: int, seed: int) -> DataFrame:
    return pages.select("ids", "lengths", "codes", "tokens").mapInArrow(_last(bound, reach, seed), HOLDOUT)


def _last(bound: int, reach: int, seed: int) -> Table:
    def held(batches: Batches) -> Batches:
        for batch in batches:
            for page in paging.read(batch):
                draws, places = _choose(page, bound, reach, seed)
                ends = np.cumsum(page.lengths, dtype=np.int64)[places] - 1
                counts = np.minimum(page.lengths[places] - 1, reach)
                offsets = np.concatenate([[0], np.cumsum(counts)])
                inside = np.repeat(ends - counts - offsets[:-1], counts) + np.arange(offsets[-1])
                context, answers = (page.tokens.take(pa.array(page.codes[at])) for at in (inside, ends))
                lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), context)
                columns = [pa.array(page.ids[places]), pa.array(draws[places]), lists, answers]
                yield pa.RecordBatch.from_arrays(columns, names=HOLDOUT.names)

    return held


def _without(bound: int, reach: int, seed: int) -> Table:
    def pages(batches: Batches) -> Batches:
        for batch in batches:
            for page in paging.read(batch):
                _, places = _choose(page, bound, reach, seed)
                codes = np.delete(page.codes, np.cumsum(page.lengths, dtype=np.int64)[places] - 1)
                page.lengths[places] -= 1
                counts = np.bincount(codes, minlength=len(page.tokens)).astype(np.int64)
                yield paging.write(page._replace(codes=codes, counts=counts))

    return pages


def _choose(page: Page, bound: int, reach: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each sequence's hash, below 2**63, and the places of those that are chosen; both int64."""
    draws = (mix_arrays(np.full(len(page.ids), seed, np.int64), page.ids).view(np.uint64) >> np.uint64(1)).view(
        np.int64
    )
    places = np.flatnonzero((draws < bound) & (page.lengths > 1))
    ends = np.cumsum(page.lengths, dtype=np.int64)[places] - 1
    met = np.zeros(len(places), bool)
    for step in range(1, reach + 1):
        inside = page.lengths[places] > step
        met |= inside & (page.codes[np.where(inside, ends - step, ends)] == page.codes[ends])
    return draws, places[~met]
