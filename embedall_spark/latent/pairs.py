"""Usable pairs, and vectors of several tables concatenated by id."""

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
from embedall_spark.vectors import to_column, to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pyspark.sql import DataFrame

    from embedall_spark.latent.preprocessing import Preparation

    Batches = Iterable[pa.RecordBatch]

NO_LEFT, NO_RIGHT = "no vector of this id on the left side", "no vector of this id on the right side"
NO_WEIGHT = "the pair's weight is not above 0 and finite"


def check(pairs: DataFrame, left: DataFrame, right: DataFrame) -> tuple[DataFrame, DataFrame]:
    """Return the usable pairs, as PAIRS, and the others, as REJECTS.

    Args:
        pairs: PAIRS.
        left: VECTORS; a usable pair's left id is one of theirs.
        right: VECTORS, likewise for the right id.
    """
    checked = conform(pairs, PAIRS)
    for side, name in ((left, "left"), (right, "right")):
        ids = side.select(F.col("id").alias(name), F.lit(True).alias(f"has_{name}"))
        checked = checked.join(ids, name, "left")
    weight = F.coalesce("weight", F.lit(1.0))
    problem = (
        F.when(F.col("has_left").isNull(), NO_LEFT)
        .when(F.col("has_right").isNull(), NO_RIGHT)
        .when(~((weight > 0) & (weight < float("inf"))) | F.isnan(weight), NO_WEIGHT)
    )
    checked = checked.withColumn("reason", problem)
    record = F.concat_ws(" ", "left", "right", F.col("weight").cast("string"))
    rejects = checked.where("reason IS NOT NULL").select(
        F.col("left").alias("origin"), "reason", record.alias("record")
    )
    return conform(checked.where("reason IS NULL"), PAIRS), conform(rejects, REJECTS)


def concat_vectors(tables: Sequence[DataFrame], preparations: Sequence[Preparation]) -> DataFrame:
    """Return the vectors of several tables concatenated by id: id, vector, norm.

    If a table lacks an id, zeros take the place of its vector; so an item of known tags but no known word is kept.

    Args:
        tables: VECTORS each.
        preparations: how each table's vectors are transformed first; scaled to length 1 all weigh the same.

    Raises:
        ConfigError: together the vectors have more dimensions than the closed form takes.
        BadData: a table is empty.
    """
    sizes = [
        covariance.side_dimension(table, f"table {number + 1} of the right side") for number, table in enumerate(tables)
    ]
    if sum(sizes) > covariance.MAX_SIZE:
        raise ConfigError(
            f"concatenated vectors have {' + '.join(f'{size:,}' for size in sizes)} dimensions, and the closed form "
            f"takes at most {covariance.MAX_SIZE:,}; reduce the dimension of a table first"
        )
    parts = [table.select("id", F.col("vector").alias(f"v{number}")) for number, table in enumerate(tables)]
    joined = reduce(lambda a, b: a.join(b, "id", "full"), parts)
    return joined.mapInArrow(_concatenator(sizes, list(preparations)), "id string, vector array<float>, norm double")


def _concatenator(sizes: list[int], preparations: list[Preparation]) -> Callable[[Batches], Batches]:
    """Build the task's function."""

    def concatenate(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            block = np.zeros((batch.num_rows, sum(sizes)))
            start = 0
            for number, (size, preparation) in enumerate(zip(sizes, preparations, strict=True)):
                column = batch[f"v{number}"]
                valid = column.is_valid().to_numpy(zero_copy_only=False)
                if valid.any():
                    block[valid, start : start + size] = prepare(to_matrix(column.drop_null()), preparation)
                start += size
            columns = [batch["id"], to_column(block), pa.array(np.linalg.norm(block, axis=1))]
            yield pa.RecordBatch.from_arrays(columns, ["id", "vector", "norm"])

    return concatenate
