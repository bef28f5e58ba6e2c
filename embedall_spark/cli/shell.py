"""The command that answers questions one after the other, without starting anew for each."""

from __future__ import annotations

import shlex
from contextlib import suppress

import typer

_QUESTIONS = ("similar", "analogy", "search", "suggest")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("shell")(_shell)


def _shell(
    table: str | None = typer.Argument(
        None, metavar="[TABLE]", help="The table that similar, analogy, search and suggest ask; unset: each names it."
    ),
) -> None:
    """Answer questions one after the other: lines are commands without 'embedall'. Ctrl-D ends it."""
    # Imported here: the application imports this file.
    from embedall_spark import cli

    # Where there is readline, lines can be edited and repeated.
    with suppress(ImportError):
        import readline  # noqa: F401
    while True:
        try:
            line = input("embedall> ")
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo()
            continue
        try:
            words = shlex.split(line)
        except ValueError as error:
            typer.echo(f"{error}: close the quote", err=True)
            continue
        if words and words[0] in ("exit", "quit"):
            return
        if words:
            name, *rest = words
            cli.call([name, table, *rest] if table is not None and name in _QUESTIONS else words)
