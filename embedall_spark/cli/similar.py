"""Commands that ask a table of vectors, and bring vectors in and out."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
import typer.core
from pyspark.sql import functions as F

from embedall_spark import config, export, schemas, session, tables
from embedall_spark.cli.shared import console, provenance
from embedall_spark.errors import ConfigError
from embedall_spark.evaluate import label_metrics
from embedall_spark.evaluate.label_metrics import Metadata
from embedall_spark.search import analogy, exact, spelling, title_lookup
from embedall_spark.sources import word2vec_import

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

TABLE = typer.Argument(help="Table of vectors: a path or URI, or catalog.schema.table.", metavar="TABLE")
_N = typer.Option(10, "-n", min=1, max=1000, help="How many.")
MASTER = typer.Option(None, "--master", help="Spark master, such as local[4].")
_RESTRICT = typer.Option(None, "--restrict-vocab", min=1, help="Look only among so many most frequent ids.")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("similar")(_similar)
    app.command("analogy", cls=_Several)(_analogy)
    app.command("export")(_export)
    app.command("import")(_import)


def _similar(
    table: str = TABLE,
    ids: list[str] = typer.Argument(help="What to show the neighbours of: words, items, vertices.", metavar="ID..."),
    n: int = _N,
    restrict: int | None = _RESTRICT,
    names: str | None = typer.Option(
        None,
        "--names",
        help="File (.csv, .tsv, .json, .parquet) or table of titles: they are shown, and may be given in place of ids.",
        metavar="TABLE_OR_FILE",
    ),
    id_column: str = typer.Option("id", "--id-column", help="With --names: the column of ids."),
    title_column: str = typer.Option("title", "--title-column", help="With --names: the column of titles."),
    master: str | None = MASTER,
) -> None:
    """Show the nearest neighbours of ids, by cosine."""
    named = None
    if names is not None:
        named = config.parse(Metadata, {"path": names, "id": id_column, "label": None, "title": title_column})
        label_metrics.check(named)
    spark, vectors = open_table(table, master)
    known = label_metrics.read(spark, named) if named is not None else None
    texts = list(dict.fromkeys(ids))
    found = exact.find_vectors(vectors, texts)
    meant, several = {text: text for text in texts if text in found}, {}
    if known is not None and len(meant) < len(texts):
        several = title_lookup.ids_by_title(known, vectors, [text for text in texts if text not in meant])
        meant |= {text: some[0] for text, some in several.items() if len(some) == 1}
        found |= exact.find_vectors(vectors, [name for name in meant.values() if name not in found])
    wanted = list(dict.fromkeys(meant[text] for text in texts if text in meant))
    if wanted:
        queries = np.stack([found[name] for name in wanted])
        hits = exact.top_k(vectors, queries, n, exclude=[{name} for name in wanted], restrict=restrict, own=True)
        shown = (
            title_lookup.titles_by_id(known, {*wanted, *(name for some in hits for name, _ in some)})
            if known is not None
            else {}
        )
        near = [[(shown.get(name, name), score) for name, score in some] for some in hits]
        console.neighbours([shown.get(name, name) for name in wanted], near)
    if missing := [text for text in texts if text not in meant]:
        if known is None:
            raise spelling.unknown(vectors, missing)
        raise title_lookup.unknown(known, vectors, missing, several)


def _analogy(
    table: str = TABLE,
    a: str | None = typer.Argument(None, metavar="A"),
    b: str | None = typer.Argument(None, metavar="B"),
    c: str | None = typer.Argument(None, metavar="C"),
    positive: list[str] = typer.Option([], "--positive", help="In place of A B C: ids to add.", metavar="ID..."),
    negative: list[str] = typer.Option([], "--negative", help="Ids to take away from them.", metavar="ID..."),
    kind: str | None = typer.Option(
        None, "--kind", help="With --positive: the kind of rows to find; unset: that of its first id."
    ),
    n: int = _N,
    mul: bool = typer.Option(False, "--mul", help="3CosMul (Levy and Goldberg 2014) in place of 3CosAdd."),
    restrict: int | None = _RESTRICT,
    master: str | None = MASTER,
) -> None:
    """A is to B as C is to what? Or: what is near to some ids without others?"""
    if positive:
        if a is not None or mul:
            raise ConfigError("--positive and --negative stand in place of A B C and of --mul")
        _combined(table, positive, negative, kind, n, restrict, master)
        return
    if a is None or b is None or c is None or negative or kind:
        raise ConfigError("give three ids A B C, or --positive ID... and, if any are taken away, --negative ID...")
    _, vectors = open_table(table, master)
    found = analogy.answer(vectors, [(a, b, c)], n, method="mul" if mul else "add", restrict=restrict)
    console.neighbours([f"{a} : {b} = {c} : ?"], found)


def _combined(
    table: str, positive: list[str], negative: list[str], kind: str | None, n: int, restrict: int | None,
    master: str | None,
) -> None:  # fmt: skip
    """Show what is near to the sum of ids less others."""
    spark, vectors = open_table(table, master)
    if kind is None:
        first = vectors.where(F.col("id") == positive[0]).select("kind").first()
        if first is None:
            raise spelling.unknown(vectors, positive[:1])
        kind = str(first["kind"])
    among = vectors.where(F.col("kind") == kind)
    if among.isEmpty():
        raise ConfigError(f"--kind {kind}: the table has no row of this kind")
    hits = analogy.combine(vectors, positive, negative, n, among=among, restrict=restrict)
    beside, called = provenance.metadata(spark, table), {}
    if beside is not None and "title" in (known := tables.read(spark, beside)).columns:
        called = title_lookup.titles_by_id(known, [*positive, *(name for name, _ in hits)])
    heading = [" + ".join(called.get(name, name) for name in positive), *(f"- {name}" for name in negative)]
    console.neighbours([" ".join(heading)], [[(called.get(name, name), score) for name, score in hits]])


class _Several(typer.core.TyperCommand):
    """A command whose --positive and --negative take all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments with the option before each of its words."""
        spread: list[str] = []
        option = None
        for word in args:
            if word.startswith("-"):
                option = word if word in ("--positive", "--negative") else None
                spread += [] if option else [word]
            else:
                spread += [option, word] if option else [word]
        return super().parse_args(ctx, spread)


def _export(
    table: str = TABLE,
    path: str = typer.Argument(help="File to write: a path or URI.", metavar="FILE"),
    binary: bool = typer.Option(False, "--binary", help="word2vec's binary format in place of text."),
    master: str | None = MASTER,
) -> None:
    """Write vectors in word2vec's format, as gensim's KeyedVectors.load_word2vec_format reads it."""
    _, vectors = open_table(table, master)
    typer.echo(export.write(vectors, path, binary=binary).text(path))


def _import(
    path: str = typer.Argument(help="File in word2vec's text or binary format, or GloVe's.", metavar="FILE"),
    table: str = TABLE,
    mode: str = typer.Option("error", help="When the table exists: error, overwrite or append."),
    master: str | None = MASTER,
) -> None:
    """Read vectors in word2vec's or GloVe's format into a table."""
    if mode not in ("error", "overwrite", "append"):
        raise ConfigError(f"--mode {mode}: unknown (known: error, overwrite, append)")
    spark = session.get("embedall import", master=master)
    run_id = f"import-{uuid.uuid4().hex[:12]}"
    found = word2vec_import.read(spark, path, run_id=run_id)
    version = tables.write(
        spark,
        found.vectors,
        table,
        schemas.VECTORS,
        mode=mode,  # type: ignore[arg-type]
        run_id=run_id,
        vector_size=found.vector_size,
        comment=f"Vectors imported from {path}",
        metadata={"kind": "words", "source": path},
    )
    typer.echo(f"{table}: version {version}, {found.vector_size} dimensions")


def open_table(table: str, master: str | None) -> tuple[SparkSession, DataFrame]:
    """Return the session and the VECTORS of a table."""
    spark = session.get("embedall", master=master)
    return spark, schemas.conform(tables.read(spark, table), schemas.VECTORS)
