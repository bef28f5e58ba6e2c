"""The commands that write vectors to a file in word2vec's format, and read such files into a table."""

from __future__ import annotations

import uuid

import typer

from embedall_spark import export, schemas, session, tables
from embedall_spark.cli.shared import options, table_snapshot
from embedall_spark.errors import ConfigError
from embedall_spark.sources import word2vec_import


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("export")(_export)
    app.command("import")(_import)


def _export(
    table: str = options.TABLE,
    path: str = typer.Argument(
        help="File to write: a path or URI; compressed where it ends in .gz or .bz2.", metavar="FILE"
    ),
    binary: bool = typer.Option(False, "--binary", help="word2vec's binary format in place of text."),
    master: str | None = options.MASTER,
) -> None:
    """Write vectors in word2vec's format, as gensim's KeyedVectors.load_word2vec_format reads it."""
    # Before Spark starts.
    path = export.check(path)
    _, vectors = table_snapshot.open_table(table, master)
    typer.echo(export.write(vectors, path, binary=binary).text(path))


def _import(
    path: str = typer.Argument(help="File in word2vec's text or binary format, or GloVe's.", metavar="FILE"),
    table: str = options.TABLE,
    mode: str = typer.Option("error", help="When the table exists: error, overwrite or append."),
    master: str | None = options.MASTER,
) -> None:
    """Read vectors in word2vec's or GloVe's format into a table."""
    if mode not in ("error", "overwrite", "append"):
        raise ConfigError(f"--mode {mode}: unknown (known: error, overwrite, append)")
    spark = session.get("embedall import", master=master)
    run_id = f"import-{uuid.uuid4().hex[:12]}"
    imported = word2vec_import.read(spark, path, run_id=run_id)
    version = tables.write(
        spark,
        imported.vectors,
        table,
        schemas.VECTORS,
        mode=mode,  # type: ignore[arg-type]
        run_id=run_id,
        vector_size=imported.vector_size,
        comment=f"Vectors imported from {path}",
        metadata={"kind": "words", "source": path},
    )
    typer.echo(f"{table}: version {version}, {imported.vector_size} dimensions")
