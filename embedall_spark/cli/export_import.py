"""The commands that write vectors to a file in word2vec's or fastText's format, and read such files into a table."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import typer

from embedall_spark import export, export_fasttext, run_manifest, schemas, session, tables
from embedall_spark.cli.shared import ngrams_table, options, table_snapshot
from embedall_spark.errors import ConfigError
from embedall_spark.sources import word2vec_import

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


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
    file_format: str = typer.Option(
        "word2vec",
        "--format",
        help="word2vec, or fasttext (binary) for words that were trained with n-grams, so that words never seen have "
        "vectors too.",
    ),
    master: str | None = options.MASTER,
) -> None:
    """Write vectors as gensim's load_word2vec_format reads them, or its load_facebook_vectors."""
    # Before Spark starts.
    path = export.check(path)
    if file_format not in ("word2vec", "fasttext"):
        raise ConfigError(f"--format {file_format}: unknown (known: word2vec, fasttext)")
    if binary and file_format == "fasttext":
        raise ConfigError("--binary is for word2vec's format; fasttext's is always binary: leave --binary out")
    spark, vectors = table_snapshot.open_table(table, master)
    if file_format == "word2vec":
        typer.echo(export.write(vectors, path, binary=binary).text(path))
        return
    ngrams = ngrams_table.read(spark, table)
    if ngrams is None:
        raise ConfigError(
            f"{table} has no n-grams: train with train.max_n=6 to have some, or leave --format fasttext out"
        )
    typer.echo(export_fasttext.write(vectors, ngrams, path, _train_options(spark, table)).text(path))


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
