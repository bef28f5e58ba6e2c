"""The command that measures a table of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from embedall_spark import config
from embedall_spark.cli import similar
from embedall_spark.cli.shared import console, provenance
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import benchmark_files as sets
from embedall_spark.evaluate import label_metrics
from embedall_spark.evaluate import word_benchmarks as evaluation
from embedall_spark.evaluate.label_metrics import Metadata

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("evaluate")(_evaluate)


def _evaluate(
    table: str = similar.TABLE,
    analogies: str | None = typer.Option(None, help="File in questions-words format."),
    similarity: list[str] = typer.Option([], help="File of word pairs with a human score; may be given often."),
    restrict: int = typer.Option(300_000, "--restrict-vocab", min=1, help="Analogies: so many most frequent ids."),
    label_path: str | None = typer.Option(
        None,
        "--labels",
        help="File (.csv, .tsv, .json, .parquet) or table of ids and labels; several rows where an id has several.",
        metavar="TABLE_OR_FILE",
    ),
    id_column: str = typer.Option("id", "--id-column", help="With --labels: the column of ids."),
    label_column: str = typer.Option("label", "--label-column", help="With --labels: the column of labels."),
    label_split: str | None = typer.Option(
        None, "--label-split", help="With --labels: what stands between several labels in one row, such as '|'."
    ),
    label_prefix: str | None = typer.Option(
        None, "--label-prefix", help="In place of --labels: an id's label is its part before this text, such as '.'."
    ),
    master: str | None = similar.MASTER,
) -> None:
    """Measure vectors by analogies, human scores of similarity and labels; the figures join the run that made them."""
    known = None
    if label_path is not None or label_prefix is not None:
        given = {"path": label_path, "prefix": label_prefix, "id": id_column, "label": label_column}
        known = config.parse(Metadata, given | {"split": label_split})
    if analogies is None and not similarity and known is None:
        raise ConfigError(
            "nothing to evaluate: give --analogies FILE, --similarity FILE, --labels TABLE_OR_FILE or --label-prefix"
        )
    # A wrong file must show before Spark starts.
    if analogies is not None:
        sets.questions(analogies)
    for file in similarity:
        sets.pairs(file)
    if known is not None:
        label_metrics.check(known)
    spark, vectors = similar.open_table(table, master)
    figures = _words(vectors, analogies, similarity, restrict) if analogies is not None or similarity else {}
    if known is not None:
        figures |= _labels(vectors, label_metrics.read(spark, known, vectors))
    provenance.log_to_producer(spark, table, figures)


def _words(vectors: DataFrame, analogies: str | None, similarity: list[str], restrict: int) -> dict[str, float]:
    """Print and return how vectors do on published sets of words."""
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
    console.table(shown)
    return figures


def _labels(vectors: DataFrame, known: DataFrame) -> dict[str, float]:
    """Print and return how vectors agree with labels, beside what knows no vectors.

    Raises:
        BadData: fewer than two ids of the table have a label.
    """
    near = label_metrics.purity(vectors, known)
    if not near:
        raise BadData("fewer than two ids of the table have a label; compare the labels' ids with the table's")
    told = label_metrics.classification(vectors, known)
    shown = [("figure", "vectors", "baseline")]
    purity, chance = (f"{value:.3f}" for value in near.values())
    shown.append(("nearest 10 that share a label", purity, chance))
    for name, value in told.items():
        kind, _, percent = name.removeprefix("classification/").rpartition("_")
        if not kind.startswith("majority"):
            baseline = told[f"classification/majority_{kind}_{percent}"]
            average = kind.removesuffix("_f1")
            shown.append((f"{average} F1, {percent}% of ids learnt from", f"{value:.3f}", f"{baseline:.3f}"))
    console.table(shown)
    return near | told
