"""What to say when an id is not in the table: the ids that are spelled most alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark.errors import UnknownId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame

_NAMED = 10  # missing ids that an error lists


def nearest(vectors: DataFrame, id: str, k: int = 5) -> list[str]:
    """Return the ids that are spelled most like ``id``: other case first, then few edits, then frequent ones.

    Args:
        vectors: VECTORS; only ``id`` and ``count`` are read.
        id: what was asked for.
        k: how many at most.
    """
    # One edit in three letters is still the same word to a reader; more than three never are.
    most = max(1, min(3, len(id) // 2))
    distance = F.levenshtein(F.lower("id"), F.lower(F.lit(id)), most)
    near = vectors.select("id", "count", distance.alias("distance")).where("distance >= 0")
    rows = near.orderBy("distance", F.desc_nulls_last("count"), "id").limit(k).select("id").collect()
    return [row.id for row in rows]


def unknown(vectors: DataFrame, missing: Sequence[str]) -> UnknownId:
    """Return the error for ids that are not in the table, with the nearest spellings of the first one."""
    names = ", ".join(repr(name) for name in missing[:_NAMED])
    more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
    text = f"{names}{more} {'is' if len(missing) == 1 else 'are'} not in the table ({vectors.count():,} ids)"
    near = nearest(vectors, missing[0])
    of = "" if len(missing) == 1 else f" of {missing[0]!r}"
    return UnknownId(
        f"{text}; nearest spellings{of}: {', '.join(near)}" if near else f"{text}; nothing is spelled alike"
    )
