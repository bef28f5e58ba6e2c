"""VOCABULARY: which tokens there are, by falling frequency; counted and ranked in Spark."""

from __future__ import annotations

import logging
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import Field
from pyspark.sql import functions as F

from embedall_spark.config import Section
from embedall_spark.corpus import encoded_pages as paging
from embedall_spark.corpus.vocabulary_index import Lookup
from embedall_spark.errors import BadData
from embedall_spark.schemas import ENCODED, VOCABULARY, conform

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.encoded_pages import Batches, Page, Table
    from embedall_spark.run_context import Run

logger = logging.getLogger(__name__)
_LARGEST = 2**31 - 1


class VocabularyConfig(Section):
    """Which tokens get an embedding."""

    min_count: int = Field(5, ge=1, description="rarer tokens are left out")
    max_vocabulary: int | None = Field(
        None, ge=1, le=_LARGEST, description="at most so many tokens, the most frequent ones; unlimited by default"
    )


def count(run: Run, pages: DataFrame, config: VocabularyConfig) -> DataFrame:
    """Return the tokens of PAGES as VOCABULARY, the stage "vocabulary".

    Ids follow the falling counts, ties the tokens' UTF-8 bytes, whatever the partitioning. The stage's parquet files
    are sorted by id, and so are their names.

    Raises:
        BadData: no token occurs ``min_count`` times, or more than 2**31 - 1 do.
    """
    return number(run, "vocabulary", _counted(pages), config)


def number(run: Run, stage: str, counted: DataFrame, config: VocabularyConfig) -> DataFrame:
    """Return distinct tokens with their counts (token, count) as VOCABULARY, in a stage of this name.

    Raises:
        BadData: as count().
    """
    # The order is stored before it is numbered: were it computed twice, the numbers need not fit.
    ordered = run.stage(f"{stage}-ordered", lambda: _ordered(counted, config.min_count))
    return run.stage(stage, lambda: _numbered(ordered, counted, config))


def total(vocabulary: DataFrame) -> int:
    """Return how many tokens a corpus has, those outside its VOCABULARY left out."""
    row = vocabulary.agg(F.sum("count")).first()
    return int(row[0] or 0) if row else 0


def encode(pages: DataFrame, folder: str) -> DataFrame:
    """Return PAGES as ENCODED over the VOCABULARY in a folder; unknown tokens are dropped, empty sequences kept."""
    return pages.select("ids", "lengths", "codes", "tokens").mapInArrow(_encoded(folder), ENCODED)


def encode_page(page: Page, lookup: Lookup) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the vocabulary ids of a page's known tokens in order, and how many each sequence has; both int32."""
    tokens = lookup.ids(page.tokens)[page.codes]
    known = tokens >= 0
    # How many known tokens come before each place.
    before = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum(known, out=before[1:])
    ends = before[np.cumsum(page.lengths, dtype=np.int64)]
    return tokens[known], np.diff(ends, prepend=0).astype(np.int32)


def _numbered(ordered: DataFrame, counted: DataFrame, config: VocabularyConfig) -> DataFrame:
    """Return VOCABULARY from its parts; only the parts' sizes pass through the driver."""
    sizes = sorted((row["part"], row["count"]) for row in ordered.groupBy("part").count().collect())
    size = sum(number for _, number in sizes)
    if not size:
        raise BadData(_nothing(counted, config.min_count))
    kept = min(size, config.max_vocabulary or size)
    if kept > _LARGEST:
        raise BadData(f"{size} tokens occur {config.min_count} times or more, over {_LARGEST}; raise min_count")
    logger.info("vocabulary: %d tokens occur %d times or more, %d are kept", size, config.min_count, kept)
    starts = dict(
        zip((part for part, _ in sizes), accumulate((number for _, number in sizes), initial=0), strict=False)
    )
    first = F.create_map(*[F.lit(value) for pair in starts.items() for value in pair])
    numbered = ordered.withColumn("id", (first[F.col("part")] + F.col("position")).cast("int"))
    # The parts come in the order of the ids, so that none need be looked for.
    placed = numbered.where(F.col("id") < kept).repartitionById(sizes[-1][0] + 1, F.col("part").cast("int"))
    return conform(placed.sortWithinPartitions("id"), VOCABULARY)


def _ordered(counted: DataFrame, min_count: int) -> DataFrame:
    """Return token, count, part, position: the parts one after the other, each by position, give the final order."""
    # The low 33 bits of this id are the row's place in its partition, the others the partition's number.
    place = F.monotonically_increasing_id()
    return (
        counted.where(F.col("count") >= min_count)
        .orderBy(F.col("count").desc(), "token")
        .select("token", "count", place.alias("place"))
        .select(
            "token",
            "count",
            F.shiftright("place", 33).alias("part"),
            F.col("place").bitwiseAND(F.lit((1 << 33) - 1)).alias("position"),
        )
    )


def _counted(pages: DataFrame) -> DataFrame:
    each = pages.select(F.inline(F.arrays_zip("tokens", "counts")).alias("token", "count"))
    return each.groupBy("token").agg(F.sum("count").alias("count"))


def _nothing(counted: DataFrame, min_count: int) -> str:
    row = counted.agg(F.max("count")).first()
    largest = row[0] if row and row[0] is not None else 0
    found = f"the most frequent one occurs {largest} times" if largest else "there are no tokens at all"
    return f"no token occurs {min_count} times (min_count); {found}; give more text or a lower min_count"


def _encoded(folder: str) -> Table:
    def encoded(batches: Batches) -> Batches:
        lookup = Lookup.open(folder)
        for batch in batches:
            for page in paging.read(batch):
                tokens, lengths = encode_page(page, lookup)
                offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
                columns = [pa.array(page.ids), pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens))]
                yield pa.RecordBatch.from_arrays(columns, names=["id", "tokens"])

    return encoded
