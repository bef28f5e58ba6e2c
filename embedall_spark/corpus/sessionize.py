"""Events to sequences: each key's events in their order, cut at pauses and at a maximum length."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark.corpus.session_windows import Events, SessionWindows
from embedall_spark.schemas import EVENTS, SEQUENCES, conform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.stories_config import StoriesConfig

    Batches = Iterable[pa.RecordBatch]


def sessionize(events: DataFrame, config: StoriesConfig, seed: int) -> DataFrame:
    """Return EVENTS without a problem as SEQUENCES, the same ones whatever the partitioning.

    Spark sorts each key's events by their order, and equal ones by their items; without an order, by a hash of key and
    item. A task then streams over whole keys and keeps no more than a batch and two windows of ``max_length`` events,
    however long a story is. An event of weight 2.3 counts two or three times.

    Ids are hashes of key, session and window.
    """
    good = conform(events, EVENTS).where("problem is null")
    whole = F.floor("weight")
    chance = F.pmod(F.xxhash64(F.lit(seed), "key", "order", "item"), F.lit(2**53)) / F.lit(float(2**53))
    copies = F.coalesce(whole + (chance < F.col("weight") - whole).cast("int"), F.lit(1)).cast("int")
    # Comparing long decimals is slow: only those that are equal as doubles need it.
    place = F.coalesce(F.col("order").cast("double"), F.xxhash64(F.lit(seed), "key", "item").cast("double"))
    # From here on a hash replaces the key. Among a billion keys two share one with a chance of 3%.
    group = F.xxhash64("key")
    short = good.select(group.alias("group"), place.alias("place"), "order", "item", copies.alias("copies")).where(
        "copies > 0"
    )
    ordered = short.repartition("group").sortWithinPartitions("group", "place", "order", "item")
    columns = [F.col("group"), F.col("item"), F.col("copies")]
    if config.session_gap is not None:
        # Events without an order have no pause between them.
        columns.append(F.coalesce("order", F.lit(Decimal(0)).cast(EVENTS["order"].dataType)).alias("order"))
    return conform(ordered.select(*columns).mapInArrow(_assembler(config, seed), SEQUENCES), SEQUENCES)


def _assembler(config: StoriesConfig, seed: int) -> Callable[[Batches], Batches]:
    def sequences(batches: Batches) -> Batches:
        windows = SessionWindows(config, seed)
        for batch in batches:
            for events in Events.of(batch):
                yield from windows.add(events)
        yield from windows.finish()

    return sequences
