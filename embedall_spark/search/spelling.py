"""The error for an id that is not in the table: it names the ids that are spelled most alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from embedall_spark.errors import UnknownId
from embedall_spark.schemas import from_arrow
from embedall_spark.search import local_spelling
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import SEPARATOR, is_qualified, without_kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedall_spark.search.local_table import Vectors

_MAX_LISTED = 10  # missing ids that an error lists
_MAX_EDITS = 3  # with more, it is another word
_MISSING = pa.schema([("missing", pa.string()), ("max_edits", pa.int32())])


def nearest(vectors: Vectors, ids: Sequence[str], k: int = 5) -> dict[str, list[str]]:
    """Return the ids that are spelled most like each of ``ids``.

    First come ids KIND:ID whose ID it is, then ids that differ in case, then those with few edits, then frequent ones.

    Args:
        vectors: VECTORS; only ``id`` and ``count`` are read, once.
        ids: a few ids that are not in the table.
        k: how many at most for each.
    """
    if isinstance(vectors, LocalTable):
        return nearest_of(vectors.ids.to_pylist(), vectors.column("count").to_pylist(), ids, k)
    missing = from_arrow(vectors.sparkSession, pa.table([list(ids), list(map(_limit, ids))], schema=_MISSING))
    lacks_kind = F.coalesce(without_kind() == F.col("missing"), F.lit(False))
    # Beyond the limit Spark's distance is -1.
    edits = F.when(lacks_kind, 0).otherwise(F.levenshtein(F.lower("id"), F.lower("missing"), _MAX_EDITS))
    pairs = vectors.select("id", "count").crossJoin(missing).withColumns({"lacks_kind": lacks_kind, "edits": edits})
    order = Window.partitionBy("missing").orderBy(F.desc("lacks_kind"), "edits", F.desc_nulls_last("count"), "id")
    alike = pairs.where("edits BETWEEN 0 AND max_edits").withColumn("rank", F.row_number().over(order))
    rows = alike.where(F.col("rank") <= k).orderBy("missing", "rank").select("missing", "id").collect()
    similar: dict[str, list[str]] = {id: [] for id in ids}
    for row in rows:
        similar[row.missing].append(row.id)
    return similar


def nearest_of(
    texts: Sequence[str], counts: Sequence[int | None], ids: Sequence[str], k: int = 5
) -> dict[str, list[str]]:
    """Return what nearest() does, of texts and how often each occurred."""
    return {id: local_spelling.nearest(texts, counts, id, _limit(id), k, SEPARATOR) for id in ids}


def _limit(id: str) -> int:
    """Return how many edits are allowed: one edit in two letters is still the same word to a reader."""
    return max(1, min(_MAX_EDITS, len(id) // 2))


def unknown(vectors: Vectors, missing: Sequence[str]) -> UnknownId:
    """Return the error for ids that are not in the table, with the nearest spellings of the first few."""
    size = len(vectors) if isinstance(vectors, LocalTable) else vectors.count()
    return _unknown(missing, size, nearest(vectors, missing[:_MAX_LISTED]))


def unknown_of(texts: Sequence[str], missing: Sequence[str]) -> UnknownId:
    """Return the error that unknown() does, for words that are not among some texts."""
    return _unknown(missing, len(texts), nearest_of(texts, [None] * len(texts), missing[:_MAX_LISTED]))


def _unknown(missing: Sequence[str], size: int, alike: dict[str, list[str]]) -> UnknownId:
    """Return the error, given the size of the table and the nearest spellings."""
    listed = missing[:_MAX_LISTED]
    names = ", ".join(map(repr, listed))
    more = f" and {len(missing) - _MAX_LISTED:,} more" if len(missing) > _MAX_LISTED else ""
    verb = "is" if len(missing) == 1 else "are"
    text = f"{names}{more} {verb} not in the table ({size:,} id{'' if size == 1 else 's'})"
    if len(missing) == 1:
        return UnknownId(f"{text}; {_hint(missing[0], alike[missing[0]])}")
    return UnknownId("\n".join([text, *(f"{name!r}: {_hint(name, alike[name])}" for name in listed)]))


def _hint(name: str, alike: Sequence[str]) -> str:
    if qualified := [other for other in alike if is_qualified(other, name)]:
        return f"ids of this table begin with their kind: give {' or '.join(qualified)}"
    return f"nearest spellings: {', '.join(alike)}" if alike else "nothing is spelled alike"
