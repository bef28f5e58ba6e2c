"""The last items of some stories, held out from training, to measure predictions of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import list_offsets
from embedall_spark.corpus import encoded_pages
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
        T.StructField("draw", T.LongType(), False, {"comment": "hash of the id; the least are chosen first"}),
        T.StructField("context", T.ArrayType(T.StringType(), False), False, {"comment": "the items before the last"}),
        T.StructField("answer", T.StringType(), False, {"comment": "the last item"}),
    ]
)
_HASHES = 2**63


def split(
    run: Run, pages: DataFrame, share: float, max_stories: int, reach: int, seed: int
) -> tuple[DataFrame, DataFrame]:
    """Return the last items held out, the stage "holdout", and PAGES to train on, without them.

    A sequence is chosen by a hash of its id, unless its last item is also among the ``reach`` items before it:
    predicting an item that was just there is another task.

    Args:
        run: where the stage goes.
        pages: PAGES.
        share: share of the sequences to choose, 0 to 1.
        max_stories: choose at most so many.
        reach: number of items before the last one to keep with it.
        seed: of the choice.
    """
    bound = min(int(share * _HASHES), _HASHES - 1)
    columns = pages.select("ids", "lengths", "codes", "tokens", "token_lengths", "seen")

    def choose() -> DataFrame:
        chosen = columns.drop("seen").mapInArrow(_last_items(bound, reach, seed), HOLDOUT)
        return chosen.orderBy("draw", "id").limit(max_stories)

    holdout = run.stage("holdout", choose)
    row = holdout.agg(F.count("*").alias("rows"), F.max("draw").alias("last")).first()
    if row is not None and row["rows"] == max_stories:
        bound = int(row["last"]) + 1
    return holdout, columns.mapInArrow(_without_last_items(bound, reach, seed), PAGES)


def _last_items(bound: int, reach: int, seed: int) -> Table:
    def last_items(batches: Batches) -> Batches:
        for batch in batches:
            for page in encoded_pages.read(batch):
                hashes, rows = _choose(page, bound, reach, seed)
                ends = np.cumsum(page.lengths, dtype=np.int64)[rows] - 1
                counts = np.minimum(page.lengths[rows] - 1, reach)
                offsets = list_offsets.from_lengths(counts)
                inside = np.repeat(ends - counts - offsets[:-1], counts) + np.arange(offsets[-1])
                context, answers = (page.tokens.take(pa.array(page.codes[indices])) for indices in (inside, ends))
                lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), context)
                columns = [pa.array(page.ids[rows]), pa.array(hashes[rows]), lists, answers]
                yield pa.RecordBatch.from_arrays(columns, names=HOLDOUT.names)

    return last_items


def _without_last_items(bound: int, reach: int, seed: int) -> Table:
    def shortened(batches: Batches) -> Batches:
        for batch in batches:
            for page in encoded_pages.read(batch):
                _, rows = _choose(page, bound, reach, seed)
                codes = np.delete(page.codes, np.cumsum(page.lengths, dtype=np.int64)[rows] - 1)
                page.lengths[rows] -= 1
                counts = np.bincount(codes, minlength=len(page.tokens)).astype(np.int64)
                yield encoded_pages.write(page._replace(codes=codes, counts=counts))

    return shortened


def _choose(page: Page, bound: int, reach: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each sequence's hash, below 2**63, and the rows of the chosen ones; both int64."""
    seeds = np.full(len(page.ids), seed, np.int64)
    hashes = (mix_arrays(seeds, page.ids).view(np.uint64) >> np.uint64(1)).view(np.int64)
    rows = np.flatnonzero((hashes < bound) & (page.lengths > 1))
    ends = np.cumsum(page.lengths, dtype=np.int64)[rows] - 1
    repeated = np.zeros(len(rows), bool)
    for step in range(1, reach + 1):
        inside = page.lengths[rows] > step
        repeated |= inside & (page.codes[np.where(inside, ends - step, ends)] == page.codes[ends])
    return hashes, rows[~repeated]
