"""The commands that write vectors to files for other programs, and read such files into a table."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import typer

from embedall_spark import export, export_files, run_manifest, schemas, session, tables
from embedall_spark.cli.shared import ngrams_table, options, search_output, table_snapshot
from embedall_spark.cli.shared.search_output import DisplayOptions
from embedall_spark.errors import ConfigError
from embedall_spark.sources import word2vec_import

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from embedall_spark.cli.shared.table_snapshot import TableSnapshot


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("export")(_export)
    app.command("import")(_import)


def _export(
    table: str = options.TABLE,
    path: str = typer.Argument(
        help="File to write: a path or URI; in word2vec's format compressed where it ends in .gz or .bz2.",
        metavar="FILE",
    ),
    binary: bool = typer.Option(False, "--binary", help="word2vec's binary format in place of text."),
    file_format: str = typer.Option(
        "word2vec",
        "--format",
        help="word2vec; fasttext (binary) for words that were trained with n-grams, so that words never seen have "
        "vectors too; npy: an array, and its ids beside it in .parquet; parquet; atlas: a file for embedding-atlas. "
        "The last three have titles, labels and places on a map.",
    ),
    names: str | None = options.NAMES,
    id_column: str = options.ID_COLUMN,
    title: str | None = options.TITLE_COLUMN,
    limit: float = options.LIMIT,
    master: str | None = options.MASTER,
) -> None:
    """Write vectors for gensim, numpy, pandas, fastText or embedding-atlas."""
    # Before Spark starts.
    if file_format not in ("word2vec", "fasttext", *export_files.FORMATS):
        known = ", ".join(("word2vec", "fasttext", *export_files.FORMATS))
        raise ConfigError(f"--format {file_format}: unknown (known: {known})")
    if binary and file_format != "word2vec":
        raise ConfigError("--binary is for word2vec's format alone: leave --binary out")
    if file_format in export_files.FORMATS:
        display = DisplayOptions(names, id_column, title, [], None, None, None, "{id}", "")
        search_output.check(display)
        path = export_files.check(path, file_format)
        table_snapshot.answer(table, master, limit, lambda snapshot: _write_files(snapshot, display, path, file_format))
        return
    if names is not None or title is not None:
        raise ConfigError(f"--names: files of --format {file_format} have no titles; leave it out")
    path = export.check(path)
    if file_format == "word2vec":
        table_snapshot.answer(
            table,
            master,
            limit,
            lambda snapshot: typer.echo(export.write(snapshot.vectors, path, binary=binary).text(path)),
        )
        return
    spark, vectors = table_snapshot.open_table(table, master)
    # Imported here: it brings numba.
    from embedall_spark import export_fasttext

    ngrams = ngrams_table.read(spark, table)
    if ngrams is None:
        raise ConfigError(
            f"{table} has no n-grams: train with train.max_n=6 to have some, or leave --format fasttext out"
        )
    typer.echo(export_fasttext.write(vectors, ngrams, path, _train_options(spark, table)).text(path))


def _write_files(snapshot: TableSnapshot, display: DisplayOptions, path: str, file_format: str) -> None:
    """Write a table with its titles and labels, and tell how to open the file."""
    metadata = search_output.with_places(snapshot, search_output.described(snapshot, display))
    written = export_files.write(snapshot.vectors, metadata, path, file_format)
    typer.echo(written.text(path))
    if file_format == "npy":
        typer.echo(f"{export_files.beside(path)}: ids, titles and labels of its rows")
    if file_format == "atlas":
        typer.echo(f"open it with: embedding-atlas {path} --x x --y y --text text")


def _train_options(spark: SparkSession, table: str) -> dict[str, float]:
    """Return the options of the training that made a table; empty if its run's folder is gone."""
    try:
        folder = run_manifest.producer_of(spark, table)["run_folder"]
        return dict(run_manifest.configuration(folder)["train"])
    except (KeyError, OSError):
        return {}


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
