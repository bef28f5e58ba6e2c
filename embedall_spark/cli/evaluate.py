"""The command that measures a table of vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from embedall_spark import config
from embedall_spark.cli.shared import console, options, provenance, table_snapshot
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import benchmark_files, label_metrics, word_benchmarks
from embedall_spark.search.local_table import LocalTable
from embedall_spark.sources import local_metadata, metadata
from embedall_spark.sources.metadata import Names

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from embedall_spark.cli.shared.table_snapshot import TableSnapshot
    from embedall_spark.search.local_table import Vectors


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("evaluate")(_evaluate)


def _evaluate(
    table: str = options.TABLE,
    analogies: str | None = typer.Option(None, help="File in questions-words format."),
    similarity: list[str] = typer.Option([], help="File of word pairs with human scores; may be repeated."),
    restrict: int = typer.Option(
        300_000, "--restrict-vocab", min=1, help="Analogies: use only the so many most frequent ids."
    ),
    label_path: str | None = typer.Option(
        None,
        "--labels",
        help="File (.csv, .tsv, .json, .parquet) or table of ids and labels; several rows where an id has several.",
        metavar="TABLE_OR_FILE",
    ),
    id_column: str = typer.Option("id", "--id-column", help="With --labels: the column of ids."),
    label_column: str = typer.Option("label", "--label-column", help="With --labels: the column of labels."),
    label_split: str | None = typer.Option(
        None, "--label-split", help="With --labels: the separator of several labels in one row, such as '|'."
    ),
    label_prefix: str | None = typer.Option(
        None, "--label-prefix", help="In place of --labels: an id's label is its part before this text, such as '.'."
    ),
    limit: float = options.LIMIT,
    master: str | None = options.MASTER,
) -> None:
    """Measure vectors by analogies, human similarity scores and labels; the figures join the run that made them."""
    source = None
    if label_path is not None or label_prefix is not None:
        columns = {"id": id_column, "label": label_column, "split": label_split}
        source = config.parse(Names, {"path": label_path, "prefix": label_prefix, **columns})
    if analogies is None and not similarity and source is None:
        raise ConfigError(
            "nothing to evaluate: give --analogies FILE, --similarity FILE, --labels TABLE_OR_FILE or --label-prefix"
        )
    # A wrong file must be reported before Spark starts.
    if analogies is not None:
        benchmark_files.questions(analogies)
    for file in similarity:
        benchmark_files.pairs(file)
    if source is not None:
        metadata.check(source)

    def measure(snapshot: TableSnapshot) -> dict[str, float]:
        vectors = snapshot.vectors
        labels = None if source is None else _read_labels(snapshot, source)
        figures = measure_words(vectors, analogies, similarity, restrict) if analogies is not None or similarity else {}
        if labels is not None:
            figures |= measure_labels(vectors, labels)
        provenance.log_to_producer(snapshot.session, table, figures)
        return figures

    figures = table_snapshot.answer(table, master, limit, measure)
    if all(name.startswith("coverage/") for name in figures):
        raise BadData(f"nothing could be measured: no file has words of {table}, or its scores are all the same")


def _read_labels(snapshot: TableSnapshot, source: Names) -> DataFrame | pa.Table:
    """Return id, label and title."""
    if isinstance(snapshot.vectors, LocalTable):
        return local_metadata.read(source, snapshot.rows, snapshot.vectors.ids)
    return metadata.read(snapshot.spark, source, snapshot.vectors)


def measure_words(vectors: Vectors, analogies: str | None, similarity: list[str], restrict: int) -> dict[str, float]:
    """Print and return how vectors score on published benchmarks of words."""
    rows = [("figure", "value", "used", "of")]
    figures: dict[str, float] = {}
    if analogies is not None:
        result = word_benchmarks.analogies(vectors, analogies, restrict)
        for score in result.sections:
            rows.append((score.section, _value(score.accuracy), f"{score.used:,}", f"{score.questions:,}"))
        figures |= result.metrics()
        used, questions = (
            sum(counts) for counts in zip(*((s.used, s.questions) for s in result.sections), strict=True)
        )
        rows.append(("all analogies", _value(result.total), f"{used:,}", f"{questions:,}"))
    for file in similarity:
        ranked = word_benchmarks.similarity(vectors, file)
        rows.append((f"{ranked.file} (Spearman)", _value(ranked.spearman), f"{ranked.used:,}", f"{ranked.pairs:,}"))
        figures |= ranked.metrics()
    console.table(rows)
    return figures


def _value(figure: float) -> str:
    """Return a figure with three digits, or a dash if it could not be measured."""
    return "-" if math.isnan(figure) else f"{figure:.3f}"


def measure_labels(vectors: Vectors, labels: DataFrame | pa.Table) -> dict[str, float]:
    """Print and return how vectors agree with labels, beside a baseline that knows no vectors.

    Raises:
        BadData: fewer than two ids of the table have a label.
    """
    purity = label_metrics.purity(vectors, labels)
    if not purity:
        raise BadData("fewer than two ids of the table have a label; compare the labels' ids with the table's")
    classification = label_metrics.classification(vectors, labels)
    neighbors, chance = purity.values()
    rows = [("figure", "vectors", "baseline"), ("nearest 10 that share a label", _value(neighbors), _value(chance))]
    for name, value in classification.items():
        kind, _, percent = name.removeprefix("classification/").rpartition("_")
        if not kind.startswith("majority"):
            baseline = classification[f"classification/majority_{kind}_{percent}"]
            average = kind.removesuffix("_f1")
            rows.append((f"{average} F1, trained on {percent}% of ids", _value(value), _value(baseline)))
    console.table(rows)
    return purity | classification
