"""What to say when an id is not in the table: the ids that are spelled most alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from embedall_spark.errors import UnknownId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame

_NAMED = 10  # missing ids that an error lists
_MOST = 3  # edits; with more, another word stands there
_ASKED = pa.schema([("asked", pa.string()), ("most", pa.int32())])


def nearest(vectors: DataFrame, ids: Sequence[str], k: int = 5) -> dict[str, list[str]]:
    """Return the ids that are spelled most like each of ``ids``: other case first, then few edits, then frequent ones.

    Args:
        vectors: VECTORS; only ``id`` and ``count`` are read, once.
        ids: a few ids that were asked for.
        k: how many at most for each.
    """
    # One edit in two letters is still the same word to a reader.
    asked = pa.table([list(ids), [max(1, min(_MOST, len(id) // 2)) for id in ids]], schema=_ASKED)
    pairs = vectors.select("id", "count").crossJoin(vectors.sparkSession.createDataFrame(asked))
    near = pairs.withColumn("edits", F.levenshtein(F.lower("id"), F.lower("asked"), _MOST))
    order = Window.partitionBy("asked").orderBy("edits", F.desc_nulls_last("count"), "id")
    best = (
        near.where("edits between 0 and most").withColumn("rank", F.row_number().over(order)).where(F.col("rank") <= k)
    )
    found: dict[str, list[str]] = {id: [] for id in ids}
    for row in best.orderBy("asked", "rank").select("asked", "id").collect():
        found[row.asked].append(row.id)
    return found


def unknown(vectors: DataFrame, missing: Sequence[str]) -> UnknownId:
    """Return the error for ids that are not in the table, with the nearest spellings of the first few."""
    named, size = missing[:_NAMED], vectors.count()
    among = f"{size:,} id{'' if size == 1 else 's'}"
    names = ", ".join(map(repr, named))
    more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
    text = f"{names}{more} {'is' if len(missing) == 1 else 'are'} not in the table ({among})"
    near = nearest(vectors, named)
    if len(missing) == 1:
        return UnknownId(f"{text}; {_alike(near[missing[0]])}")
    return UnknownId("\n".join([text, *(f"{name!r}: {_alike(near[name])}" for name in named)]))


def _alike(near: Sequence[str]) -> str:
    return f"nearest spellings: {', '.join(near)}" if near else "nothing is spelled alike"
