"""The command that builds the index of a table for approximate search."""

from __future__ import annotations

import typer

from embedall_spark.cli.shared import options, table_snapshot


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("index")(_index)


def _index(
    table: str = options.TABLE,
    index: str | None = table_snapshot.INDEX,
    parts: int | None = typer.Option(None, "--parts", min=1, help="Number of parts; unset: by size and cores."),
    recall: float = typer.Option(
        table_snapshot.RECALL, "--recall", min=0, max=1, help="Least recall of the 10 nearest."
    ),
    seed: int = typer.Option(1, "--seed", help="Random seed of the lists and of the rows that recall is measured on."),
    master: str | None = options.MASTER,
) -> None:
    """Build an index for approximate search, or replace it; it serves one version of its table."""
    folder = table_snapshot.index_folder(table, index)
    snapshot = table_snapshot.open_snapshot(table, master)
    table_snapshot.build_index(snapshot, folder, parts, recall, seed)
