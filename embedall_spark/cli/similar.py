"""The command that shows the nearest neighbors of ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import typer

from embedall_spark import config
from embedall_spark.cli.shared import console, ngrams_table, options, table_snapshot
from embedall_spark.search import exact, title_lookup
from embedall_spark.sources import local_metadata, metadata
from embedall_spark.sources.metadata import Names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedall_spark.cli.shared.table_snapshot import TableSnapshot
    from embedall_spark.search.title_lookup import Titles


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("similar", cls=options.DashWords)(_similar)


def _similar(
    table: str = options.TABLE,
    ids: list[str] = typer.Argument(help="What to show the neighbors of: words, items, vertices.", metavar="ID..."),
    n: int = options.K,
    restrict: int | None = options.RESTRICT,
    names: str | None = typer.Option(
        None,
        "--names",
        help="File (.csv, .tsv, .json, .parquet) or table of titles: they are shown, and may be used in place of ids.",
        metavar="TABLE_OR_FILE",
    ),
    id_column: str = options.ID_COLUMN,
    title_column: str = typer.Option("title", "--title-column", help="With --names: the column of titles."),
    limit: float = options.LIMIT,
    master: str | None = options.MASTER,
) -> None:
    """Show the nearest neighbors of ids, by cosine."""
    source = None
    if names is not None:
        source = config.parse(Names, {"path": names, "id": id_column, "label": None, "title": title_column})
        metadata.check(source)
    table_snapshot.answer(table, master, limit, lambda snapshot: _show(snapshot, source, ids, n, restrict))


def _show(snapshot: TableSnapshot, source: Names | None, ids: Sequence[str], n: int, restrict: int | None) -> None:
    """Print the neighbors of the ids that are in the table; raise the error for the others."""
    vectors, titles = snapshot.vectors, _titles(snapshot, source)
    resolved = ngrams_table.add_unseen(snapshot, title_lookup.resolve(vectors, titles, ids))
    queries = list(dict.fromkeys(name for name in resolved.ids.values() if exact.has_direction(resolved.vectors[name])))
    if queries:
        matrix = np.stack([resolved.vectors[name] for name in queries])
        hits = exact.top_k(vectors, matrix, n, exclude=[{name} for name in queries], restrict=restrict, same_table=True)
        shown = {*queries, *(name for neighbors in hits for name, _ in neighbors)}
        title_of = {} if titles is None else title_lookup.titles_by_id(titles, shown)
        named = [[(title_of.get(name, name), score) for name, score in neighbors] for neighbors in hits]
        console.neighbors([title_of.get(name, name) for name in queries], named, "the table has no other id to find")
    if resolved.missing:
        raise title_lookup.unknown(vectors, titles, resolved)
    exact.require_directions(resolved.vectors)


def _titles(snapshot: TableSnapshot, source: Names | None) -> Titles | None:
    """Return id and title, if --names was given."""
    if source is None:
        return None
    if snapshot.session is not None:
        return metadata.read(snapshot.session, source)
    return local_metadata.titles(local_metadata.read_all(source, snapshot.rows), source.title or "")
