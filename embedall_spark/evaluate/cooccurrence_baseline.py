"""Item-to-item co-occurrence, a baseline for predictions of the next item."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from embedall_spark.corpus import blocks as blocking
from embedall_spark.schemas import from_arrow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.evaluate.questions import Questions

    Batches = Iterable[pa.RecordBatch]

NEIGHBORS = 100
_POPULARITY = 0.25
_MAX_PAIRS = 1 << 21  # of a block in memory at once
_SCHEMA = "item int, other int, weight bigint"


def ranks(
    questions: Questions, blocks: DataFrame, vocabulary: DataFrame, window: int, shrink: bool, worst: int
) -> NDArray[np.int64]:
    """Return the rank of each answer by the sum of similarities to the context, int64, 0 the best, ``worst`` at most.

    Items of the context are no candidates.
    """
    story, step = np.nonzero(questions.context >= 0)
    items = questions.context[story, step]
    columns = {"story": story.astype(np.int32), "item": items, "share": questions.weights[story, step]}
    spark = blocks.sparkSession
    context = from_arrow(spark, pa.table(columns))
    neighbors = similar(blocks, vocabulary, np.unique(items), window, shrink)
    # In single precision, so that sums of equal parts are equal in whatever order they were added.
    score = F.sum(F.col("share") * F.col("score")).cast("float")
    scored = context.join(neighbors, "item").groupBy("story", "other").agg(score.alias("score"))
    candidates = scored.join(context.withColumnRenamed("item", "other"), ["story", "other"], "left_anti")
    rank = F.row_number().over(Window.partitionBy("story").orderBy(F.desc("score"), "other")) - 1
    best = candidates.withColumn("rank", rank).where(F.col("rank") < worst)
    answers = pa.table({"story": np.arange(len(questions.answer), dtype=np.int32), "other": questions.answer})
    hits = best.join(spark.createDataFrame(answers), ["story", "other"]).select("story", "rank").toArrow()
    result = np.full(len(questions.answer), worst, np.int64)
    result[hits["story"].to_numpy()] = hits["rank"].to_numpy()
    return result


def similar(blocks: DataFrame, vocabulary: DataFrame, items: NDArray[np.int32], window: int, shrink: bool) -> DataFrame:
    """Return the NEIGHBORS most similar other items of each item: item, other (ids in VOCABULARY) and score.

    Method: similarity by conditional probability, n(a, b) / (n(a) n(b)^alpha) (Deshpande and Karypis 2004, "Item-Based
    Top-N Recommendation Algorithms", section 4.2), over items at most ``window`` places apart.

    Args:
        blocks: BLOCKS, the training set.
        vocabulary: VOCABULARY.
        items: ids to find neighbors of, int32, sorted; they travel with the tasks.
        window: greatest distance.
        shrink: whether the window's size is drawn from 1 to ``window``: a pair then counts as often as training is
            expected to see it.
    """
    parts = blocks.select("block", "ids", "lengths", "tokens").mapInArrow(_pairs(items, window, shrink), _SCHEMA)
    pairs = parts.groupBy("item", "other").agg(F.sum("weight").alias("weight"))
    counts = vocabulary.select("id", "count")
    item_counts, other_counts = (
        counts.select(F.col("id").alias(name), F.col("count").alias(f"{name}s")) for name in ("item", "other")
    )
    score = F.col("weight") / (F.col("items") * F.pow("others", F.lit(_POPULARITY)))
    scored = pairs.join(item_counts, "item").join(other_counts, "other").select("item", "other", score.alias("score"))
    rank = F.row_number().over(Window.partitionBy("item").orderBy(F.desc("score"), "other"))
    return scored.withColumn("rank", rank).where(F.col("rank") <= NEIGHBORS).drop("rank")


def _pairs(items: NDArray[np.int32], window: int, shrink: bool) -> Callable[[Batches], Batches]:
    def pairs(batches: Batches) -> Batches:
        for batch in batches:
            for block in blocking.unpack(batch):
                for keys, weights in _of_block(block, items, window, shrink):
                    distinct, place = np.unique(keys, return_inverse=True)
                    sums = np.bincount(place, weights).astype(np.int64)
                    others = (distinct & 0xFFFFFFFF).astype(np.int32)
                    columns = [pa.array(items[distinct >> 32]), pa.array(others), pa.array(sums)]
                    yield pa.RecordBatch.from_arrays(columns, names=["item", "other", "weight"])

    return pairs


def _of_block(
    block: blocking.Block, items: NDArray[np.int32], window: int, shrink: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield keys (place in ``items`` * 2**32 + the other item) and weights of a block's pairs, in several parts."""
    tokens = block.tokens
    place = np.searchsorted(items, tokens)
    place[place == len(items)] = 0
    is_wanted = items[place] == tokens
    ends = np.repeat(block.offsets[1:], np.diff(block.offsets))
    left = np.arange(len(tokens))
    buffer: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    size = 0
    for distance in range(1, window + 1):
        left = left[left + distance < ends[left]]
        if not len(left):
            break
        for near, far in ((left, left + distance), (left + distance, left)):
            used = is_wanted[near] & (tokens[near] != tokens[far])
            keys = (place[near[used]] << 32) | tokens[far[used]]
            buffer.append((keys, np.full(len(keys), window - distance + 1 if shrink else 1)))
            size += len(keys)
        if size >= _MAX_PAIRS:
            yield _joined(buffer)
            buffer, size = [], 0
    if size:
        yield _joined(buffer)


def _joined(parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    keys, weights = zip(*parts, strict=True)
    return np.concatenate(keys), np.concatenate(weights)
