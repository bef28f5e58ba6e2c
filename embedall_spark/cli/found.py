"""How the result of one search is shown: printed, as a page, as a montage."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from embedall_spark import files
from embedall_spark.cli import show
from embedall_spark.errors import ConfigError
from embedall_spark.evaluate import labels
from embedall_spark.evaluate.labels import Metadata
from embedall_spark.search import metadata, titles
from embedall_spark.sources import reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from pyspark.sql import DataFrame

    from embedall_spark.search.exact import Hit


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


class Asked(NamedTuple):
    """What was searched by: an id, a picture's file, or neither, and what to call it."""

    text: str
    id: str | None
    image: str | None


def check(shown: Shown) -> None:
    """Raise ConfigError for options that contradict each other, before Spark starts."""
    if shown.names is not None:
        labels.check(Metadata(path=shown.names))
    if shown.montage is not None and shown.images is None:
        raise ConfigError("--montage is made of pictures: give their folder with --images FOLDER")
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


def tell(table: str, shown: Shown, known: DataFrame | None, asked: Asked, hits: Sequence[Hit]) -> None:
    """Print what was found, and write it to the files that were asked for.

    Args:
        table: where it was found.
        shown: how to show it.
        known: metadata, as search.metadata.read() returns them.
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
    pictures = {name: picture for name in ids if (picture := _picture(_path(shown, name))) is not None}
    first = _picture(asked.image) if asked.image is not None else pictures.get(asked.id or "")
    if shown.html is not None:
        # Imported here, as below: matplotlib's fonts take a second, which other searches need not wait.
        from embedall_spark.visualize import page

        cards = [
            page.Card(called.get(name, name), {"score": f"{score:.3f}", **facts.get(name, {})}, pictures.get(name))
            for name, score in hits
        ]
        top = page.Card(heading, facts.get(asked.id or "", {}), first)
        files.write_bytes(shown.html, page.render(f"Nearest to {heading}", f"{table}, by cosine", top, cards).encode())
    if shown.montage is not None:
        from embedall_spark.visualize import montage

        tiles = [montage.Tile(pictures.get(name), f"{score:.3f} {called.get(name, name)}") for name, score in hits]
        if first is not None:
            tiles.insert(0, montage.Tile(first, "asked for"))
        files.write_bytes(shown.montage, montage.draw([(heading, tiles)]))


def _columns(shown: Shown) -> list[str]:
    return [column.strip() for column in shown.columns.split(",") if column.strip()]


def _path(shown: Shown, name: str) -> str | None:
    """Return where the picture of an id should be; None where that is outside of the folder."""
    path = shown.pattern.replace("{id}", name)
    # An id comes from data, and must not lead out of the folder.
    if shown.images is None or ".." in path.split("/"):
        return None
    return f"{shown.images.rstrip('/')}/{path}"


def _picture(path: str | None) -> Image.Image | None:
    """Return a picture, mode RGB; None where it cannot be had: what was found is shown without it."""
    from embedall_spark.images.decode import Limits, Refused, decode

    try:
        return None if path is None else decode(files.read_bytes(path), Limits())
    except (OSError, Refused):
        return None
