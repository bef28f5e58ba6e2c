"""Events to sequences: each key's events in their order, cut at pauses and at a greatest length."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from pyspark.sql import functions as F

from embedall_spark.config import Section
from embedall_spark.corpus.session_windows import Events, Stretches
from embedall_spark.schemas import EVENTS, SEQUENCES, conform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa
    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]


class StoriesConfig(Section):
    """How a key's events become sequences."""

    session_gap: float | None = Field(
        None,
        gt=0,
        le=1e12,
        description="a longer pause ends a session: seconds where input.order is a time, else in its own numbers; "
        "unset: a key has one session",
    )
    drop_repeats: bool = Field(False, description="of equal items one after the other only the first counts")
    min_length: int = Field(2, ge=1, description="shorter stories are left out; in events")
    max_length: int = Field(
        1000, ge=2, le=100_000, description="longer sessions are cut into stretches of so many events; see too_long"
    )
    too_long: Literal["sample", "split"] = Field(
        "sample",
        description="sample: one stretch of the full length, drawn by hash, stands for a longer session, so that no "
        "key dominates. The last stretch is filled up with events before it; each of n stretches is drawn with chance "
        "1/n, and so is each event, or 2/n where the last two stretches overlap. split: each stretch is a sequence of "
        "its own",
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length must not be above max_length, got {self.min_length} > {self.max_length}")
        return self


def assemble(events: DataFrame, config: StoriesConfig, seed: int) -> DataFrame:
    """Return the usable ones of EVENTS as SEQUENCES, the same ones whatever the partitioning.

    Spark sorts each key's events by their order, equal ones by their items; without an order, by a hash of key and
    item. One task then streams over whole keys and holds no more than two stretches of ``max_length`` events and a
    batch, however long a story is. An event of weight 2.3 counts two or three times.

    Ids are hashes of key, session and stretch.
    """
    good = conform(events, EVENTS).where("problem is null")
    whole = F.floor("weight")
    chance = F.pmod(F.xxhash64(F.lit(seed), "key", "order", "item"), F.lit(2**53)) / F.lit(float(2**53))
    copies = F.coalesce(whole + (chance < F.col("weight") - whole).cast("int"), F.lit(1)).cast("int")
    # Of long decimals only those that are equal as doubles have to be compared, which is slow.
    place = F.coalesce(F.col("order").cast("double"), F.xxhash64(F.lit(seed), "key", "item").cast("double"))
    # From here on a hash stands for the key. Of a billion keys two share one with a chance of 3%.
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
        found = Stretches(config, seed)
        for batch in batches:
            for events in Events.of(batch):
                yield from found.add(events)
        yield from found.end()

    return sequences
