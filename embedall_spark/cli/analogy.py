"""The command that answers analogies, and finds what is near to some ids but not to others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from embedall_spark.cli.shared import console, ngrams_table, options, search_output, table_snapshot
from embedall_spark.errors import ConfigError
from embedall_spark.search import analogy, exact, title_lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedall_spark.cli.shared.table_snapshot import TableSnapshot
    from embedall_spark.search.analogy import Method


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
    limit: float = options.LIMIT,
    master: str | None = options.MASTER,
) -> None:
    """A is to B as C is to what? Or: what is near to some ids without others?"""
    if positive:
        if a is not None or mul:
            raise ConfigError("--positive and --negative replace A B C and --mul; remove A B C and --mul")
        combine = partial(_combine, positive=positive, negative=negative, kind=kind, n=n, restrict=restrict)
        table_snapshot.answer(table, master, limit, combine)
        return
    if a is None or b is None or c is None or negative or kind:
        raise ConfigError("give three ids A B C, or --positive ID... and, to subtract some, --negative ID...")
    method: Method = "mul" if mul else "add"
    question = (a, b, c)

    def solve(snapshot: TableSnapshot) -> list[list[tuple[str, float]]]:
        words = ngrams_table.require_vectors(snapshot, question)
        return analogy.solve(snapshot.vectors, words, [question], n, method=method, restrict=restrict)

    hits = table_snapshot.answer(table, master, limit, solve)
    console.neighbors([f"{a} : {b} = {c} : ?"], hits, "the table has no other id to find")


def _combine(
    snapshot: TableSnapshot, positive: Sequence[str], negative: Sequence[str], kind: str | None, n: int,
    restrict: int | None,
) -> None:  # fmt: skip
    """Show what is near to the sum of some ids minus others."""
    vectors, words = snapshot.vectors, ngrams_table.require_vectors(snapshot, [*positive, *negative])
    if kind is None:
        # A word that the table lacks has no kind there, but tables with n-grams have words only.
        kind = exact.kind_of(vectors, positive[0]) or "words"
    candidates = exact.of_kind(vectors, kind)
    if exact.is_empty(candidates):
        raise ConfigError(f"--kind {kind}: the table has no row of this kind; give another kind")
    hits = analogy.combine(vectors, positive, negative, n, words=words, candidates=candidates, restrict=restrict)
    titles, title_of = search_output.titles_beside(snapshot), {}
    if titles is not None:
        title_of = title_lookup.titles_by_id(titles, [*positive, *(name for name, _ in hits)])
    heading = [" + ".join(title_of.get(name, name) for name in positive), *(f"- {name}" for name in negative)]
    named = [(title_of.get(name, name), score) for name, score in hits]
    console.neighbors([" ".join(heading)], [named], f"the table has no other id of kind {kind} to find")
