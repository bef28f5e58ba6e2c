"""The command that searches a table by an id, a vector, a picture, a text or a whole table of queries."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING

import numpy as np
import typer
from pyspark.sql import functions as F

from embedall_spark import files, schemas, tables
from embedall_spark.cli import index, similar
from embedall_spark.cli.shared import console, csls_cache, provenance, search_output
from embedall_spark.errors import ConfigError
from embedall_spark.search import ann, exact, exact_batch, metadata, spelling, title_lookup

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.search.exact import Hit


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("search")(_search)
    index.register(app)


def _search(
    table: str = similar.TABLE,
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
    n: int = typer.Option(10, "-n", min=1, max=1000, help="How many."),
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
    approximate: bool = typer.Option(False, "--approximate", help="By the index that 'embedall index' has built."),
    index_folder: str | None = index.INDEX,
    rebuild: bool = typer.Option(False, "--rebuild", help="Build the index first where it is stale."),
    csls: int | None = typer.Option(
        None,
        "--csls",
        min=1,
        max=1000,
        metavar="K",
        help="Rank by CSLS over so many neighbours, against hubs, which are near to everything.",
    ),
    names: str | None = typer.Option(
        None,
        "--names",
        help="File (.csv, .tsv, .json, .parquet) or table of metadata; unset: the table's name with _metadata, where "
        "that is a table.",
        metavar="TABLE_OR_FILE",
    ),
    id_column: str = typer.Option("id", "--id-column", help="With --names: the column of ids."),
    title: str | None = typer.Option(None, "--title-column", help="With --names: the column of titles; unset: title."),
    columns: str = typer.Option("", "--show", help="With --names: columns to show, such as label,tags.", metavar="A,B"),
    html: str | None = typer.Option(None, "--html", help="Write the result as a page to this file."),
    montage: str | None = typer.Option(None, "--montage", help="Write the pictures found as a PNG to this file."),
    images: str | None = typer.Option(
        None,
        "--images",
        help="With --html and --montage: the folder of the pictures; unset: where the table's run had them from.",
    ),
    pattern: str = typer.Option("{id}", "--image-pattern", help="With --images: path below it, such as {id}.jpg."),
    work: str | None = typer.Option(
        None,
        "--work",
        help="With --queries or --csls: folder on storage that all hosts share; unset: beside --output or the table.",
    ),
    master: str | None = similar.MASTER,
) -> None:
    """Show what is nearest by cosine to a row, a vector, a picture or words; or ask for every row of a table."""
    by = {"--image": image, "--id": name, "--vector": vector, "--text": text, "--queries": queries}
    if sum(value is not None for value in by.values()) != 1:
        raise ConfigError(f"give one of {', '.join(by)}")
    _check_together(queries, output, html or montage, csls, approximate)
    measure = "cosine" if csls is None else f"CSLS over {csls} neighbours"
    asked = search_output.DisplayOptions(names, id_column, title, columns, html, montage, images, pattern, measure)
    search_output.check(asked)
    given = None if vector is None else _read_vector(vector)
    place = index.folder(table, index_folder) if approximate else None
    opened = index.open_at_version(table, master)
    beside = names or provenance.metadata(opened.spark, opened.name)
    known = None if beside is None else metadata.read(opened.spark, beside, id_column if names else "id")
    search_output.check_columns(asked, known)
    if where is not None:
        opened = opened._replace(among=metadata.where(opened.vectors, where, known))
    if place is not None:
        opened = opened._replace(built=(place, index.manifest(opened, place, rebuild)))
    if queries is not None and output is not None:
        _many(opened, queries, output, n, with_self, work, csls)
        return
    source = search_output.pictures(opened.spark, table, asked)
    if name is not None:
        name, given = _by_id(opened.vectors, search_output.named(asked, known), name)
    space = provenance.latent_table(opened.spark, table) if given is None or csls is not None else None
    if given is None:
        given, opened = _mapped(opened, space, image, text)
    if csls is not None:
        opened = opened._replace(
            hubs=csls_cache.cached_similarity(
                opened, csls_cache.query_kind(opened, space, name, image, text), csls, work
            )
        )
    hits = _one(opened, given, n, None if with_self else name)
    about = search_output.Query(name or text or os.path.basename(image or vector or ""), name, image)
    search_output.render(opened.name, asked, known, source, about, hits)


def _check_together(
    queries: str | None, output: str | None, drawn: str | None, csls: int | None, approximate: bool
) -> None:
    """Raise ConfigError for options that do not go together."""
    if (queries is None) != (output is None):
        raise ConfigError("--queries and --output go together: a table of queries, and the table to write")
    if queries is not None and drawn:
        raise ConfigError(
            "--html and --montage show one search; give --id, --image, --text or --vector in place of --queries"
        )
    if csls is not None and approximate:
        raise ConfigError("--csls needs an exact search, an index is by cosine: leave --csls or --approximate out")


def _one(opened: index.TableSnapshot, vector: NDArray[np.float32], n: int, itself: str | None) -> list[Hit]:
    """Return the nearest of one vector, without the id ``itself``."""
    source, alone = ann.in_memory_queries([itself or ""], vector[None]), itself is not None
    if opened.hubs is not None:
        rows = exact_batch.search(opened.rows, source, n, exclude_same_id=alone, hubs=opened.hubs)
        return [(row["id"], row["score"]) for row in rows.orderBy("rank").collect()]
    if opened.built is None:
        [hits] = exact.top_k(opened.rows, vector[None], n, exclude=None if itself is None else [{itself}])
        return hits
    place, manifest = opened.built
    if len(vector) != manifest.d:
        raise ConfigError(f"the queries have {len(vector)} numbers, the table's vectors {manifest.d}")
    rows = ann.search(opened.spark, place, manifest, source, n, exclude_same_id=alone, among=opened.among)
    return [(row["id"], row["score"]) for row in rows.orderBy("rank").collect()]


def _many(
    opened: index.TableSnapshot, queries: str, output: str, n: int, with_self: bool, work: str | None, csls: int | None
) -> None:
    """Write the nearest of all rows of a table; for CSLS they are the queries' side."""
    spark, folder = opened.spark, index.temp_folder(output, work)
    asked = schemas.conform(tables.read(spark, queries), schemas.VECTORS)
    same = not with_self and opened.is_called(queries)
    run_id = f"search-{uuid.uuid4().hex[:12]}"
    tables.check_writable(spark, output, schemas.NEIGHBOURS, "overwrite", run_id, 0, None)
    try:
        if opened.built is None:
            near_to = None
            if csls is not None:
                near_to = exact_batch.mean_similarity(
                    opened.rows, asked, csls, folder=f"{folder}/hubs", exclude_same_id=same
                )
            near = exact_batch.top_k(
                opened.rows, asked, n, folder=f"{folder}/queries", exclude_same_id=same, hubs=near_to
            )
        else:
            near = ann.top_k(asked, n, *opened.built, folder=folder, exclude_same_id=same, among=opened.among)
        version = tables.write(
            spark,
            near,
            output,
            schemas.NEIGHBOURS,
            mode="overwrite",
            run_id=run_id,
            comment=f"Neighbours in {opened.name}",
            metadata={"kind": "neighbours", "table": opened.name, "queries": queries, "version": opened.version},
        )
    finally:
        files.delete(folder)
    typer.echo(
        f"{output}: version {version}, {console.count(tables.read(spark, output, version).count(), 'neighbour')}"
    )


def _by_id(vectors: DataFrame, named: DataFrame | None, text: str) -> tuple[str, NDArray[np.float32]]:
    """Return the id that a text is, or is the title of, and its vector."""
    there = exact.find_vectors(vectors, [text])
    if text in there:
        return text, there[text]
    if named is None:
        raise spelling.unknown(vectors, [text])
    several = title_lookup.ids_by_title(named, vectors, [text])
    if len(several.get(text, ())) != 1:
        raise title_lookup.unknown(named, vectors, [text], several)
    [meant] = several[text]
    return meant, exact.require_vectors(vectors, [meant])[meant]


def _mapped(
    opened: index.TableSnapshot, space: provenance.LatentTable | None, image: str | None, text: str | None
) -> tuple[NDArray[np.float32], index.TableSnapshot]:
    """Return the vector of a picture or a text; with a latent table's left kind to find, unless others are asked."""
    if space is None:
        if image is not None:
            return provenance.embed_image(opened.spark, opened.name, image), opened
        raise ConfigError(f"--text: {opened.name} was not made by 'embedall latent'; give --id, --vector or --image")
    if opened.among is None:
        opened = opened._replace(among=opened.vectors.where(F.col("kind") == space.model.left_kind))
    if image is not None:
        return provenance.project_image(opened.spark, space, image)[0], opened
    return provenance.project_text(opened.spark, space, text or ""), opened


def _read_vector(path: str) -> NDArray[np.float32]:
    """Return the vector in a file: .npy, or numbers as JSON, or with spaces, commas or lines between them.

    Raises:
        ConfigError: it cannot be read, or holds no one vector of finite numbers.
    """
    import io

    try:
        content = files.read_bytes(path)
        if content.startswith(b"\x93NUMPY"):
            values = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            text = content.decode("utf-8-sig").strip()
            values = np.array(json.loads(text) if text.startswith("[") else text.replace(",", " ").split())
        numbers = np.atleast_1d(np.squeeze(values.astype(np.float32)))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--vector {path}: cannot be read as a vector: {error}") from None
    if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
        raise ConfigError(f"--vector {path}: found an array {values.shape}, need one vector of finite numbers")
    return numbers
