"""How the result of one search is shown: printed, as a page, as a montage."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark import config, files
from embedall_spark.cli.shared import console, provenance, table_snapshot
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.search import title_lookup
from embedall_spark.sources import expressions, local_metadata
from embedall_spark.sources import metadata as metadata_source
from embedall_spark.sources.metadata import Names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from PIL import Image
    from pyspark.sql import DataFrame

    from embedall_spark.cli.shared.search_query import Query
    from embedall_spark.cli.shared.table_snapshot import TableSnapshot
    from embedall_spark.search.local_table import Hit
    from embedall_spark.search.title_lookup import Titles
    from embedall_spark.sources.image_limits import Limits

    Pictures = tuple[DataFrame, Limits]
    Metadata: TypeAlias = DataFrame | pa.Table

log = logging.getLogger(__name__)

_EDGE = 192  # pixels of a picture on a page
_NOTHING = "no row found: the table has no other row that fulfills --where"


class DisplayOptions(NamedTuple):
    """How to show the result, as the command line says it."""

    names: str | None
    id_column: str
    title: str | None
    columns: list[str]
    html: str | None
    montage: str | None
    images: str | None
    pattern: str
    measure: str
    """What scores are."""

    @property
    def title_column(self) -> str:
        """The column of titles."""
        return self.title or "title"

    @property
    def draws(self) -> bool:
        """Whether pictures may be shown."""
        return self.html is not None or self.montage is not None


class _Result(NamedTuple):
    """A query and its hits as they are shown."""

    heading: str
    hits: Sequence[Hit]
    title_of: Mapping[str, str]
    """The title of each id that has one."""
    values_of: Mapping[str, Mapping[str, str]]
    """The values of the columns to show, by id and column."""

    def title(self, name: str) -> str:
        return self.title_of.get(name, name)

    def values(self, name: str) -> Mapping[str, str]:
        return self.values_of.get(name, {})


def check(display: DisplayOptions) -> None:
    """Raise ConfigError for options that contradict each other, before Spark starts."""
    if display.names is not None:
        metadata_source.check(_source(display, display.names))
    if display.images is not None and not display.draws:
        raise ConfigError("--images: pictures are shown with --html FILE or --montage FILE; give one of them")
    if "{id}" not in display.pattern:
        raise ConfigError(f"--image-pattern {display.pattern}: need {{id}} in it, such as {{id}}.jpg")


def read_metadata(snapshot: TableSnapshot, display: DisplayOptions) -> Metadata | None:
    """Return the metadata of --names, or those that a run has left beside the table; None: there are none.

    Raises:
        ConfigError: a column to be shown is missing from the metadata.
    """
    metadata = None
    if display.names is not None:
        columns = [display.title_column, *display.columns]
        metadata = _read_all(snapshot, _source(display, display.names), columns)
    else:
        metadata = beside(snapshot)
    for option, columns in (("--show", display.columns), ("--title-column", [display.title] if display.title else [])):
        if columns and metadata is None:
            raise ConfigError(f"{option} names columns of metadata: give --names TABLE_OR_FILE")
        if metadata is not None and (missing := [column for column in columns if column not in _names(metadata)]):
            has = ", ".join(_names(metadata))
            raise ConfigError(f"{option}: the metadata have no column {', '.join(missing)} (columns: {has})")
    return metadata


def titles_beside(snapshot: TableSnapshot) -> Titles | None:
    """Return id and title from what a run has left beside a table, if it has left titles."""
    return titles_of(beside(snapshot), "title")


def titles_of(metadata: Metadata | None, column: str) -> Titles | None:
    """Return id and title, if the metadata have titles."""
    if metadata is None or column not in _names(metadata):
        return None
    if isinstance(metadata, pa.Table):
        return pa.table({"id": metadata["id"], "title": local_metadata.text(metadata[column])})
    return metadata.select("id", expressions.column(column).cast("string").alias("title"))


def titles(display: DisplayOptions, metadata: Metadata | None) -> Titles | None:
    """Return id and title, if the metadata have titles."""
    return titles_of(metadata, display.title_column)


def described(snapshot: TableSnapshot, display: DisplayOptions) -> Metadata | None:
    """Return id, title and label of each id once, as text; of several values the least. None: there are no metadata."""
    metadata = read_metadata(snapshot, display)
    if metadata is None:
        return None
    columns = {"title": display.title_column, "label": "label"}
    if isinstance(metadata, pa.Table):
        none = pa.nulls(len(metadata), pa.string())
        texts = {
            name: local_metadata.text(metadata[column]) if column in metadata.column_names else none
            for name, column in columns.items()
        }
        grouped = pa.table({"id": metadata["id"], **texts}).group_by("id").aggregate([(name, "min") for name in texts])
        return grouped.rename_columns({f"{name}_min": name for name in texts})
    values = {
        name: expressions.column(column).cast("string") if column in metadata.columns else expressions.null()
        for name, column in columns.items()
    }
    return metadata.groupBy("id").agg(*(F.min(value).alias(name) for name, value in values.items()))


def with_places(snapshot: TableSnapshot, described: Metadata | None) -> Metadata | None:
    """Return described() with x and y where the table's run has stored a map."""
    places = table_snapshot.stored_map(snapshot)
    if places is None:
        return described
    if isinstance(places, pa.Table):
        if described is None:
            return places.append_column("title", none := pa.nulls(len(places), pa.string())).append_column(
                "label", none
            )
        assert isinstance(described, pa.Table)
        return described.join(places, "id", join_type="full outer")
    if described is None:
        return places.withColumns({name: expressions.null() for name in ("title", "label")})
    return described.join(places, "id", "full")


def _read_all(snapshot: TableSnapshot, source: Names, columns: Iterable[str] = ()) -> Metadata:
    if snapshot.session is None:
        return local_metadata.read_all(source, snapshot.rows, columns)
    return metadata_source.read_all(snapshot.session, source, columns)


def beside(snapshot: TableSnapshot) -> Metadata | None:
    """Return the metadata that a run has left beside a table."""
    path = provenance.metadata(snapshot.session, snapshot.name)
    return None if path is None else _read_all(snapshot, Names(path=path))


def _names(metadata: Metadata) -> list[str]:
    """Return the names of the columns."""
    return list(metadata.column_names if isinstance(metadata, pa.Table) else metadata.columns)


def pictures(snapshot: TableSnapshot, display: DisplayOptions) -> Pictures | None:
    """Return IMAGES of a table and the limits of what is decoded; None if none are shown, or a page has none.

    Raises:
        ConfigError: a montage is requested, and it is not known where the pictures are.
    """
    if not display.draws:
        return None
    try:
        return provenance.pictures(snapshot.spark, snapshot.name, display.images, display.pattern)
    except (ConfigError, BadData) as error:
        if display.montage is not None:
            raise
        log.info("the page has no pictures: %s", error)
        return None


def render(
    snapshot: TableSnapshot,
    display: DisplayOptions,
    metadata: Metadata | None,
    pictures: Pictures | None,
    query: Query,
    hits: Sequence[Hit],
) -> None:
    """Print the hits of a query, and write them to the requested files.

    Args:
        snapshot: the table that was searched.
        display: how to show them.
        metadata: as read_metadata() returns them.
        pictures: as pictures() returns them.
        query: what was searched by.
        hits: the hits.
    """
    ids = [name for name, _ in hits] + ([query.id] if query.id is not None else [])
    titled = titles(display, metadata)
    title_of = {} if titled is None else title_lookup.titles_by_id(titled, ids)
    values_of = _values(metadata, ids, display.columns)
    result = _Result(title_of.get(query.id or "", query.text), hits, title_of, values_of)
    _print(result, display.columns)
    if not display.draws:
        return
    # Imported here, as below: what pictures need takes a second, which other searches need not wait.
    from embedall_spark.images import thumbnails

    small = {} if pictures is None else thumbnails.thumbnails_by_id(pictures[0], ids, pictures[1], _EDGE)
    first = _picture(query.image) if query.image is not None else small.get(query.id or "")
    if display.html is not None:
        from embedall_spark.visualize import html_page

        cards = [
            html_page.Card(result.title(name), {"score": f"{score:.3f}", **result.values(name)}, small.get(name))
            for name, score in hits
        ]
        top = html_page.Card(result.heading, result.values(query.id or ""), first)
        about = f"{snapshot.name}, by {display.measure}"
        files.write_bytes(display.html, html_page.render(f"Nearest to {result.heading}", about, top, cards).encode())
    if display.montage is not None:
        from embedall_spark.visualize import montage

        # A caption is short: the title alone, or the id.
        captions = {name: result.title(name).removesuffix(f" [{name}]") for name, _ in hits}
        tiles = [montage.Tile(small.get(name), captions[name], f"{score:.3f}") for name, score in hits]
        if first is not None:
            tiles.insert(0, montage.Tile(first, "the query"))
        files.write_bytes(display.montage, montage.draw([(result.heading, tiles)]))


def _values(metadata: Metadata | None, ids: list[str], columns: list[str]) -> Mapping[str, Mapping[str, str]]:
    if metadata is None:
        return {}
    if isinstance(metadata, pa.Table):
        return local_metadata.metadata_by_id(metadata, ids, columns)
    return metadata_source.metadata_by_id(metadata, ids, columns)


def _print(result: _Result, columns: Sequence[str]) -> None:
    if not columns or not result.hits:
        hits = [(result.title(name), score) for name, score in result.hits]
        console.neighbors([result.heading], [hits], _NOTHING)
        return
    rows = [("", result.heading, "score", *columns)]
    for rank, (name, score) in enumerate(result.hits, 1):
        values = (result.values(name).get(column, "") for column in columns)
        rows.append((f"{rank:>4}", result.title(name), f"{score:.3f}", *values))
    console.table(rows)


def _source(display: DisplayOptions, path: str) -> Names:
    return config.parse(Names, {"path": path, "id": display.id_column, "title": display.title_column})


def _picture(path: str) -> Image.Image | None:
    """Return the query's picture, mode RGB; None if it cannot be read: the hits are shown without it."""
    from embedall_spark.images.decode import BadImage, decode
    from embedall_spark.sources.image_limits import Limits

    try:
        return decode(files.read_bytes(path), Limits(svg=True))
    except (OSError, BadImage):
        return None
