"""Pairs that can be used, and sides that are put together of several tables."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.errors import ConfigError
from embedall_spark.latent.fit import covariance
from embedall_spark.latent.preprocessing import prepare
from embedall_spark.schemas import PAIRS, REJECTS, conform
from embedall_spark.search import exact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pyspark.sql import DataFrame

    from embedall_spark.latent.preprocessing import Preparation

    Batches = Iterable[pa.RecordBatch]

NO_LEFT, NO_RIGHT = "no vector of this id on the left side", "no vector of this id on the right side"
NO_WEIGHT = "the pair's weight is not above 0 and finite"


def check(pairs: DataFrame, left: DataFrame, right: DataFrame) -> tuple[DataFrame, DataFrame]:
    """Return the pairs that can be used, as PAIRS, and the others, as REJECTS.

    Args:
        pairs: PAIRS.
        left: VECTORS, of whose ids a pair's left one must be.
        right: VECTORS, likewise.
    """
    known = conform(pairs, PAIRS)
    for side, name in ((left, "left"), (right, "right")):
        ids = side.select(F.col("id").alias(name), F.lit(True).alias(f"has_{name}"))
        known = known.join(ids, name, "left")
    weight = F.coalesce("weight", F.lit(1.0))
    problem = (
        F.when(F.col("has_left").isNull(), NO_LEFT)
        .when(F.col("has_right").isNull(), NO_RIGHT)
        .when(~((weight > 0) & (weight < float("inf"))) | F.isnan(weight), NO_WEIGHT)
    )
    told = known.withColumn("reason", problem)
    record = F.concat_ws(" ", "left", "right", F.col("weight").cast("string"))
    bad = told.where("reason IS NOT NULL").select(F.col("left").alias("origin"), "reason", record.alias("record"))
    return conform(told.where("reason IS NULL"), PAIRS), conform(bad, REJECTS)


def concat_vectors(tables: Sequence[DataFrame], prepared: Sequence[Preparation]) -> DataFrame:
    """Return the vectors of several tables side by side: id, vector, norm.

    An id that a table lacks has zeros there, so that an item of known tags but no known word is not lost.

    Args:
        tables: VECTORS each.
        prepared: what is done to each table's vectors first; of length 1 they all weigh the same.

    Raises:
        ConfigError: together they have more numbers than the closed form takes.
        BadData: a table is empty.
    """
    sizes = [covariance.size(table, f"{number + 1}.") for number, table in enumerate(tables)]
    if sum(sizes) > covariance.MAX_SIZE:
        raise ConfigError(
            f"{' + '.join(f'{size:,}' for size in sizes)} numbers beside each other, the closed form takes at most "
            f"{covariance.MAX_SIZE:,}; reduce a table first"
        )
    parts = [table.select("id", F.col("vector").alias(f"v{number}")) for number, table in enumerate(tables)]
    joined = reduce(lambda a, b: a.join(b, "id", "full"), parts)
    return joined.mapInArrow(_layer(sizes, list(prepared)), "id string, vector array<float>, norm double")


def _layer(sizes: list[int], prepared: list[Preparation]) -> Callable[[Batches], Batches]:
    """Build the task's function."""

    def layer(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            block = np.zeros((batch.num_rows, sum(sizes)))
            first = 0
            for number, (size, how) in enumerate(zip(sizes, prepared, strict=True)):
                column = batch[f"v{number}"]
                there = column.is_valid().to_numpy(zero_copy_only=False)
                if there.any():
                    block[there, first : first + size] = prepare(exact.to_matrix(column.drop_null()), how)
                first += size
            ends = np.arange(len(block) + 1, dtype=np.int32) * block.shape[1]
            vector = pa.ListArray.from_arrays(pa.array(ends), pa.array(block.astype(np.float32).ravel()))
            columns = [batch["id"], vector, pa.array(np.linalg.norm(block, axis=1))]
            yield pa.RecordBatch.from_arrays(columns, ["id", "vector", "norm"])

    return layer
