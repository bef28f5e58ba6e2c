"""Which items train, which choose and which are measured on; near-duplicates stay together."""

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
_PLACES = 1 << 53


class SplitConfig(Section):
    """How items are divided."""

    validation: float = Field(0.1, ge=0, lt=1, description="share of items to choose options by")
    test: float = Field(0.1, ge=0, lt=1, description="share of items to measure on")
    same: float = Field(
        0.98, gt=0.5, le=1,
        description="items whose vectors have this cosine or more are near-duplicates and stay together; 1: only items "
        "of equal content or equal vectors do",
    )  # fmt: skip
    seed: int = Field(1, description="of the choice")

    @model_validator(mode="after")
    def _some_to_train(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        return self


def split(left: DataFrame, config: SplitConfig) -> DataFrame:
    """Return the part of every item of the left side: id, same, part.

    ``part`` is one of PARTS, by a hash of the seed and ``same``: the least id among the item and its near-duplicates,
    theirs too, and so on. Neither order nor partitioning of the rows changes anything.

    Equal content and equal vectors always stay together; duplicates.near_duplicates() says which others it may miss.

    Args:
        left: VECTORS; ``id``, ``vector`` and, where it is there, ``digest`` are read.
        config: how.
    """
    content = F.col("digest") if "digest" in left.columns else F.lit(None).cast("string")
    items = left.select("id", "vector", content.alias("digest"), F.xxhash64("vector").alias("hash"))
    both = F.array(F.concat(F.lit("c"), "digest"), F.concat(F.lit("v"), F.col("hash").cast("string")))
    keys = items.select("id", F.explode(both).alias("key"))
    known = keys.where("key IS NOT NULL")
    first = known.groupBy("key").agg(F.min("id").alias("a"))
    links = known.join(first, "key").select("a", F.col("id").alias("b")).where("a != b")
    if config.same < 1:
        one = items.groupBy("hash").agg(F.min("id").alias("id"))
        different = left.select("id", "vector").join(one.select("id"), "id", "left_semi")
        links = links.unionByName(near_duplicates.near_duplicates(different, config.same, config.seed))
    groups = _components(links.distinct().localCheckpoint())
    same = items.select("id").join(groups, "id", "left").select("id", F.coalesce("same", "id").alias("same"))
    place = F.pmod(F.xxhash64(F.lit(config.seed), "same"), F.lit(_PLACES)) / F.lit(float(_PLACES))
    part = F.when(place < config.test, "test").when(place < config.test + config.validation, "validation")
    return same.select("id", "same", part.otherwise("train").alias("part"))


def _components(links: DataFrame) -> DataFrame:
    """Return the least id of each linked item's component: id, same.

    Labels fall to the least among the neighbours', then to that one's own label, until none does.
    """
    both = links.unionByName(links.select(F.col("b").alias("a"), F.col("a").alias("b")))
    labels = both.groupBy("a").agg(F.least(F.min("b"), F.col("a")).alias("same")).select(F.col("a").alias("id"), "same")
    labels = labels.localCheckpoint()
    while True:
        near = both.join(labels.select(F.col("id").alias("b"), F.col("same").alias("there")), "b")
        least = near.groupBy(F.col("a").alias("id")).agg(F.min("there").alias("there"))
        hooked = labels.join(least, "id").select("id", F.least("same", "there").alias("next"), "same")
        jump = labels.select(F.col("id").alias("next"), F.col("same").alias("far"))
        moved = hooked.join(jump, "next", "left").select("id", F.least("next", "far").alias("next"), "same")
        # Each round is kept, or the next ones would do it again.
        moved = moved.localCheckpoint()
        labels = moved.select("id", F.col("next").alias("same"))
        if moved.where("next != same").isEmpty():
            return labels
