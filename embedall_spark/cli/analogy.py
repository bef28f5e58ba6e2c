"""The command that answers analogies, and finds what is near to some ids but not to others."""

from __future__ import annotations

import typer
from pyspark.sql import functions as F

from embedall_spark import tables
from embedall_spark.cli.shared import console, options, provenance, table_snapshot
from embedall_spark.errors import ConfigError
from embedall_spark.search import analogy, spelling, title_lookup


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("analogy", cls=options.ListOptions)(_analogy)


def _analogy(
    table: str = options.TABLE,
    a: str | None = typer.Argument(None, metavar="A"),
    b: str | None = typer.Argument(None, metavar="B"),
    c: str | None = typer.Argument(None, metavar="C"),
    positive: list[str] = typer.Option([], "--positive", help="In place of A B C: ids to add.", metavar="ID..."),
    negative: list[str] = typer.Option([], "--negative", help="Ids to subtract from them.", metavar="ID..."),
    kind: str | None = typer.Option(
        None, "--kind", help="With --positive: the kind of rows to find; unset: that of its first id."
    ),
    n: int = options.K,
    mul: bool = typer.Option(False, "--mul", help="3CosMul (Levy and Goldberg 2014) in place of 3CosAdd."),
    restrict: int | None = options.RESTRICT,
    master: str | None = options.MASTER,
) -> None:
    """A is to B as C is to what? Or: what is near to some ids without others?"""
    if positive:
        if a is not None or mul:
            raise ConfigError("--positive and --negative replace A B C and --mul; remove A B C and --mul")
        _combine(table, positive, negative, kind, n, restrict, master)
        return
    if a is None or b is None or c is None or negative or kind:
        raise ConfigError("give three ids A B C, or --positive ID... and, to subtract some, --negative ID...")
    _, vectors = table_snapshot.open_table(table, master)
    hits = analogy.answer(vectors, [(a, b, c)], n, method="mul" if mul else "add", restrict=restrict)
    console.neighbors([f"{a} : {b} = {c} : ?"], hits, "the table has no other id to find")


def _combine(
    table: str, positive: list[str], negative: list[str], kind: str | None, n: int, restrict: int | None,
    master: str | None,
) -> None:  # fmt: skip
    """Show what is near to the sum of some ids minus others."""
    spark, vectors = table_snapshot.open_table(table, master)
    if kind is None:
        first = vectors.where(F.col("id") == positive[0]).select("kind").first()
        if first is None:
            raise spelling.unknown(vectors, positive[:1])
        kind = str(first["kind"])
    candidates = vectors.where(F.col("kind") == kind)
    if candidates.isEmpty():
        raise ConfigError(f"--kind {kind}: the table has no row of this kind; give another kind")
    hits = analogy.combine(vectors, positive, negative, n, candidates=candidates, restrict=restrict)
    path, title_of = provenance.metadata(spark, table), {}
    if path is not None and "title" in (titles := tables.read(spark, path)).columns:
        title_of = title_lookup.titles_by_id(titles, [*positive, *(name for name, _ in hits)])
    heading = [" + ".join(title_of.get(name, name) for name in positive), *(f"- {name}" for name in negative)]
    named = [(title_of.get(name, name), score) for name, score in hits]
    console.neighbors([" ".join(heading)], [named], f"the table has no other id of kind {kind} to find")
