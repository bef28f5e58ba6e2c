"""How the result of one search is shown: printed, as a page, as a montage."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from embedall_spark import files
from embedall_spark.cli import made, show
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import labels
from embedall_spark.evaluate.labels import Metadata
from embedall_spark.search import metadata, titles
from embedall_spark.sources import reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.images.decode import Limits
    from embedall_spark.search.exact import Hit


log = logging.getLogger(__name__)

_EDGE = 192  # pixels of a picture on a page


class Shown(NamedTuple):
    """What the command line says of it."""

    names: str | None
    id_column: str
    title: str | None
    columns: str
    html: str | None
    montage: str | None
    images: str | None
    pattern: str
    by: str = "cosine"


class Asked(NamedTuple):
    """What was searched by: an id, a picture's file, or neither, and what to call it."""

    text: str
    id: str | None
    image: str | None


def check(shown: Shown) -> None:
    """Raise ConfigError for options that contradict each other, before Spark starts."""
    if shown.names is not None:
        labels.check(Metadata(path=shown.names))
    if shown.images is not None and shown.html is None and shown.montage is None:
        raise ConfigError("--images: pictures are shown with --html FILE or --montage FILE; give one of them")
    if "{id}" not in shown.pattern:
        raise ConfigError(f"--image-pattern {shown.pattern}: need {{id}} in it, such as {{id}}.jpg")


def check_columns(shown: Shown, known: DataFrame | None) -> None:
    """Raise ConfigError where the metadata lack a column that is to be shown."""
    asked = {"--show": _columns(shown), "--title-column": [shown.title] if shown.title else []}
    for option, columns in asked.items():
        if columns and known is None:
            raise ConfigError(f"{option} names columns of metadata: give --names TABLE_OR_FILE")
        if known is not None and (missing := [column for column in columns if column not in known.columns]):
            has = ", ".join(known.columns)
            raise ConfigError(f"{option}: the metadata have no column {', '.join(missing)} (columns: {has})")


def named(shown: Shown, known: DataFrame | None) -> DataFrame | None:
    """Return id and title of ids, where the metadata have titles."""
    if known is None or (shown.title or "title") not in known.columns:
        return None
    return known.select("id", reading.column(shown.title or "title").cast("string").alias("title"))


def pictures(spark: SparkSession, table: str, shown: Shown) -> tuple[DataFrame, Limits] | None:
    """Return IMAGES of a table and the limits of what is decoded; None where none are shown, or a page has none.

    Raises:
        ConfigError: a montage is asked for, and nothing tells where the pictures are.
    """
    if shown.html is None and shown.montage is None:
        return None
    try:
        return made.pictures(spark, table, shown.images, shown.pattern)
    except (ConfigError, BadData) as error:
        if shown.montage is not None:
            raise
        log.info("the page has no pictures: %s", error)
        return None


def tell(
    table: str,
    shown: Shown,
    known: DataFrame | None,
    source: tuple[DataFrame, Limits] | None,
    asked: Asked,
    hits: Sequence[Hit],
) -> None:
    """Print what was found, and write it to the files that were asked for.

    Args:
        table: where it was found.
        shown: how to show it.
        known: metadata, as search.metadata.read() returns them.
        source: as pictures() returns it.
        asked: what was searched by.
        hits: what was found.
    """
    ids = [name for name, _ in hits] + ([asked.id] if asked.id is not None else [])
    columns, titled = _columns(shown), named(shown, known)
    facts = metadata.of(known, ids, columns) if known is not None else {}
    called = {} if titled is None else titles.of(titled, ids)
    heading = called.get(asked.id or "", asked.text)
    if columns:
        rows = [("", heading, "score", *columns)]
        for rank, (name, score) in enumerate(hits, 1):
            values = (facts.get(name, {}).get(column, "") for column in columns)
            rows.append((f"{rank:>4}", called.get(name, name), f"{score:.3f}", *values))
        show.table(rows)
    else:
        show.neighbours([heading], [[(called.get(name, name), score) for name, score in hits]])
    if shown.html is None and shown.montage is None:
        return
    # Imported here, as below: what pictures need takes a second, which other searches need not wait.
    from embedall_spark.images import thumbnails

    small = {} if source is None else thumbnails.of(source[0], ids, source[1], _EDGE)
    first = _picture(asked.image) if asked.image is not None else small.get(asked.id or "")
    if shown.html is not None:
        from embedall_spark.visualize import page

        cards = [
            page.Card(called.get(name, name), {"score": f"{score:.3f}", **facts.get(name, {})}, small.get(name))
            for name, score in hits
        ]
        top = page.Card(heading, facts.get(asked.id or "", {}), first)
        files.write_bytes(
            shown.html, page.render(f"Nearest to {heading}", f"{table}, by {shown.by}", top, cards).encode()
        )
    if shown.montage is not None:
        from embedall_spark.visualize import montage

        tiles = [montage.Tile(small.get(name), f"{score:.3f} {called.get(name, name)}") for name, score in hits]
        if first is not None:
            tiles.insert(0, montage.Tile(first, "asked for"))
        files.write_bytes(shown.montage, montage.draw([(heading, tiles)]))


def _columns(shown: Shown) -> list[str]:
    return [column.strip() for column in shown.columns.split(",") if column.strip()]


def _picture(path: str) -> Image.Image | None:
    """Return the picture that was asked for, mode RGB; None where it cannot be had: what was found is shown without."""
    from embedall_spark.images.decode import Limits, Refused, decode

    try:
        return decode(files.read_bytes(path), Limits())
    except (OSError, Refused):
        return None
