"""How the result of one search is shown: printed, as a page, as a montage."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from embedall_spark import files
from embedall_spark.cli.shared import console, provenance
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import label_metrics
from embedall_spark.evaluate.label_metrics import Metadata
from embedall_spark.search import metadata, title_lookup
from embedall_spark.sources import expressions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.search.exact import Hit
    from embedall_spark.sources.image_limits import Limits


log = logging.getLogger(__name__)

_EDGE = 192  # pixels of a picture on a page


class DisplayOptions(NamedTuple):
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


class Query(NamedTuple):
    """What was searched by: an id, a picture's file, or neither, and what to call it."""

    text: str
    id: str | None
    image: str | None


def check(shown: DisplayOptions) -> None:
    """Raise ConfigError for options that contradict each other, before Spark starts."""
    if shown.names is not None:
        label_metrics.check(Metadata(path=shown.names))
    if shown.images is not None and shown.html is None and shown.montage is None:
        raise ConfigError("--images: pictures are shown with --html FILE or --montage FILE; give one of them")
    if "{id}" not in shown.pattern:
        raise ConfigError(f"--image-pattern {shown.pattern}: need {{id}} in it, such as {{id}}.jpg")


def check_columns(shown: DisplayOptions, known: DataFrame | None) -> None:
    """Raise ConfigError where the metadata lack a column that is to be shown."""
    asked = {"--show": _columns(shown), "--title-column": [shown.title] if shown.title else []}
    for option, columns in asked.items():
        if columns and known is None:
            raise ConfigError(f"{option} names columns of metadata: give --names TABLE_OR_FILE")
        if known is not None and (missing := [column for column in columns if column not in known.columns]):
            has = ", ".join(known.columns)
            raise ConfigError(f"{option}: the metadata have no column {', '.join(missing)} (columns: {has})")


def named(shown: DisplayOptions, known: DataFrame | None) -> DataFrame | None:
    """Return id and title of ids, where the metadata have titles."""
    if known is None or (shown.title or "title") not in known.columns:
        return None
    return known.select("id", expressions.column(shown.title or "title").cast("string").alias("title"))


def pictures(spark: SparkSession, table: str, shown: DisplayOptions) -> tuple[DataFrame, Limits] | None:
    """Return IMAGES of a table and the limits of what is decoded; None where none are shown, or a page has none.

    Raises:
        ConfigError: a montage is asked for, and nothing tells where the pictures are.
    """
    if shown.html is None and shown.montage is None:
        return None
    try:
        return provenance.pictures(spark, table, shown.images, shown.pattern)
    except (ConfigError, BadData) as error:
        if shown.montage is not None:
            raise
        log.info("the page has no pictures: %s", error)
        return None


def render(
    table: str,
    shown: DisplayOptions,
    known: DataFrame | None,
    source: tuple[DataFrame, Limits] | None,
    asked: Query,
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
    facts = metadata.metadata_by_id(known, ids, columns) if known is not None else {}
    called = {} if titled is None else title_lookup.titles_by_id(titled, ids)
    heading = called.get(asked.id or "", asked.text)
    if columns:
        rows = [("", heading, "score", *columns)]
        for rank, (name, score) in enumerate(hits, 1):
            values = (facts.get(name, {}).get(column, "") for column in columns)
            rows.append((f"{rank:>4}", called.get(name, name), f"{score:.3f}", *values))
        console.table(rows)
    else:
        console.neighbours([heading], [[(called.get(name, name), score) for name, score in hits]])
    if shown.html is None and shown.montage is None:
        return
    # Imported here, as below: what pictures need takes a second, which other searches need not wait.
    from embedall_spark.images import thumbnails

    small = {} if source is None else thumbnails.thumbnails_by_id(source[0], ids, source[1], _EDGE)
    first = _picture(asked.image) if asked.image is not None else small.get(asked.id or "")
    if shown.html is not None:
        from embedall_spark.visualize import html_page

        cards = [
            html_page.Card(called.get(name, name), {"score": f"{score:.3f}", **facts.get(name, {})}, small.get(name))
            for name, score in hits
        ]
        top = html_page.Card(heading, facts.get(asked.id or "", {}), first)
        files.write_bytes(
            shown.html, html_page.render(f"Nearest to {heading}", f"{table}, by {shown.by}", top, cards).encode()
        )
    if shown.montage is not None:
        from embedall_spark.visualize import montage

        tiles = [montage.Tile(small.get(name), f"{score:.3f} {called.get(name, name)}") for name, score in hits]
        if first is not None:
            tiles.insert(0, montage.Tile(first, "asked for"))
        files.write_bytes(shown.montage, montage.draw([(heading, tiles)]))


def _columns(shown: DisplayOptions) -> list[str]:
    return [column.strip() for column in shown.columns.split(",") if column.strip()]


def _picture(path: str) -> Image.Image | None:
    """Return the picture that was asked for, mode RGB; None where it cannot be had: what was found is shown without."""
    from embedall_spark.images.decode import BadImage, decode
    from embedall_spark.sources.image_limits import Limits

    try:
        return decode(files.read_bytes(path), Limits())
    except (OSError, BadImage):
        return None
