"""Split of items into training, validation and test; near-duplicates stay in one part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from pyspark.sql import functions as F

from embedall_spark.config import Section
from embedall_spark.latent import near_duplicates

if TYPE_CHECKING:
    from typing import Self

    from pyspark.sql import DataFrame

PARTS = ("train", "validation", "test")
_BUCKETS = 1 << 53


class SplitConfig(Section):
    """Shares of the parts, and what counts as a near-duplicate."""

    validation: float = Field(0.1, ge=0, lt=1, description="share of items for the choice of hyperparameters")
    test: float = Field(0.1, ge=0, lt=1, description="share of items for the final figures")
    same: float = Field(
        0.98, gt=0.5, le=1,
        description="items whose vectors have at least this cosine are near-duplicates and stay in one part; 1: only "
        "items of equal content or equal vectors",
    )  # fmt: skip
    seed: int = Field(1, description="of the random split")

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        return self


def split(left: DataFrame, config: SplitConfig) -> DataFrame:
    """Return the part of each item of the left side: id, same, part.

    ``same`` is the least id of the item's group: the item, its near-duplicates, theirs, and so on. ``part`` is one of
    PARTS, by a hash of the seed and ``same``; the order and partitioning of the rows do not matter.

    Equal content and equal vectors always share a group; near_duplicates.near_duplicates() says which others it may
    miss.

    Args:
        left: VECTORS; ``id``, ``vector`` and, if there is one, ``digest`` are read.
        config: shares, threshold and seed.
    """
    content = F.col("digest") if "digest" in left.columns else F.lit(None).cast("string")
    items = left.select("id", "vector", content.alias("digest"), F.xxhash64("vector").alias("hash"))
    hashes = F.array(F.concat(F.lit("c"), "digest"), F.concat(F.lit("v"), F.col("hash").cast("string")))
    keys = items.select("id", F.explode(hashes).alias("key")).where("key IS NOT NULL")
    first = keys.groupBy("key").agg(F.min("id").alias("a"))
    links = keys.join(first, "key").select("a", F.col("id").alias("b")).where("a != b")
    if config.same < 1:
        representatives = items.groupBy("hash").agg(F.min("id").alias("id"))
        different = left.select("id", "vector").join(representatives.select("id"), "id", "left_semi")
        links = links.unionByName(near_duplicates.near_duplicates(different, config.same, config.seed))
    groups = _components(links.distinct().localCheckpoint())
    same = items.select("id").join(groups, "id", "left").select("id", F.coalesce("same", "id").alias("same"))
    uniform = F.pmod(F.xxhash64(F.lit(config.seed), "same"), F.lit(_BUCKETS)) / F.lit(float(_BUCKETS))
    part = F.when(uniform < config.test, "test").when(uniform < config.test + config.validation, "validation")
    return same.select("id", "same", part.otherwise("train").alias("part"))


def _components(links: DataFrame) -> DataFrame:
    """Return the least id of each linked item's connected component: id, same.

    Each label becomes the least among the neighbors' labels, then the label of that id, until none changes.
    """
    if links.isEmpty():
        return links.select(F.col("a").alias("id"), F.col("b").alias("same"))
    both_ways = links.unionByName(links.select(F.col("b").alias("a"), F.col("a").alias("b")))
    least = F.least(F.min("b"), F.col("a")).alias("same")
    labels = both_ways.groupBy("a").agg(least).select(F.col("a").alias("id"), "same")
    labels = labels.localCheckpoint()
    while True:
        neighbors = both_ways.join(labels.select(F.col("id").alias("b"), F.col("same").alias("theirs")), "b")
        least_neighbor = neighbors.groupBy(F.col("a").alias("id")).agg(F.min("theirs").alias("theirs"))
        hooked = labels.join(least_neighbor, "id").select("id", F.least("same", "theirs").alias("next"), "same")
        jump = labels.select(F.col("id").alias("next"), F.col("same").alias("far"))
        moved = hooked.join(jump, "next", "left").select("id", F.least("next", "far").alias("next"), "same")
        # Each round is checkpointed, or later rounds would compute it again.
        moved = moved.localCheckpoint()
        labels = moved.select("id", F.col("next").alias("same"))
        if moved.where("next != same").isEmpty():
            return labels
