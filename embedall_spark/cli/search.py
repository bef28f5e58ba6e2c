"""The command that searches a table by an id, a vector, a picture, a text or a whole table of queries."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import typer

from embedall_spark import files, schemas, tables
from embedall_spark.cli.shared import (
    console,
    csls_cache,
    options,
    provenance,
    search_output,
    search_query,
    table_snapshot,
)
from embedall_spark.cli.shared.search_output import DisplayOptions
from embedall_spark.cli.shared.search_query import Query, SearchOptions
from embedall_spark.search import condition, csls, exact
from embedall_spark.search.exact_kernel import block_top_k
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import unit

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from embedall_spark.cli.shared.table_snapshot import TableSnapshot
    from embedall_spark.search.local_table import Hit


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("search")(_search)


def _search(
    table: str = options.TABLE,
    image: str | None = typer.Option(None, "--image", help="Search by a picture, embedded as the table's were."),
    name: str | None = typer.Option(None, "--id", help="Search by a row: its id, or with --names its title."),
    vector: str | None = typer.Option(None, "--vector", help="Search by a vector: .npy, or numbers as JSON or text."),
    text: str | None = typer.Option(
        None, "--text", help="Search a latent table by words: finds rows of its left kind, or what --where says."
    ),
    queries: str | None = typer.Option(
        None, "--queries", help="Search by all rows of a table of vectors.", metavar="TABLE"
    ),
    output: str | None = typer.Option(
        None, "--output", help="With --queries: table to replace by the result.", metavar="TABLE"
    ),
    n: int = options.K,
    where: str | None = typer.Option(
        None,
        "--where",
        help="Find only rows for which this SQL condition holds, over the table's and --names' columns.",
    ),
    with_self: bool = typer.Option(
        False,
        "--with-self",
        help="Let rows find themselves. Otherwise --id leaves its row out, and --queries, where both tables are the "
        "same one, the row of the query's own id.",
    ),
    approximate: bool = typer.Option(False, "--approximate", help="Use the index that 'embedall index' has built."),
    index: str | None = table_snapshot.INDEX,
    rebuild: bool = typer.Option(False, "--rebuild", help="Build the index first if it is missing or stale."),
    csls: int | None = typer.Option(
        None,
        "--csls",
        min=1,
        max=1000,
        metavar="K",
        help="Rank by CSLS over so many neighbors, against hubs, which are near to everything.",
    ),
    names: str | None = options.NAMES,
    id_column: str = options.ID_COLUMN,
    title: str | None = options.TITLE_COLUMN,
    columns: list[str] = options.SHOW,
    html: str | None = typer.Option(None, "--html", help="Write the result as a page to this file."),
    montage: str | None = typer.Option(None, "--montage", help="Write the pictures found as a PNG to this file."),
    images: str | None = typer.Option(
        None,
        "--images",
        help="With --html and --montage: the folder of the pictures; unset: where the table's run read them.",
    ),
    pattern: str = typer.Option("{id}", "--image-pattern", help="With --images: path below it, such as {id}.jpg."),
    work: str | None = typer.Option(
        None,
        "--work",
        help="With --queries or --csls: folder on storage that all hosts share; unset: beside --output or the table.",
    ),
    limit: float = options.LIMIT,
    master: str | None = options.MASTER,
) -> None:
    """Show what is nearest by cosine to a row, a vector, a picture or words; or search by every row of a table."""
    request = SearchOptions(
        image, name, vector, text, queries, output, n, where, with_self, approximate, index, rebuild, csls, work
    )
    request.check(draws=html is not None or montage is not None)
    display = DisplayOptions(
        names, id_column, title, options.split_columns(columns), html, montage, images, pattern, request.measure
    )
    search_output.check(display)
    query = None if vector is None else search_query.read_vector(vector)
    folder = table_snapshot.index_folder(table, index) if approximate else None
    if folder is None and queries is None:
        table_snapshot.answer(table, master, limit, lambda snapshot: _show(snapshot, request, display, query))
        return
    snapshot = table_snapshot.open_snapshot(table, master)
    if folder is not None:
        snapshot = replace(snapshot, index=table_snapshot.open_index(snapshot, folder, rebuild))
    _show(snapshot, request, display, query)


def _show(snapshot: TableSnapshot, request: SearchOptions, display: DisplayOptions, query: Query | None) -> None:
    """Search by one row, vector, picture or text and show the result; or write that of a table of queries."""
    metadata = search_output.read_metadata(snapshot, display)
    if request.where is not None:
        snapshot = replace(snapshot, subset=condition.where(snapshot.vectors, request.where, metadata))
    if request.queries is not None and request.output is not None:
        _write_neighbors(snapshot, request, request.queries, request.output)
        return
    pictures = search_output.pictures(snapshot, display)
    asks_producer = (request.id is None and request.vector is None) or request.csls
    latent = provenance.latent_table(snapshot.session, snapshot.name) if asks_producer else None
    if query is None:
        query = search_query.resolve(snapshot, request, latent, search_output.titles(display, metadata))
    if latent is not None and request.where is None and (request.image or request.text):
        snapshot = replace(snapshot, subset=exact.of_kind(snapshot.vectors, latent.model.left_kind))
    if request.csls is not None:
        kind = search_query.kind_for_csls(snapshot, request, query, latent)
        snapshot = csls_cache.with_similarity(snapshot, kind, request.csls, request.work)
    hits = _nearest(snapshot, query, request.n, None if request.with_self else query.id)
    search_output.render(snapshot, display, metadata, pictures, query, hits)


def _nearest(snapshot: TableSnapshot, query: Query, n: int, excluded: str | None) -> list[Hit]:
    """Return the nearest rows of one vector, without the id ``excluded``; each id once."""
    candidates, exclude = snapshot.candidates, None if excluded is None else [{excluded}]
    if isinstance(candidates, LocalTable) and candidates.similarity is not None:
        exact.check_dimension(len(query.vector), candidates.dimension)
        queries = csls.queries(unit(query.vector[None]))
        block = partial(block_top_k, queries=queries, lengths=csls.MAX_PRODUCT)
        [hits] = exact.search(candidates, block, queries, n, exclude=exclude)
        return hits
    if snapshot.index is None and snapshot.similarity is None:
        [hits] = exact.top_k(candidates, query.vector[None], n, exclude=exclude)
        return hits
    # Imported here, as below: most questions need no faiss.
    from embedall_spark.search import ann, exact_batch

    source, exclude_same_id = ann.in_memory_queries([excluded or ""], query.vector[None]), excluded is not None
    if snapshot.index is None:
        similarity = snapshot.similarity
        rows = exact_batch.search(
            exact.in_spark(candidates), source, n, exclude_same_id=exclude_same_id, similarity=similarity
        )
    else:
        folder, manifest = snapshot.index
        exact.check_dimension(len(query.vector), manifest.d)
        rows = ann.search(
            snapshot.spark, folder, manifest, source, n, exclude_same_id=exclude_same_id, subset=_subset(snapshot)
        )
    hits = [(row["id"], row["score"]) for row in rows.orderBy("rank").collect()]
    # An id that the table has twice is found twice; the better row comes first.
    return list({name: (name, score) for name, score in reversed(hits)}.values())[::-1]


def _write_neighbors(snapshot: TableSnapshot, request: SearchOptions, queries: str, output: str) -> None:
    """Write the nearest rows of all rows of a table; for CSLS these are the queries' side."""
    spark, folder = snapshot.spark, table_snapshot.temp_folder(output, request.work)
    query_rows = table_snapshot.read_vectors(spark, queries)
    run_id = f"search-{uuid.uuid4().hex[:12]}"
    tables.check_writable(spark, output, schemas.NEIGHBORS, "overwrite", run_id, 0, None)
    try:
        version = tables.write(
            spark,
            _all_nearest(
                snapshot, request, query_rows, not request.with_self and snapshot.is_same_table(queries), folder
            ),
            output,
            schemas.NEIGHBORS,
            mode="overwrite",
            run_id=run_id,
            comment=f"Neighbors in {snapshot.name}",
            metadata={"kind": "neighbours", "table": snapshot.name, "queries": queries, "version": snapshot.version},
        )
    finally:
        files.delete(folder)
    rows = tables.read(spark, output, version).count()
    typer.echo(f"{output}: version {version}, {console.count(rows, 'neighbor')}")


def _all_nearest(
    snapshot: TableSnapshot, request: SearchOptions, queries: DataFrame, exclude_same_id: bool, folder: str
) -> DataFrame:
    """Return NEIGHBORS of all queries; ``folder`` must stay until they have been computed."""
    from embedall_spark.search import ann, exact_batch

    if snapshot.index is not None:
        return ann.top_k(
            queries,
            request.n,
            *snapshot.index,
            folder=folder,
            exclude_same_id=exclude_same_id,
            subset=_subset(snapshot),
        )
    similarity, candidates = None, exact.in_spark(snapshot.candidates)
    if request.csls is not None:
        similarity = exact_batch.mean_similarity(
            candidates, queries, request.csls, folder=f"{folder}/hubs", exclude_same_id=exclude_same_id
        )
    return exact_batch.top_k(
        candidates,
        queries,
        request.n,
        folder=f"{folder}/queries",
        exclude_same_id=exclude_same_id,
        similarity=similarity,
    )


def _subset(snapshot: TableSnapshot) -> DataFrame | None:
    """Return the rows to find, for a search by an index."""
    return None if snapshot.subset is None else exact.in_spark(snapshot.subset)
