"""Titles and words suggested for one row of a latent space that is on the driver; what suggest.py asks Spark for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark.errors import ConfigError, NeedsSpark
from embedall_spark.latent import suggest
from embedall_spark.latent.text import item_tokens
from embedall_spark.search import exact
from embedall_spark.vectors import SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from embedall_spark.latent.text.item_tokens import ItemTextConfig
    from embedall_spark.search.local_table import Hit, LocalTable


def items(rows: pa.Table, right_kind: str) -> pa.Table:
    """Return ITEMS of the rows of titles; raises NeedsSpark for a table that has other columns."""
    columns = {"id": pa.string(), "title": pa.string(), "tags": pa.list_(pa.string())}
    if any(name not in rows.column_names for name in columns):
        raise NeedsSpark("the table of titles has other columns")
    return rows.filter(pc.starts_with(rows["id"], f"{right_kind}{SEPARATOR}"))


def titles(
    vectors: LocalTable,
    items: pa.Table,
    right_kind: str,
    vector: NDArray[np.float32],
    title_id: str | None,
    prefix: str,
    n: int,
) -> list[Hit]:
    """Return different titles with their cosines, the nearest first, as suggest.titles() ranks them.

    Args:
        vectors: VECTORS of the latent space.
        items: from items().
        right_kind: the kind of the rows of titles.
        vector: the query, float32 [k].
        title_id: the row of its own title, which is left out.
        prefix: how titles must begin.
        n: how many.
    """
    title_of = _titles(items, prefix.strip().lower())
    candidates = vectors.of_kind(right_kind)
    # Of rows with the same title and vector two are enough: if one is the query's own, the other has the title.
    places: Counter[tuple[str, bytes]] = Counter()
    usable = []
    for row, (position, name) in enumerate(zip(candidates.positions, candidates.ids.to_pylist(), strict=True)):
        if (title := title_of.get(name)) is not None:
            same = (title, vectors.vectors[position].tobytes())
            places[same] += 1
            usable.append(row) if places[same] <= 2 else None
    exclude = None if title_id is None else [{title_id}]
    [hits] = exact.top_k(candidates.take(np.array(usable, np.int64)), vector[None], n * suggest.REACH, exclude=exclude)
    best: dict[str, float] = {}
    for name, score in hits:
        best.setdefault(title_of[name], score)
    return list(best.items())[:n]


def cooccurrence_counts(
    items: pa.Table, title_id: str | None, config: ItemTextConfig, prefix: Sequence[str]
) -> suggest.CooccurrenceCounts:
    """Return what suggest.cooccurrence_counts() does, of all titles but one.

    Args:
        items: from items().
        title_id: the row that is left out; None: none is.
        config: how titles are split into words.
        prefix: the words of the prefix.
    """
    suggest.check_prefix(prefix)
    if title_id is not None:
        items = items.filter(pc.not_equal(items["id"], title_id))
    by_item = [set(tokens) for tokens in item_tokens.tokens_of(items, config)]
    sharing = {token for tokens in by_item if not tokens.isdisjoint(prefix) for token in tokens}
    if len(sharing) > suggest.MAX_COOCCURRING:
        raise ConfigError(suggest.TOO_MANY_WORDS)
    titles, together = Counter[str](), {token: [0] * len(prefix) for token in sharing}
    for tokens in by_item:
        titles.update(tokens & sharing)
        for place, word in enumerate(prefix):
            if word in tokens:
                for token in tokens:
                    together[token][place] += 1
    return suggest.CooccurrenceCounts(len(by_item), dict(titles), together)


def _titles(items: pa.Table, beginning: str) -> dict[str, str]:
    """Return the first title in order of each id that has one with this beginning."""
    title_of: dict[str, str] = {}
    for name, title in zip(items["id"].to_pylist(), items["title"].to_pylist(), strict=True):
        if title is not None and title.lower().startswith(beginning):
            title_of[name] = min(title, title_of.get(name, title))
    return title_of
