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


def tell(table: str, shown: Shown, known: DataFrame | None, asked: str, image: str | None, hits: Sequence[Hit]) -> None:
    """Print what was found, and write it to the files that were asked for.

    Args:
        table: where it was found.
        shown: how to show it.
        known: metadata, as search.metadata.read() returns them.
        asked: what was searched by: an id, or a file's name.
        image: the picture that was searched by.
        hits: what was found.
    """
    ids = [name for name, _ in hits]
    columns = _columns(shown)
    facts = metadata.of(known, [asked, *ids], columns) if known is not None else {}
    titled = named(shown, known)
    called = {} if titled is None else titles.of(titled, [asked, *ids])
    if columns:
        rows = [("", called.get(asked, asked), "score", *columns)]
        for rank, (name, score) in enumerate(hits, 1):
            values = (facts.get(name, {}).get(column, "") for column in columns)
            rows.append((f"{rank:>4}", called.get(name, name), f"{score:.3f}", *values))
        show.table(rows)
    else:
        show.neighbours([called.get(asked, asked)], [[(called.get(name, name), score) for name, score in hits]])
    if shown.html is None and shown.montage is None:
        return
    pictures = _pictures(shown, image, asked, ids)
    if shown.html is not None:
        # Imported here, as below: matplotlib's fonts take a second, which other searches need not wait.
        from embedall_spark.visualize import page

        cards = [
            page.Card(called.get(name, name), {"score": f"{score:.3f}", **facts.get(name, {})}, pictures.get(name))
            for name, score in hits
        ]
        first = page.Card(called.get(asked, asked), facts.get(asked, {}), pictures.get(asked))
        text = page.render(f"Nearest to {first.name}", f"{table}, by cosine", [(first, cards)])
        files.write_bytes(shown.html, text.encode("utf-8"))
    if shown.montage is not None:
        from embedall_spark.visualize import montage

        tiles = [montage.Tile(pictures.get(name), f"{score:.3f} {called.get(name, name)}") for name, score in hits]
        if asked in pictures:
            tiles.insert(0, montage.Tile(pictures[asked], "asked for"))
        files.write_bytes(shown.montage, montage.draw([(called.get(asked, asked), tiles)]))


def _columns(shown: Shown) -> list[str]:
    return [column.strip() for column in shown.columns.split(",") if column.strip()]


def _pictures(shown: Shown, image: str | None, asked: str, ids: Sequence[str]) -> dict[str, Image.Image]:
    """Return the pictures that can be had, mode RGB."""
    from embedall_spark.images.decode import Limits, Refused, decode

    paths = {asked: image} if image is not None else {}
    if shown.images is not None:
        root = shown.images.rstrip("/")
        below = {name: shown.pattern.replace("{id}", name) for name in [asked, *ids] if name not in paths}
        # An id comes from data, and must not lead out of the folder.
        paths |= {name: f"{root}/{path}" for name, path in below.items() if ".." not in path.split("/")}
    pictures = {}
    for name, path in paths.items():
        try:
            pictures[name] = decode(files.read_bytes(path), Limits())
        except (OSError, Refused):
            # Shown without a picture: what was found counts.
            continue
    return pictures
