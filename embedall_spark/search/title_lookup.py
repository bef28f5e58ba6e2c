"""Titles in place of ids, both ways: what a user reads and types where ids are numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.errors import ConfigError, UnknownId
from embedall_spark.search import exact, spelling

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pyspark.sql import DataFrame

_LISTED = 5  # ids that an error lists where they share a title


def titles_by_id(known: DataFrame, ids: Collection[str]) -> dict[str, str]:
    """Return the titles of those of a few ids that have one, followed by the id: "Heat (1995) [6]".

    Args:
        known: id and title, as evaluate.labels.read() returns them; of several titles the first in order is taken.
        ids: the ids.

    Raises:
        ConfigError: more ids than exact.MAX_IDS times 100.
    """
    if len(ids) > 100 * exact.MAX_IDS:
        raise ConfigError(f"{len(ids):,} titles asked for, at most {100 * exact.MAX_IDS:,} are at once; join the table")
    found = known.where("title IS NOT NULL").join(_table(known, "id", ids), "id", "left_semi")
    table = found.groupBy("id").agg(F.min("title").alias("title")).toArrow()
    return {name: f"{title} [{name}]" for name, title in zip(*(column.to_pylist() for column in table), strict=True)}


def ids_by_title(known: DataFrame, vectors: DataFrame, titles: Collection[str]) -> dict[str, list[str]]:
    """Return the ids of a table that have each title, in order, the first few; titles that none has are left out.

    Args:
        known: id and title, as evaluate.labels.read() returns them.
        vectors: VECTORS.
        titles: a few titles.
    """
    found = known.join(_table(known, "title", titles), "title", "left_semi").join(vectors, "id", "left_semi")
    several = F.slice(F.sort_array(F.collect_set("id")), 1, _LISTED + 1).alias("ids")
    table = found.groupBy("title").agg(several).toArrow()
    return dict(zip(*(column.to_pylist() for column in table), strict=True))


def unknown(
    known: DataFrame, vectors: DataFrame, missing: Sequence[str], several: Mapping[str, Sequence[str]]
) -> UnknownId:
    """Return the error for texts that are neither an id nor one id's title.

    Args:
        known: id and title, as evaluate.labels.read() returns them.
        vectors: VECTORS.
        missing: the texts.
        several: the ids of those texts that are several ids' title.
    """
    titled = known.where("title IS NOT NULL").join(vectors.select("id", "count"), "id")
    near = spelling.nearest(titled.select(F.col("title").alias("id"), "count").distinct(), missing)
    lines = []
    for text in missing:
        if some := several.get(text):
            listed = ", ".join(some[:_LISTED]) + (", ..." if len(some) > _LISTED else "")
            lines.append(f"{text!r} is the title of several ids: {listed}; give one of them")
        else:
            alike = f"nearest titles: {', '.join(near[text])}" if near[text] else "no title is spelled alike"
            lines.append(f"{text!r} is neither an id nor a title in the table; {alike}")
    return UnknownId("\n".join(lines))


def _table(like: DataFrame, column: str, texts: Collection[str]) -> DataFrame:
    return like.sparkSession.createDataFrame(pa.table({column: pa.array(sorted(set(texts)), pa.string())}))
