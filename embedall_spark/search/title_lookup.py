"""Titles in place of ids, both ways: what a user reads and types where ids are numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from embedall_spark.errors import ConfigError, UnknownId
from embedall_spark.schemas import from_arrow
from embedall_spark.search import exact, spelling
from embedall_spark.search.local_table import LocalTable
from embedall_spark.sources import ids as id_text
from embedall_spark.vectors import text_array

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.search.local_table import Vectors

    Titles: TypeAlias = DataFrame | pa.Table

MAX_TITLES = 1_000_000  # ids whose titles come to the driver
_LISTED = 5  # ids that an error lists where they share a title


class Resolved(NamedTuple):
    """What some texts mean in a table."""

    ids: dict[str, str]
    """The id of each text that is an id, or the title of one id, in the order of the texts."""
    vectors: dict[str, NDArray[np.float32]]
    """The vectors of these ids, float32 [d] each."""
    missing: list[str]
    """The other texts."""
    ambiguous: dict[str, list[str]]
    """Those of them that several ids have as their title, with the first few of these ids."""


def resolve(vectors: Vectors, titles: Titles | None, texts: Sequence[str]) -> Resolved:
    """Return the ids, and their vectors, that a few texts mean: an id (12.0 for 12 too), or the title of one id.

    Args:
        vectors: VECTORS.
        titles: id and title; None: texts are ids only.
        texts: what a user typed.
    """
    texts = list(dict.fromkeys(texts))
    # A number that is no id as it is typed may be one as readers write it.
    numbers = {text: id_text.from_text(text) for text in texts}
    by_id = exact.find_vectors(vectors, [*texts, *numbers.values()])
    names = {text: text if text in by_id else numbers[text] for text in texts}
    ids, ambiguous = {text: name for text, name in names.items() if name in by_id}, {}
    if titles is not None and len(ids) < len(texts):
        ids_of = ids_by_title(titles, vectors, [text for text in texts if text not in ids])
        by_title = {text: names[0] for text, names in ids_of.items() if len(names) == 1}
        ambiguous = {text: names for text, names in ids_of.items() if len(names) > 1}
        by_id |= exact.find_vectors(vectors, [name for name in by_title.values() if name not in by_id])
        ids |= by_title
    ids = {text: ids[text] for text in texts if text in ids}
    by_id = {name: by_id[name] for name in ids.values()}
    return Resolved(ids, by_id, [text for text in texts if text not in ids], ambiguous)


def titles_by_id(titles: Titles, ids: Collection[str]) -> dict[str, str]:
    """Return the titles of those of a few ids that have one, followed by the id: "Heat (1995) [6]".

    Args:
        titles: id and title, as sources.metadata.read() returns them; of several titles the first in order is taken.
        ids: the ids.

    Raises:
        ConfigError: more than MAX_TITLES ids.
    """
    if len(ids) > MAX_TITLES:
        raise ConfigError(f"titles of {len(ids):,} ids: need {MAX_TITLES:,} ids or fewer; join the table in Spark")
    if isinstance(titles, pa.Table):
        titled = titles.filter(pc.is_in(titles["id"], value_set=text_array(set(ids))))
        pairs = sorted(_pairs(titled), reverse=True)
        return {name: f"{title} [{name}]" for name, title in pairs}
    rows = titles.where("title IS NOT NULL").join(_table(titles, "id", ids), "id", "left_semi")
    table = rows.groupBy("id").agg(F.min("title").alias("title")).toArrow()
    return {name: f"{title} [{name}]" for name, title in zip(*(column.to_pylist() for column in table), strict=True)}


def ids_by_title(titles: Titles, vectors: Vectors, texts: Collection[str]) -> dict[str, list[str]]:
    """Return the ids of a table that have each title, in order, the first few; titles that none has are left out.

    Args:
        titles: id and title, as sources.metadata.read() returns them.
        vectors: VECTORS.
        texts: a few titles.
    """
    if isinstance(titles, pa.Table):
        assert isinstance(vectors, LocalTable)
        titled = titles.filter(pc.is_in(titles["title"], value_set=text_array(set(texts))))
        by_title: dict[str, set[str]] = {}
        for name, title in _pairs(titled):
            if vectors.index(name) is not None:
                by_title.setdefault(title, set()).add(name)
        return {title: sorted(names)[: _LISTED + 1] for title, names in by_title.items()}
    rows = titles.join(_table(titles, "title", texts), "title", "left_semi")
    rows = rows.join(exact.in_spark(vectors), "id", "left_semi")
    ids = F.slice(F.sort_array(F.collect_set("id")), 1, _LISTED + 1).alias("ids")
    table = rows.groupBy("title").agg(ids).toArrow()
    return dict(zip(*(column.to_pylist() for column in table), strict=True))


def unknown(vectors: Vectors, titles: Titles | None, resolved: Resolved) -> UnknownId:
    """Return the error for texts that are neither an id nor one id's title, with what is spelled most like them.

    Args:
        vectors: VECTORS.
        titles: as resolve() was given them.
        resolved: as resolve() returned it.
    """
    if titles is None:
        return spelling.unknown(vectors, resolved.missing)
    if isinstance(titles, pa.Table):
        assert isinstance(vectors, LocalTable)
        counts = dict(zip(vectors.ids.to_pylist(), vectors.column("count").to_pylist(), strict=True))
        rows = list({(title, counts[name]) for name, title in _pairs(titles) if name in counts})
        alike = spelling.nearest_of([title for title, _ in rows], [count for _, count in rows], resolved.missing)
    else:
        titled = titles.where("title IS NOT NULL").join(exact.in_spark(vectors).select("id", "count"), "id")
        alike = spelling.nearest(titled.select(F.col("title").alias("id"), "count").distinct(), resolved.missing)
    return UnknownId("\n".join(_line(text, resolved.ambiguous, alike[text]) for text in resolved.missing))


def _line(text: str, ambiguous: Mapping[str, Sequence[str]], alike: Sequence[str]) -> str:
    if ids := ambiguous.get(text):
        listed = ", ".join(ids[:_LISTED]) + (", ..." if len(ids) > _LISTED else "")
        return f"{text!r} is the title of several ids: {listed}; give one of them"
    nearest = f"nearest titles: {', '.join(alike)}" if alike else "no title is spelled alike"
    return f"{text!r} is neither an id nor a title in the table; {nearest}"


def _pairs(titles: pa.Table) -> list[tuple[str, str]]:
    """Return id and title of all rows that have both."""
    rows = titles.filter(pc.and_(pc.is_valid(titles["id"]), pc.is_valid(titles["title"])))
    return list(zip(rows["id"].to_pylist(), rows["title"].to_pylist(), strict=True))


def _table(like: DataFrame, column: str, texts: Collection[str]) -> DataFrame:
    return from_arrow(like.sparkSession, pa.table({column: pa.array(sorted(set(texts)), pa.string())}))
