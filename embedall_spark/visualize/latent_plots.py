"""What a latent space looks like: both kinds on one map, cosines of pairs, what is found and what is suggested."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.search import exact
from embedall_spark.search.exact_kernel import unit
from embedall_spark.sources import metadata
from embedall_spark.visualize import heat_map, image_map, montage, scatter_map, suggestion_sheet
from embedall_spark.visualize.montage import Tile
from embedall_spark.visualize.suggestion_sheet import SuggestionRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from pyspark.sql import DataFrame

    from embedall_spark.search.exact import Hit

    Vector = NDArray[np.float32]

MAX_PAIRS, MAX_EXAMPLES = 60, 100
_FOUND, _SUGGESTED = 10, 6  # pictures of a search; titles, and words, for a picture
_ASKED, _SEVERAL = 5_000, 3  # of the most frequent rows; in so many pairs at least
_MAP_INK = "#8e8e98"


class Space(NamedTuple):
    """A latent space, and pairs of it that were not learnt from."""

    vectors: DataFrame
    """VECTORS of all kinds."""
    pairs: DataFrame
    """left, right: ids of both sides' rows."""
    asked: DataFrame
    """id, count: rows that are asked for by word, and in how many of these pairs each is."""
    known: DataFrame
    """id, title."""
    kinds: tuple[str, str]
    find: Callable[[list[str]], Mapping[str, Image.Image]] | None
    """Gives small pictures of left ids; None where they are no pictures."""
    guess: Callable[[Vector, float], list[tuple[str, float]]] | None
    """Ranks words for a left vector and its length; None where the right side is no text."""


class Sizes(NamedTuple):
    """How much is drawn; 0: not at all."""

    ids: int
    pairs: int
    examples: int
    seed: int


class _Row(NamedTuple):
    vector: Vector
    norm: float


def draw(space: Space, sizes: Sizes) -> Iterator[tuple[str, bytes]]:
    """Yield names and PNGs: ``map.png``, ``pairs.png``, and of pictures ``searches.png`` and ``suggestions.png``.

    Pairs and words are chosen by a hash, so that reruns show the same.

    Args:
        space: the space.
        sizes: how many ids of both kinds on the map, at most maps.MAX_IDS; pairs in the heat map, at most MAX_PAIRS;
            searches, and pictures with suggestions, at most MAX_EXAMPLES each.
    """
    # What is asked for, and shown, only of pictures.
    half, examples = (sizes.ids // 2, sizes.examples) if space.find is not None else (0, 0)
    pairs = _sample(space.pairs, max(half, sizes.pairs, examples), sizes.seed)
    words, searched = _asked(space, half, examples, sizes.seed) if half or examples else ([], [])
    rows = _fetch(space.vectors, {*(name for pair in pairs for name in pair), *words, *searched})
    pairs = [pair for pair in pairs if rows.keys() >= {*pair}]
    lefts = [left for left, _ in pairs]
    found = _nearest(_unseen(space), rows, searched, _FOUND)
    near = _nearest(_learnt(space), rows, lefts[:examples], 3 * _SUGGESTED)
    hit = [name for some in [*found, *near] for name, _ in some]
    small = space.find([*lefts, *hit]) if space.find is not None and lefts else {}
    titled = metadata.metadata_by_id(space.known, [*rows, *hit], ["title"])
    called = {name: titled.get(name, {}).get("title", name) for name in [*rows, *hit]}
    if small and half:
        yield "map.png", _map(space, lefts[:half], words, rows, small, called, sizes)
    elif sizes.ids > 1 and space.vectors.limit(2).count() == 2:
        heading = f"{sizes.ids:,} ids of both kinds, t-SNE"
        yield "map.png", scatter_map.draw(space.vectors, sizes.ids, seed=sizes.seed, title=heading, known=space.known)
    if sizes.pairs and pairs:
        yield "pairs.png", _pairs(space, pairs[: sizes.pairs], rows, small, called)
    if small and searched:
        told = zip(searched, found, strict=True)
        tiles = [(called[word], [Tile(small.get(name), called[name]) for name, _ in some]) for word, some in told]
        heading = f"Searches by {_kind(searched)}, among {space.kinds[0]} never seen"
        yield "searches.png", montage.draw([(heading, []), *tiles])
        yield "suggestions.png", _suggestions(space, lefts, near, rows, small, called)


def _map(
    space: Space,
    lefts: Sequence[str],
    words: Sequence[str],
    rows: Mapping[str, _Row],
    small: Mapping[str, Image.Image],
    called: Mapping[str, str],
    sizes: Sizes,
) -> bytes:
    """Return a map of pictures and words; where two lie on each other, both kinds have the same chance to be shown."""
    ids = [name for both in zip(lefts, words, strict=False) for name in both]
    ids += [*lefts[len(words) :], *words[len(lefts) :]]
    places = scatter_map.project(unit(np.stack([rows[name].vector for name in ids])), "tsne", sizes.seed)
    heading = f"{len(lefts):,} {space.kinds[0]} never seen, and {len(words):,} {_kind(words)} in one space, t-SNE"
    texts = [None if name in small else called[name] for name in ids]
    return image_map.draw(places, [small.get(name) for name in ids], [_MAP_INK] * len(ids), heading, {}, texts)


def _pairs(
    space: Space,
    pairs: Sequence[tuple[str, str]],
    rows: Mapping[str, _Row],
    small: Mapping[str, Image.Image],
    called: Mapping[str, str],
) -> bytes:
    """Return a heat map of pairs."""
    left, right = (np.stack([rows[name].vector for name in side]) for side in zip(*pairs, strict=True))
    names = [called[name] for name, _ in pairs], [called[name] for _, name in pairs]
    title = f"Cosines of {len(pairs)} {space.kinds[0]} never seen (rows) and their {space.kinds[1]} (columns)"
    return heat_map.draw(left, right, names, [small.get(name) for name, _ in pairs], title)


def _suggestions(
    space: Space,
    lefts: Sequence[str],
    near: Sequence[Sequence[Hit]],
    rows: Mapping[str, _Row],
    small: Mapping[str, Image.Image],
    called: Mapping[str, str],
) -> bytes:
    """Return pictures with the nearest rows of the other side, and with words where that is text."""
    told = []
    for left, hits in zip(lefts, near, strict=False):
        lists = {space.kinds[1]: list(dict.fromkeys(called[name] for name, _ in hits))[:_SUGGESTED]}
        if space.guess is not None:
            lists["words"] = [word for word, _ in space.guess(*rows[left])[:_SUGGESTED]]
        told.append(SuggestionRow(small.get(left), called[left], lists))
    return suggestion_sheet.draw(told, f"Suggested for {space.kinds[0]} never seen (in grey: its own)")


def _sample(pairs: DataFrame, count: int, seed: int) -> list[tuple[str, str]]:
    """Return pairs of different left ids, chosen by a hash."""
    one = pairs.groupBy("left").agg(F.min("right").alias("right"))
    table = one.orderBy(F.xxhash64(F.lit(seed), "left"), "left").limit(count).select("left", "right").toArrow()
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _asked(space: Space, frequent: int, examples: int, seed: int) -> tuple[list[str], list[str]]:
    """Return rows for the map, the most frequent ones, and rows to search by.

    The latter are chosen by a hash, those before others that are in several pairs and not in very many, as "with" is.
    """
    order = F.xxhash64(F.lit(seed), "id").alias("order")
    there = space.asked.join(space.vectors.select("id"), "id", "left_semi")
    table = there.orderBy(F.desc("count"), "id").limit(_ASKED).select("id", "count", order).toArrow()
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    most = max((count for _, count, _ in rows), default=0) / 3
    middling = sorted(rows, key=lambda row: (not _SEVERAL <= row[1] <= most, row[2], row[0]))
    return [name for name, *_ in rows[:frequent]], [name for name, *_ in middling[:examples]]


def _fetch(vectors: DataFrame, ids: set[str]) -> dict[str, _Row]:
    """Return the rows of some ids that are there."""
    wanted = vectors.sparkSession.createDataFrame(pa.table({"id": pa.array(sorted(ids), pa.string())}))
    table = vectors.select("id", "vector", "norm").join(wanted, "id", "left_semi").toArrow()
    matrix = exact.to_matrix(table["vector"].combine_chunks())
    names, norms = table["id"].to_pylist(), table["norm"].to_pylist()
    return {name: _Row(row, norm) for name, row, norm in zip(names, matrix, norms, strict=True)}


def _nearest(among: DataFrame, rows: Mapping[str, _Row], names: Sequence[str], k: int) -> list[list[Hit]]:
    """Return what is nearest to some rows, best first."""
    return exact.top_k(among, np.stack([rows[name].vector for name in names]), k, own=True) if names else []


def _unseen(space: Space) -> DataFrame:
    """Return the left rows that were not learnt from."""
    return space.vectors.join(space.pairs.select(F.col("left").alias("id")), "id", "left_semi")


def _learnt(space: Space) -> DataFrame:
    """Return the right rows that no pair has that was not learnt from; some may be called alike."""
    own = space.pairs.select(F.col("right").alias("id"))
    return space.vectors.where(F.col("kind") == space.kinds[1]).join(own, "id", "left_anti")


def _kind(ids: Sequence[str]) -> str:
    return ids[0].partition(":")[0] if ids else "others"
