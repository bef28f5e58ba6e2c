"""Options that several commands have, and what a word that begins with a dash needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
import typer.core

if TYPE_CHECKING:
    from collections.abc import Iterable

TABLE = typer.Argument(help="Table of vectors: a path or URI, or catalog.schema.table.", metavar="TABLE")
K = typer.Option(10, "-n", min=1, max=1000, help="How many.")
MASTER = typer.Option(None, "--master", help="Spark master, such as local[4].")
LIMIT = typer.Option(
    2.0,
    "--limit",
    min=0,
    metavar="GIB",
    help="Tables of at most so many GiB of vectors are read without Spark, and a copy is kept in your cache.",
)
RESTRICT = typer.Option(None, "--restrict-vocab", min=1, help="Search only the so many most frequent ids.")
NAMES = typer.Option(
    None,
    "--names",
    help="File (.csv, .tsv, .json, .parquet) or table of titles, labels and other metadata; unset: the table's name "
    "with _metadata, if there is such a table.",
    metavar="TABLE_OR_FILE",
)
TITLE_COLUMN = typer.Option(None, "--title-column", help="With --names: the column of titles; unset: title.")
ID_COLUMN = typer.Option("id", "--id-column", help="With --names: the column of ids.")
SHOW = typer.Option(
    [],
    "--show",
    help="With --names: columns to show, such as label,tags; may be repeated.",
    metavar="COLUMN[,COLUMN...]",
)


def split_columns(values: Iterable[str]) -> list[str]:
    """Return the columns that --show names, repeated or separated by commas, each once."""
    names = (name.strip() for value in values for name in value.split(","))
    return list(dict.fromkeys(filter(None, names)))


class DashWords(typer.core.TyperCommand):
    """A command whose arguments are words from the data; its error for ``-word`` tells how to give such a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments as click does, with that hint."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # By name: some versions of typer bring a click of their own.
            if type(error).__name__ == "NoSuchOption":
                hint = f"give a word that begins with a dash after --: embedall {ctx.info_name} TABLE -- -word"
                vars(error)["message"] = f"{error} ({hint})"
            raise


class ListOptions(DashWords):
    """A command whose --positive and --negative take all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments with the option repeated before each of its words."""
        repeated: list[str] = []
        option = None
        for index, word in enumerate(args):
            if word == "--":
                repeated += args[index:]
                break
            if word.startswith("-"):
                option = word if word in ("--positive", "--negative") else None
                repeated += [] if option else [word]
            else:
                repeated += [option, word] if option else [word]
        return super().parse_args(ctx, repeated)
