"""The command that suggests titles and words for a row of a latent table, a picture in a file, or a table of rows."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import typer
from pyspark.sql import functions as F

from embedall_spark import files, schemas, tables
from embedall_spark.cli import index, similar
from embedall_spark.cli.shared import console, provenance
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent import projection, suggest
from embedall_spark.latent.text import item_tokens
from embedall_spark.search import ann, exact_batch, metadata, spelling

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.latent.latent_model import LatentModel
    from embedall_spark.search.exact import Hit


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("suggest")(_suggest)


class _Options(NamedTuple):
    """One row or picture."""

    vector: NDArray[np.float32]
    length: float
    own: str | None  # the id of its own title's row


def _suggest(
    table: str = similar.TABLE,
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
    master: str | None = similar.MASTER,
) -> None:
    """Suggest titles of items near to a row or a picture, and single words for it; or for every row of a table."""
    if sum(value is not None for value in (name, image, queries)) != 1:
        raise ConfigError("give --id, --image or --queries, one of them")
    if (queries is None) != (output is None):
        raise ConfigError("--queries and --output go together: a table of vectors, and the table to write")
    if queries is not None and prefix:
        raise ConfigError("--prefix is of one title: give --id or --image in place of --queries")
    opened = index.open_at_version(table, master)
    space = provenance.latent_table(opened.spark, table)
    if space is None or space.model.text is None:
        raise ConfigError(f"{table} has no titles: need a table that 'embedall latent' has made of titles or tags")
    if queries is not None and output is not None:
        _many(opened, space, queries, output, n, with_self, work)
        return
    if image is not None:
        asked = _Options(*provenance.project_image(opened.spark, space, image), None)
    else:
        asked = _row(opened, space, name or "")
    own = None if with_self else asked.own
    shown = [_titles(opened, space, asked.vector, own, prefix, n), _words(opened, space, asked, prefix)[:n]]
    console.neighbours(["titles", "words"], shown)


def _row(opened: index.TableSnapshot, space: provenance.LatentTable, name: str) -> _Options:
    """Return a row of the table; an id without its kind is of the left side."""
    kind, right = space.model.left_kind, space.model.right_kind
    whole = f"{kind}:{name}"
    rows = opened.vectors.where(F.col("id").isin(name, whole)).orderBy((F.col("id") != name), "id")
    row = rows.select("id", "kind", "vector", "norm").first()
    if row is None:
        raise spelling.unknown(opened.vectors.where(F.col("kind") == kind), [whole])
    own = f"{right}:{row['id'].removeprefix(row['kind'])[1:]}" if row["kind"] in (kind, right) else None
    return _Options(np.array(row["vector"], np.float32), float(row["norm"]), own)


def _items(opened: index.TableSnapshot, space: provenance.LatentTable) -> DataFrame:
    """Return ITEMS of the rows of titles."""
    beside = space.config.output.metadata or files.metadata_of(opened.name)
    if not tables.exists(opened.spark, beside):
        raise ConfigError(f"{beside}: the table of titles is gone; run 'embedall latent' again")
    rows = schemas.conform(metadata.read(opened.spark, beside, "id"), schemas.ITEMS)
    return rows.where(F.startswith("id", F.lit(f"{space.model.right_kind}:")))


def _candidates(opened: index.TableSnapshot, space: provenance.LatentTable, prefix: str = "") -> DataFrame:
    """Return the rows whose titles may be suggested: those that begin with a prefix."""
    titled = _items(opened, space).where("title IS NOT NULL")
    if begun := prefix.strip():
        titled = titled.where(F.startswith(F.lower("title"), F.lower(F.lit(begun))))
    return suggest.candidates(opened.vectors.where(F.col("kind") == space.model.right_kind), titled)


def _titles(
    opened: index.TableSnapshot,
    space: provenance.LatentTable,
    vector: NDArray[np.float32],
    own: str | None,
    prefix: str,
    n: int,
) -> list[Hit]:
    """Return different titles with their cosines, the nearest first."""
    among = _candidates(opened, space, prefix)
    if among.isEmpty():
        return []
    source = ann.in_memory_queries([own or ""], vector[None])
    found = exact_batch.search(among, source, n * suggest.REACH, exclude_same_id=own is not None)
    rows = suggest.titles(found, among, n).orderBy("rank").collect()
    return [(row["text"], row["score"]) for row in rows]


def _words(opened: index.TableSnapshot, space: provenance.LatentTable, asked: _Options, prefix: str) -> list[Hit]:
    """Return words by what is on the picture and, where a title is begun, by the words that it has."""
    guess, begun = space.model.guess(asked.vector, asked.length), space.model.words(prefix)
    known = set(space.model.tokens)
    last = prefix.split()[-1].lower() if prefix.strip() and not prefix[-1].isspace() else ""
    half = last if last not in known else ""
    if given := [word for word in begun if word in known]:
        items = _items(opened, space)
        others = items if asked.own is None else items.where(F.col("id") != asked.own)
        guess = suggest.rerank_by_prefix(
            guess,
            given,
            suggest.cooccurrence_counts(item_tokens.tokenize_items(others, space.config.input.text), given),
        )
    return [hit for hit in guess if hit[0] not in begun and hit[0].startswith(half)]


def _many(
    opened: index.TableSnapshot,
    space: provenance.LatentTable,
    queries: str,
    output: str,
    n: int,
    with_self: bool,
    work: str | None,
) -> None:
    """Write titles and words for all rows of a table; rows that cannot be mapped are counted."""
    spark, folder, model = opened.spark, index.temp_folder(output, work), space.model
    run_id = f"suggest-{uuid.uuid4().hex[:12]}"
    tables.check_writable(spark, output, schemas.SUGGESTIONS, "overwrite", run_id, 0, None)
    itself = opened.is_called(queries)
    among, right = _candidates(opened, space), f"{model.right_kind}:"
    try:
        _latent(opened, model, None if itself else queries).write.mode("overwrite").parquet(f"{folder}/latent")
        every = spark.read.parquet(f"{folder}/latent")
        rows = every.where("vector IS NOT NULL")
        if rows.isEmpty():
            raise BadData(
                f"{queries}: none of its rows can be mapped into the latent space; are they of its left side?"
            )
        # Under the id that its own title has; afterwards under that of the table again.
        asked = rows.withColumn("id", F.concat(F.lit(right), "id"))
        found = exact_batch.top_k(
            among, asked, n * suggest.REACH, folder=f"{folder}/queries", exclude_same_id=not with_self
        )
        titles = suggest.titles(found, among, n).withColumn("id", F.expr(f"substring(id, {len(right) + 1})"))
        guessed = suggest.words(rows, model.guessing(), model.tokens, n)
        called = F.concat(F.lit(f"{model.left_kind}:" if itself else ""), "id")
        version = tables.write(
            spark,
            titles.unionByName(guessed).withColumn("id", called),
            output,
            schemas.SUGGESTIONS,
            mode="overwrite",
            run_id=run_id,
            comment=f"Titles and words suggested by {opened.name}",
            metadata={"kind": "suggestions", "table": opened.name, "queries": queries, "version": opened.version},
        )
        reasons = every.where("problem IS NOT NULL").groupBy("problem").count().orderBy("problem").collect()
        typer.echo(f"{output}: version {version}, titles and words for {console.count(rows.count(), 'row')}")
        for reason in reasons:
            typer.echo(f"refused: {console.count(reason['count'], 'row')}: {reason['problem']}")
    finally:
        files.delete(folder)


def _latent(opened: index.TableSnapshot, model: LatentModel, queries: str | None) -> DataFrame:
    """Return id (without its kind), vector, norm and problem of rows to map, or of the left kind's, which are."""
    if queries is None:
        rows = opened.vectors.where(F.col("kind") == model.left_kind)
        had = F.expr("substring(id, length(kind) + 2)").alias("id")
        return rows.select(had, "vector", "norm", F.lit(None).cast("string").alias("problem"))
    given = schemas.conform(tables.read(opened.spark, queries), schemas.VECTORS)
    return projection.project(given.select("id", "vector", "norm"), model.left).select(
        "id", "vector", "norm", "problem"
    )
