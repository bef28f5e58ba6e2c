"""Plots of a latent space: both kinds on one map, cosines of pairs, example searches and suggestions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.schemas import from_arrow
from embedall_spark.search import exact
from embedall_spark.sources import metadata
from embedall_spark.vectors import kind_of, to_matrix, unit
from embedall_spark.visualize import heat_map, image_map, montage, scatter_map, suggestion_sheet
from embedall_spark.visualize.montage import Tile
from embedall_spark.visualize.suggestion_sheet import SuggestionRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from pyspark.sql import DataFrame

    from embedall_spark.search.local_table import Hit

    Vector = NDArray[np.float32]

MAX_PAIRS, MAX_EXAMPLES = 60, 100
_HITS, _SUGGESTIONS = 10, 6  # pictures of a search; titles, and words, for a picture
_MAX_QUERIES, _MIN_PAIRS = 5_000, 3  # the most frequent rows are candidates; in so many pairs, if possible
_DOTS = "#8e8e98"


class Space(NamedTuple):
    """A latent space, and its held-out pairs."""

    vectors: DataFrame
    """VECTORS of all kinds."""
    pairs: DataFrame
    """left, right: ids of held-out pairs."""
    queries: DataFrame
    """id, count: rows to search by, such as words, and in how many of these pairs each occurs."""
    metadata: DataFrame
    """id, title."""
    kinds: tuple[str, str]
    find: Callable[[list[str]], Mapping[str, Image.Image]] | None
    """Returns small pictures by left id; None where the left side has no pictures."""
    suggest_words: Callable[[Vector, float], list[tuple[str, float]]] | None
    """Ranks words for a left vector and its length; None where the right side is not text."""


class Sizes(NamedTuple):
    """How much to draw; 0: not at all."""

    ids: int
    pairs: int
    examples: int
    seed: int


class _Row(NamedTuple):
    vector: Vector
    norm: float


def draw(space: Space, sizes: Sizes) -> Iterator[tuple[str, bytes]]:
    """Yield names and PNGs: ``map.png``, ``pairs.png``, and for pictures ``searches.png`` and ``suggestions.png``.

    Pairs and queries are chosen by a hash, so that reruns show the same.

    Args:
        space: the space.
        sizes: how many ids of both kinds on the map, at most scatter_map.MAX_IDS; pairs in the heat map, at most
            MAX_PAIRS; searches, and pictures with suggestions, at most MAX_EXAMPLES each.
    """
    # Searches and suggestions are drawn only for pictures.
    half, examples = (sizes.ids // 2, sizes.examples) if space.find is not None else (0, 0)
    pairs = _sample(space.pairs, max(half, sizes.pairs, examples), sizes.seed)
    frequent, queries = _choose_queries(space, half, examples, sizes.seed) if half or examples else ([], [])
    rows = _fetch(space.vectors, {*(name for pair in pairs for name in pair), *frequent, *queries})
    pairs = [pair for pair in pairs if rows.keys() >= {*pair}]
    lefts = [left for left, _ in pairs]
    hits = _nearest(_held_out_lefts(space), rows, queries, _HITS)
    neighbors = _nearest(_training_rights(space), rows, lefts[:examples], 3 * _SUGGESTIONS)
    shown = [*rows, *(name for results in [*hits, *neighbors] for name, _ in results)]
    small = space.find([*lefts, *shown[len(rows) :]]) if space.find is not None and lefts else {}
    by_id = metadata.metadata_by_id(space.metadata, shown, ["title"])
    titles = {name: by_id.get(name, {}).get("title", name) for name in shown}
    if small and half:
        yield "map.png", _map(space, lefts[:half], frequent, rows, small, titles, sizes)
    elif sizes.ids > 1 and space.vectors.limit(2).count() == 2:
        title = f"{sizes.ids:,} ids of both kinds, t-SNE"
        plot = scatter_map.draw(space.vectors, sizes.ids, seed=sizes.seed, title=title, metadata=space.metadata)
        yield "map.png", plot
    if sizes.pairs and pairs:
        yield "pairs.png", _pairs(space, pairs[: sizes.pairs], rows, small, titles)
    if small and queries:
        tiles = [
            (titles[query], [Tile(small.get(name), titles[name]) for name, _ in results])
            for query, results in zip(queries, hits, strict=True)
        ]
        title = f"Searches by {_kind(queries)} among held-out {space.kinds[0]}"
        yield "searches.png", montage.draw([(title, []), *tiles])
        yield "suggestions.png", _suggestions(space, lefts, neighbors, rows, small, titles)


def _map(
    space: Space,
    lefts: Sequence[str],
    rights: Sequence[str],
    rows: Mapping[str, _Row],
    small: Mapping[str, Image.Image],
    titles: Mapping[str, str],
    sizes: Sizes,
) -> bytes:
    """Return a map of pictures and words; where two overlap, both kinds have the same chance to be shown."""
    ids = [name for both in zip(lefts, rights, strict=False) for name in both]
    ids += [*lefts[len(rights) :], *rights[len(lefts) :]]
    places = scatter_map.project(unit(np.stack([rows[name].vector for name in ids])), "tsne", sizes.seed)
    title = f"{len(lefts):,} held-out {space.kinds[0]} and {len(rights):,} {_kind(rights)} in one space, t-SNE"
    texts = [None if name in small else titles[name] for name in ids]
    return image_map.draw(places, [small.get(name) for name in ids], [_DOTS] * len(ids), title, {}, texts)


def _pairs(
    space: Space,
    pairs: Sequence[tuple[str, str]],
    rows: Mapping[str, _Row],
    small: Mapping[str, Image.Image],
    titles: Mapping[str, str],
) -> bytes:
    """Return a heat map of pairs."""
    left, right = (np.stack([rows[name].vector for name in side]) for side in zip(*pairs, strict=True))
    names = [titles[name] for name, _ in pairs], [titles[name] for _, name in pairs]
    title = f"Cosines of {len(pairs)} held-out {space.kinds[0]} (rows) and their {space.kinds[1]} (columns)"
    return heat_map.draw(left, right, names, [small.get(name) for name, _ in pairs], title)


def _suggestions(
    space: Space,
    lefts: Sequence[str],
    neighbors: Sequence[Sequence[Hit]],
    rows: Mapping[str, _Row],
    small: Mapping[str, Image.Image],
    titles: Mapping[str, str],
) -> bytes:
    """Return pictures with the nearest rows of the other side, and with words if that is text."""
    sheet = []
    for left, hits in zip(lefts, neighbors, strict=False):
        lists = {space.kinds[1]: list(dict.fromkeys(titles[name] for name, _ in hits))[:_SUGGESTIONS]}
        if space.suggest_words is not None:
            lists["words"] = [word for word, _ in space.suggest_words(*rows[left])[:_SUGGESTIONS]]
        sheet.append(SuggestionRow(small.get(left), titles[left], lists))
    return suggestion_sheet.draw(sheet, f"Suggestions for held-out {space.kinds[0]} (in gray: their own titles)")


def _sample(pairs: DataFrame, count: int, seed: int) -> list[tuple[str, str]]:
    """Return pairs of different left ids, chosen by a hash."""
    single = pairs.groupBy("left").agg(F.min("right").alias("right"))
    table = single.orderBy(F.xxhash64(F.lit(seed), "left"), "left").limit(count).select("left", "right").toArrow()
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _choose_queries(space: Space, frequent: int, examples: int, seed: int) -> tuple[list[str], list[str]]:
    """Return the most frequent rows, for the map, and rows to search by.

    The latter are chosen by a hash; preferred are those in several pairs, but not in very many, as "with" is.
    """
    order = F.xxhash64(F.lit(seed), "id").alias("order")
    present = space.queries.join(space.vectors.select("id"), "id", "left_semi")
    table = present.orderBy(F.desc("count"), "id").limit(_MAX_QUERIES).select("id", "count", order).toArrow()
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    limit = max((count for _, count, _ in rows), default=0) / 3
    preferred = sorted(rows, key=lambda row: (not _MIN_PAIRS <= row[1] <= limit, row[2], row[0]))
    return [name for name, *_ in rows[:frequent]], [name for name, *_ in preferred[:examples]]


def _fetch(vectors: DataFrame, ids: set[str]) -> dict[str, _Row]:
    """Return the rows of those ids that are in the table."""
    wanted = from_arrow(vectors.sparkSession, pa.table({"id": pa.array(sorted(ids), pa.string())}))
    table = vectors.select("id", "vector", "norm").join(wanted, "id", "left_semi").toArrow()
    names, norms = table["id"].to_pylist(), table["norm"].to_pylist()
    return {name: _Row(row, norm) for name, row, norm in zip(names, to_matrix(table["vector"]), norms, strict=True)}


def _nearest(table: DataFrame, rows: Mapping[str, _Row], names: Sequence[str], k: int) -> list[list[Hit]]:
    """Return the rows of a table nearest to each named row, best first."""
    return exact.top_k(table, np.stack([rows[name].vector for name in names]), k, same_table=True) if names else []


def _held_out_lefts(space: Space) -> DataFrame:
    return space.vectors.join(space.pairs.select(F.col("left").alias("id")), "id", "left_semi")


def _training_rights(space: Space) -> DataFrame:
    """Return the right rows that are in no held-out pair; some may have the same title as one that is."""
    held_out = space.pairs.select(F.col("right").alias("id"))
    return space.vectors.where(F.col("kind") == space.kinds[1]).join(held_out, "id", "left_anti")


def _kind(ids: Sequence[str]) -> str:
    return kind_of(ids[0]) if ids else "others"
