"""Commands that ask a table of vectors, and bring vectors in and out."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import numpy as np
import typer
from pyspark.sql import functions as F

from embedall_spark import export, schemas, session, tables, tracking
from embedall_spark.cli import show
from embedall_spark.config import Output
from embedall_spark.errors import ConfigError
from embedall_spark.evaluate import files as sets
from embedall_spark.evaluate import words as evaluation
from embedall_spark.search import analogy, exact, spelling
from embedall_spark.sources import word2vec_format

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TABLE = typer.Argument(help="Table of vectors: a path or URI, or catalog.schema.table.", metavar="TABLE")
_N = typer.Option(10, "-n", min=1, max=1000, help="How many.")
_MASTER = typer.Option(None, "--master", help="Spark master, such as local[4].")
_RESTRICT = typer.Option(None, "--restrict-vocab", min=1, help="Look only among so many most frequent ids.")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("similar")(_similar)
    app.command("analogy")(_analogy)
    app.command("evaluate")(_evaluate)
    app.command("export")(_export)
    app.command("import")(_import)


def _similar(
    table: str = _TABLE,
    words: list[str] = typer.Argument(help="Ids whose neighbours to show.", metavar="WORD..."),
    n: int = _N,
    restrict: int | None = _RESTRICT,
    master: str | None = _MASTER,
) -> None:
    """Show the nearest neighbours of words, by cosine."""
    _, vectors = _open(table, master)
    words = list(dict.fromkeys(words))
    found = exact.find(vectors, words)
    known = [word for word in words if word in found]
    if known:
        queries = np.stack([found[word] for word in known])
        show.neighbours(known, exact.top_k(vectors, queries, n, exclude=[{word} for word in known], restrict=restrict))
    if missing := [word for word in words if word not in found]:
        raise spelling.unknown(vectors, missing)


def _analogy(
    table: str = _TABLE,
    a: str = typer.Argument(metavar="A"),
    b: str = typer.Argument(metavar="B"),
    c: str = typer.Argument(metavar="C"),
    n: int = _N,
    mul: bool = typer.Option(False, "--mul", help="3CosMul (Levy and Goldberg 2014) in place of 3CosAdd."),
    restrict: int | None = _RESTRICT,
    master: str | None = _MASTER,
) -> None:
    """A is to B as C is to what?"""
    _, vectors = _open(table, master)
    found = analogy.answer(vectors, [(a, b, c)], n, method="mul" if mul else "add", restrict=restrict)
    show.neighbours([f"{a} : {b} = {c} : ?"], found)


def _evaluate(
    table: str = _TABLE,
    analogies: str | None = typer.Option(None, help="File in questions-words format."),
    similarity: list[str] = typer.Option([], help="File of word pairs with a human score; may be given often."),
    restrict: int = typer.Option(300_000, "--restrict-vocab", min=1, help="Analogies: so many most frequent ids."),
    master: str | None = _MASTER,
) -> None:
    """Measure vectors against analogies and human scores of similarity; the figures join the run that made them."""
    if analogies is None and not similarity:
        raise ConfigError("nothing to evaluate: give --analogies FILE or --similarity FILE")
    # A wrong file must show before Spark starts.
    if analogies is not None:
        sets.questions(analogies)
    for file in similarity:
        sets.pairs(file)
    spark, vectors = _open(table, master)
    shown = [("figure", "value", "used", "of")]
    figures: dict[str, float] = {}
    if analogies is not None:
        answered = evaluation.analogies(vectors, analogies, restrict)
        for score in answered.sections:
            shown.append((score.section, f"{score.accuracy:.3f}", f"{score.used:,}", f"{score.questions:,}"))
        figures |= answered.metrics()
        used, asked = (sum(counts) for counts in zip(*((s.used, s.questions) for s in answered.sections), strict=True))
        shown.append(("all analogies", f"{answered.total:.3f}", f"{used:,}", f"{asked:,}"))
    for file in similarity:
        ranked = evaluation.similarity(vectors, file)
        shown.append((f"{ranked.file} (Spearman)", f"{ranked.spearman:.3f}", f"{ranked.used:,}", f"{ranked.pairs:,}"))
        figures |= ranked.metrics()
    show.table(shown)
    _amend(spark, table, figures)


def _export(
    table: str = _TABLE,
    path: str = typer.Argument(help="File to write: a path or URI.", metavar="FILE"),
    binary: bool = typer.Option(False, "--binary", help="word2vec's binary format in place of text."),
    master: str | None = _MASTER,
) -> None:
    """Write vectors in word2vec's format, as gensim's KeyedVectors.load_word2vec_format reads it."""
    _, vectors = _open(table, master)
    typer.echo(export.write(vectors, path, binary=binary).text(path))


def _import(
    path: str = typer.Argument(help="File in word2vec's text or binary format, or GloVe's.", metavar="FILE"),
    table: str = _TABLE,
    mode: str = typer.Option("error", help="When the table exists: error, overwrite or append."),
    master: str | None = _MASTER,
) -> None:
    """Read vectors in word2vec's or GloVe's format into a table."""
    if mode not in ("error", "overwrite", "append"):
        raise ConfigError(f"--mode {mode}: unknown (known: error, overwrite, append)")
    spark = session.get("embedall import", master=master)
    run_id = f"import-{uuid.uuid4().hex[:12]}"
    found = word2vec_format.read(spark, path, run_id=run_id)
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


def _open(table: str, master: str | None) -> tuple[SparkSession, DataFrame]:
    spark = session.get("embedall", master=master)
    return spark, schemas.conform(tables.read(spark, table), schemas.VECTORS)


def _amend(spark: SparkSession, table: str, figures: dict[str, float]) -> None:
    """Add figures to the MLflow run that made the table, where a run of ours did."""
    commit = tables.history(spark, table).where("run_id is not null").orderBy(F.desc("version")).first()
    metadata = json.loads(commit["metadata"]) if commit else {}
    if "mlflow_run_id" in metadata:
        # A table in a catalog has its store with its runs.
        folder = Output(table=table).folder or metadata["run_folder"].rpartition("/")[0]
        tracking.amend(folder, metadata["mlflow_run_id"], figures)
