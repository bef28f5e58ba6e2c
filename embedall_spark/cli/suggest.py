"""The command that suggests titles and words for a row of a latent table, a picture in a file, or a table of rows."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import typer
from pyspark.sql import functions as F

from embedall_spark import delta_files, files, schemas, tables
from embedall_spark.cli.shared import console, options, provenance, table_snapshot
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent import local_suggest, projection, suggest
from embedall_spark.latent.text import item_tokens
from embedall_spark.search import exact, spelling
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import is_of_kind, local_id, qualified_id, qualify, unqualify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.cli.shared.provenance import LatentTable
    from embedall_spark.cli.shared.table_snapshot import TableSnapshot
    from embedall_spark.latent.latent_model import LatentModel
    from embedall_spark.search.local_table import Hit


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("suggest")(_suggest)


class _Query(NamedTuple):
    """One row or picture in the latent space."""

    vector: NDArray[np.float32]
    """float32 [k], a unit vector."""
    length: float
    """Its length before it was brought to 1."""
    title_id: str | None
    """The id of the row of its own title."""


def _suggest(
    table: str = options.TABLE,
    name: str | None = typer.Option(None, "--id", help="For a row: its id, with or without its kind before a colon."),
    image: str | None = typer.Option(None, "--image", help="For a picture, embedded as the left side's were."),
    queries: str | None = typer.Option(
        None,
        "--queries",
        help="For all rows of a table of vectors as the left side's were, or for all rows of the left kind of the "
        "latent table itself.",
        metavar="TABLE",
    ),
    output: str | None = typer.Option(
        None, "--output", help="With --queries: table to replace by the result.", metavar="TABLE"
    ),
    n: int = typer.Option(10, "-n", min=1, max=1000, help="How many titles, and how many words."),
    prefix: str = typer.Option(
        "", "--prefix", help="A title that is begun: titles that go on from there, words that go with its words."
    ),
    with_self: bool = typer.Option(False, "--with-self", help="Suggest an item's own title too."),
    work: str | None = typer.Option(
        None, "--work", help="With --queries: folder on storage that all hosts share; unset: beside --output."
    ),
    limit: float = options.LIMIT,
    master: str | None = options.MASTER,
) -> None:
    """Suggest titles of items near to a row or a picture, and single words for it; or for every row of a table."""
    if sum(value is not None for value in (name, image, queries)) != 1:
        raise ConfigError("give one of --id, --image, --queries")
    if (queries is None) != (output is None):
        raise ConfigError("--queries and --output go together: a table of vectors, and the table to write")
    if queries is not None and prefix:
        raise ConfigError("--prefix begins one title: give --id or --image in place of --queries")
    if queries is not None and output is not None:
        snapshot = table_snapshot.open_snapshot(table, master)
        _write_suggestions(snapshot, _latent(snapshot), queries, output, n, with_self, work)
        return
    question = partial(_show, name=name, image=image, prefix=prefix, n=n, with_self=with_self)
    table_snapshot.answer(table, master, limit, question)


def _latent(snapshot: TableSnapshot) -> LatentTable:
    """Return how the table was made, which must be of titles."""
    latent = provenance.latent_table(snapshot.session, snapshot.name)
    if latent is None or not latent.model.takes_text:
        raise ConfigError(
            f"{snapshot.name} has no titles: need a table that 'embedall latent' has made of titles or tags"
        )
    return latent


def _show(snapshot: TableSnapshot, name: str | None, image: str | None, prefix: str, n: int, with_self: bool) -> None:
    """Print titles and words for a row or a picture."""
    latent = _latent(snapshot)
    if image is not None:
        query = _Query(*provenance.project_image(snapshot.session, latent, image), None)
    else:
        query = _row(snapshot, latent, name or "")
    title_id = None if with_self else query.title_id
    titles = _titles(snapshot, latent, query.vector, title_id, prefix, n)
    words = _words(snapshot, latent, query, prefix)[:n] if latent.model.text is not None else []
    nothing = f"none begins with {prefix.strip()!r}" if prefix.strip() else "none found"
    console.neighbors(["titles", "words"], [titles, words], nothing)


def _row(snapshot: TableSnapshot, latent: LatentTable, name: str) -> _Query:
    """Return a row of the table; an id without its kind is of the left side."""
    left, right = latent.model.left_kind, latent.model.right_kind
    qualified = qualified_id(left, name)
    found = exact.find_vectors(snapshot.vectors, [name, qualified])
    if not found:
        raise spelling.unknown(exact.of_kind(snapshot.vectors, left), [qualified])
    id = name if name in found else qualified
    kind, norm = exact.kind_of(snapshot.vectors, id) or "", exact.norm_of(snapshot.vectors, id)
    title_id = qualified_id(right, local_id(kind, id)) if kind in (left, right) else None
    return _Query(found[id], norm, title_id)


def _items_path(snapshot: TableSnapshot, latent: LatentTable) -> str:
    """Return the table of ITEMS of the rows of titles."""
    path = latent.metadata(snapshot.name)
    there = delta_files.exists(path) if snapshot.session is None else tables.exists(snapshot.session, path)
    if not there:
        raise ConfigError(f"{path}: the table of titles is gone; run 'embedall latent' again")
    return path


def _items(snapshot: TableSnapshot, latent: LatentTable) -> DataFrame:
    """Return ITEMS of the rows of titles."""
    path = _items_path(snapshot, latent)
    rows = schemas.conform(tables.read(snapshot.spark, path), schemas.ITEMS)
    return rows.where(is_of_kind(latent.model.right_kind))


def _local_items(snapshot: TableSnapshot, latent: LatentTable) -> pa.Table:
    """Return the same without Spark."""
    return local_suggest.items(snapshot.rows(_items_path(snapshot, latent)), latent.model.right_kind)


def _candidates(snapshot: TableSnapshot, latent: LatentTable, prefix: str = "") -> DataFrame:
    """Return the rows whose titles may be suggested: those that begin with a prefix."""
    titled = _items(snapshot, latent).where("title IS NOT NULL")
    if beginning := prefix.strip():
        titled = titled.where(F.startswith(F.lower("title"), F.lower(F.lit(beginning))))
    return suggest.candidates(exact.in_spark(exact.of_kind(snapshot.vectors, latent.model.right_kind)), titled)


def _titles(
    snapshot: TableSnapshot,
    latent: LatentTable,
    vector: NDArray[np.float32],
    title_id: str | None,
    prefix: str,
    n: int,
) -> list[Hit]:
    """Return different titles with their cosines, the nearest first."""
    if isinstance(snapshot.vectors, LocalTable):
        items = _local_items(snapshot, latent)
        return local_suggest.titles(snapshot.vectors, items, latent.model.right_kind, vector, title_id, prefix, n)
    # Imported here: one question needs no faiss.
    from embedall_spark.search import ann, exact_batch

    candidates = _candidates(snapshot, latent, prefix)
    if candidates.isEmpty():
        return []
    source = ann.in_memory_queries([title_id or ""], vector[None])
    hits = exact_batch.search(candidates, source, n * suggest.REACH, exclude_same_id=title_id is not None)
    rows = suggest.titles(hits, candidates, n).orderBy("rank").collect()
    return [(row["text"], row["score"]) for row in rows]


def _words(snapshot: TableSnapshot, latent: LatentTable, query: _Query, prefix: str) -> list[Hit]:
    """Return words guessed from the picture and, with a prefix, from the words that the title begins with."""
    shares = latent.model.suggest_words(query.vector, query.length)
    prefix_words = latent.model.words(prefix) if prefix.strip() else []
    vocabulary = set(latent.model.tokens)
    last = prefix.split()[-1].lower() if prefix.strip() and not prefix[-1].isspace() else ""
    unfinished = last if last not in vocabulary else ""
    if known_words := [word for word in prefix_words if word in vocabulary]:
        counts = _cooccurrence(snapshot, latent, query.title_id, known_words)
        shares = suggest.rerank_by_prefix(shares, known_words, counts)
    return [hit for hit in shares if hit[0] not in prefix_words and hit[0].startswith(unfinished)]


def _cooccurrence(
    snapshot: TableSnapshot, latent: LatentTable, title_id: str | None, prefix: Sequence[str]
) -> suggest.CooccurrenceCounts:
    """Return the counts of the words that share a title with a word of a prefix, the query's own title left out."""
    assert latent.model.text is not None
    config = latent.model.text.config
    if snapshot.session is None:
        return local_suggest.cooccurrence_counts(_local_items(snapshot, latent), title_id, config, prefix)
    items = _items(snapshot, latent)
    others = items if title_id is None else items.where(F.col("id") != title_id)
    return suggest.cooccurrence_counts(item_tokens.tokenize_items(others, config), prefix)


def _write_suggestions(
    snapshot: TableSnapshot,
    latent: LatentTable,
    queries: str,
    output: str,
    n: int,
    with_self: bool,
    work: str | None,
) -> None:
    """Write titles and words for all rows of a table; rows that cannot be mapped are counted."""
    from embedall_spark.search import exact_batch

    spark, folder, model = snapshot.spark, table_snapshot.temp_folder(output, work), latent.model
    run_id = f"suggest-{uuid.uuid4().hex[:12]}"
    tables.check_writable(spark, output, schemas.SUGGESTIONS, "overwrite", run_id, 0, None)
    itself = snapshot.is_same_table(queries)
    candidates, right = _candidates(snapshot, latent), model.right_kind
    try:
        _project(snapshot, model, None if itself else queries).write.mode("overwrite").parquet(f"{folder}/latent")
        projected = spark.read.parquet(f"{folder}/latent")
        rows = projected.where("vector IS NOT NULL")
        if rows.isEmpty():
            raise BadData(
                f"{queries}: none of its rows can be mapped into the latent space; are they of its left side?"
            )
        # Under the id of the row's own title; afterwards under that of the table again.
        queries_by_title = rows.withColumn("id", qualify(right))
        hits = exact_batch.top_k(
            candidates, queries_by_title, n * suggest.REACH, folder=f"{folder}/queries", exclude_same_id=not with_self
        )
        titles = suggest.titles(hits, candidates, n).withColumn("id", unqualify(right))
        suggestions = titles
        if model.text is not None:
            suggestions = titles.unionByName(suggest.words(rows, model.word_decoder(), model.tokens, n))
        version = tables.write(
            spark,
            suggestions.withColumn("id", qualify(model.left_kind)) if itself else suggestions,
            output,
            schemas.SUGGESTIONS,
            mode="overwrite",
            run_id=run_id,
            comment=f"Titles and words suggested by {snapshot.name}",
            metadata={"kind": "suggestions", "table": snapshot.name, "queries": queries, "version": snapshot.version},
        )
        reasons = projected.where("problem IS NOT NULL").groupBy("problem").count().orderBy("problem").collect()
        typer.echo(f"{output}: version {version}, titles and words for {console.count(rows.count(), 'row')}")
        for reason in reasons:
            typer.echo(f"refused: {console.count(reason['count'], 'row')}: {reason['problem']}")
    finally:
        files.delete(folder)


def _project(snapshot: TableSnapshot, model: LatentModel, queries: str | None) -> DataFrame:
    """Return id (without its kind), vector, norm and problem of a table's rows, or of the table's own left kind."""
    if queries is None:
        rows = exact.in_spark(exact.of_kind(snapshot.vectors, model.left_kind))
        no_problem = F.lit(None).cast("string").alias("problem")
        return rows.select(unqualify(F.col("kind")), "vector", "norm", no_problem)
    rows = table_snapshot.read_vectors(snapshot.spark, queries).select("id", "vector", "norm")
    return projection.project(rows, model.left).select("id", "vector", "norm", "problem")
