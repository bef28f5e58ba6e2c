"""What is known about ids beside their vectors: labels and titles, and how well vectors agree with the labels."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from pyspark.sql import functions as F
from scipy import sparse

from embedall_spark import files
from embedall_spark.config import MOVABLE, InputPath, Section
from embedall_spark.errors import ConfigError
from embedall_spark.search import exact
from embedall_spark.sources import tabular

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame, SparkSession

log = logging.getLogger(__name__)

MAX_ASKED = 2_000
MAX_IDS = 20_000  # at 128 dimensions their vectors take 10 MB
MAX_LABELS = 1_000
_NAMES = ("id", "label", "title")
_PACKED = (".gz", ".bz2")
_SUFFIXES: dict[str, tuple[tabular.Format, str]] = {
    ".csv": ("csv", ","),
    ".tsv": ("csv", "\t"),
    ".json": ("json", ","),
    ".jsonl": ("json", ","),
    ".parquet": ("parquet", ","),
}
_HEAD = 1 << 16


class Metadata(Section):
    """Where the labels and titles of ids come from."""

    path: InputPath | None = Field(
        None,
        description="a file (.csv, .tsv, .json, .jsonl, .parquet) or a Delta table; several rows where an id has "
        "several labels. A .csv or .tsv whose first line has none of the columns' names has no header: its columns are "
        "id, label and title, in this order, without those that are null",
        json_schema_extra=MOVABLE,
    )
    prefix: str | None = Field(
        None,
        min_length=1,
        description="in place of path: an id's label is its part before this text ('.': numpy for numpy.linalg)",
        json_schema_extra=MOVABLE,
    )
    id: str = Field("id", description="the column of ids", json_schema_extra=MOVABLE)
    label: str | None = Field("label", description="the column of labels; null: none", json_schema_extra=MOVABLE)
    title: str | None = Field(
        None, description="the column of texts to show in place of ids; null: none", json_schema_extra=MOVABLE
    )
    split: str | None = Field(
        None,
        min_length=1,
        description="what stands between several labels in one row, such as '|'; null: one label",
        json_schema_extra=MOVABLE,
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.prefix is None):
            raise ValueError("give either path (a file or table of labels) or prefix (labels are parts of the ids)")
        if self.path is not None and self.label is None and self.title is None:
            raise ValueError("label and title are both null; name the column of one")
        return self


def check(config: Metadata) -> None:
    """Raise ConfigError where a file is not there, or of no known kind, before Spark starts."""
    path = config.path
    if path is None:
        return
    if _format(path)[0] == "delta":
        if Path(path).is_file():
            need = f"need {', '.join(_SUFFIXES)} or a Delta table's folder"
            raise ConfigError(f"{path}: the name tells no format; {need}: rename the file")
    elif not set(path) & set("*?[{") and not files.exists(path):
        raise ConfigError(f"{path}: no such file or folder; correct metadata.path")


def check_columns(spark: SparkSession, config: Metadata | None) -> None:
    """Find out before long work whether read() will find its columns; raises what it does."""
    if config is not None and config.path is not None:
        _opened(spark, config)


def read(spark: SparkSession, config: Metadata, vectors: DataFrame | None = None) -> DataFrame:
    """Return id, label and title (strings) of every id; several rows where it has several labels, none twice.

    Rows without an id, or that cannot be read, are left out and counted in the log.

    Args:
        spark: the session.
        config: where they come from.
        vectors: VECTORS, or any table with a column ``id``; needed where labels are parts of the ids.

    Raises:
        BadData: there is nothing at the path, or it is of another format.
        ConfigError: labels are parts of the ids, and there are no ``vectors``.
        SchemaMismatch: a column is missing or is not of a simple type.
    """
    if config.prefix is not None:
        if vectors is None:
            raise ConfigError("metadata.prefix: labels are parts of the ids, so that it needs a table of vectors")
        first = F.substring_index("id", config.prefix, 1)
        return vectors.select("id", _filled(first).alias("label"), _null().alias("title")).distinct()
    found = _read_table(spark, config)
    label = found["label"]
    if config.split is not None:
        label = F.explode_outer(F.split(label, f"\\Q{config.split}\\E"))
    found = found.where("problem is null and id is not null").select("id", label.alias("label"), "title")
    return found.withColumns({"label": _filled(F.trim("label")), "title": _filled(F.trim("title"))}).distinct()


def purity(
    vectors: DataFrame, labels: DataFrame, k: int = 10, *, seed: int = 1, limit: int = MAX_ASKED
) -> dict[str, float]:
    """Return how often an id's nearest neighbours share a label with it, among the ids that have labels.

    Args:
        vectors: VECTORS.
        labels: as read() returns them.
        k: how many neighbours, by cosine.
        seed: of the choice of ids to ask for.
        limit: ask for so many ids at most, chosen by a hash; their vectors and neighbours come to the driver.

    Returns:
        ``purity/neighbours``: share of neighbours that have a label in common with the id asked for, and
        ``purity/chance``: the same share among the ids asked for, each beside all others. Nothing where fewer than
        two ids have a label.

    Raises:
        ConfigError: ``k`` or ``limit`` is too large for exact.top_k().
    """
    known = _labelled(vectors, labels)
    asked = _some(known, limit, seed)
    if len(asked.ids) < 2:
        log.warning("labels: %d ids of the table have one; purity of neighbours needs two", len(asked.ids))
        return {}
    hits = exact.top_k(known, asked.matrix, k, exclude=[{name} for name in asked.ids], own=True)
    has = {name: set(some) for name, some in zip(asked.ids, asked.labels, strict=True)}
    if others := sorted({name for found in hits for name, _ in found} - has.keys()):
        names = vectors.sparkSession.createDataFrame(pa.table({"id": pa.array(others, pa.string())}))
        table = known.join(names, "id", "left_semi").select("id", "labels").toArrow()
        has |= {name: set(some) for name, some in zip(*table.to_pydict().values(), strict=True)}
    shared = [not has[name].isdisjoint(own) for own, found in zip(asked.labels, hits, strict=True) for name, _ in found]
    figures = {"purity/neighbours": float(np.mean(shared)), "purity/chance": _chance(asked.labels)}
    log.info("labels: %.3f of neighbours share one, by chance %.3f", *figures.values())
    return figures


def classification(
    vectors: DataFrame,
    labels: DataFrame,
    shares: Sequence[float] = (0.1, 0.5, 0.9),
    splits: int = 10,
    *,
    seed: int = 1,
    limit: int = MAX_IDS,
) -> dict[str, float]:
    """Return how well labels are told from vectors, by the protocol of classify.learn(), beside the majority's label.

    Args:
        vectors: VECTORS; taken as they are, not at unit length.
        labels: as read() returns them. Of more than MAX_LABELS the most frequent ones are taken.
        shares: shares of the labelled ids to learn from; the others are asked.
        splits: over how many random splits to take the mean.
        seed: of the splits and of the choice of ids.
        limit: take so many labelled ids at most, chosen by a hash; they come to the driver.

    Returns:
        For a share of 0.5 ``classification/micro_f1_50``, ``classification/macro_f1_50`` and, of the majority's
        labels, ``classification/majority_micro_f1_50`` and ``classification/majority_macro_f1_50``, as figures()
        names them. Nothing where fewer than two ids have a label.
    """
    # Imported here: scikit-learn takes a second, which commands that only ask for neighbours need not wait.
    from embedall_spark.evaluate import node_classification

    asked = _some(_labelled(vectors, labels), limit, seed)
    member = _membership(asked.labels)
    usable = member.any(axis=1)
    if usable.sum() < 2:
        log.warning("labels: %d ids of the table have one; classification needs two", usable.sum())
        return {}
    found = node_classification.learn(asked.matrix[usable], member[usable], shares, splits, seed)
    values = [value for learnt in found for value in (*learnt.vectors, *learnt.majority)]
    log.info("labels: %d ids with %d labels classified", usable.sum(), member.shape[1])
    return dict(zip(figures(shares), values, strict=True))


def figures(shares: Sequence[float]) -> list[str]:
    """Return the names of classification()'s figures, in its order."""
    kinds = ("micro_f1", "macro_f1", "majority_micro_f1", "majority_macro_f1")
    return [f"classification/{kind}_{100 * share:g}" for share in shares for kind in kinds]


class _Labelled(NamedTuple):
    ids: list[str]
    matrix: NDArray[np.float32]
    labels: list[list[str]]


def _labelled(vectors: DataFrame, labels: DataFrame) -> DataFrame:
    """Return id, vector and the sorted labels of the ids that have any."""
    sets = labels.where("label is not null").groupBy("id").agg(F.sort_array(F.collect_set("label")).alias("labels"))
    return vectors.select("id", "vector").join(sets, "id")


def _some(known: DataFrame, limit: int, seed: int) -> _Labelled:
    """Bring a limited number of ids to the driver, the same ones however the table is partitioned."""
    table = known.orderBy(F.xxhash64(F.lit(seed), "id"), "id").limit(limit).toArrow()
    table = table.take(pc.sort_indices(table["id"])).combine_chunks()
    matrix = exact.to_matrix(table["vector"].combine_chunks()) if len(table) else np.zeros((0, 1), np.float32)
    return _Labelled(table["id"].to_pylist(), matrix, table["labels"].to_pylist())


def _chance(labels: Sequence[Sequence[str]]) -> float:
    """Return the share of pairs that have a label in common."""
    rows = np.repeat(np.arange(len(labels)), [len(some) for some in labels])
    _, columns = np.unique([label for some in labels for label in some], return_inverse=True)
    member = sparse.csr_array((np.ones(len(rows), np.int32), (rows, columns)))
    return float((member @ member.T).nnz - len(labels)) / (len(labels) * (len(labels) - 1))


def _membership(labels: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Return which id has which label, bool [ids, labels]; the most frequent MAX_LABELS, in their order."""
    counts = Counter(label for some in labels for label in some)
    chosen = sorted(counts, key=lambda label: (-counts[label], label))[:MAX_LABELS]
    if len(counts) > len(chosen):
        log.warning("labels: %d different ones; the most frequent %d are looked at", len(counts), len(chosen))
    column = {label: place for place, label in enumerate(chosen)}
    member = np.zeros((len(labels), len(chosen)), dtype=bool)
    for row, some in enumerate(labels):
        member[row, [column[label] for label in some if label in column]] = True
    return member


def _read_table(spark: SparkSession, config: Metadata) -> DataFrame:
    """Return id, label and title as text, and ``problem``."""
    found = _opened(spark, config)
    bad = found.where("problem is not null").agg(F.count("*").alias("rows"), F.min("problem").alias("first")).first()
    if bad and bad["rows"]:
        log.warning("%s: %d rows cannot be read and are left out; %s", config.path, bad["rows"], bad["first"])
    values = [(F.col(name).cast("string") if name in found.columns else _null()).alias(name) for name in _NAMES]
    return found.select(*values, "problem")


def _opened(spark: SparkSession, config: Metadata) -> DataFrame:
    """Return the columns that there are of id, label and title, as they are, and ``problem``."""
    assert config.path is not None
    kind, separator = _format(config.path)
    asked = {f"metadata.{name}": column for name in _NAMES if (column := getattr(config, name)) is not None}
    header = kind != "csv" or _has_header(config.path, separator, asked.values())
    if not header:
        asked = {option: f"_c{place}" for place, option in enumerate(asked)}
    return tabular.read(spark, config.path, kind, asked, separator=separator, header=header)


def _format(path: str) -> tuple[tabular.Format, str]:
    """Return the format that a path's suffix tells, and what stands between columns."""
    name = PurePosixPath(path)
    return _SUFFIXES.get((name.with_suffix("") if name.suffix in _PACKED else name).suffix, ("delta", ","))


def _has_header(path: str, separator: str, names: Iterable[str]) -> bool:
    """Tell whether the first line of a file holds one of the columns' names."""
    try:
        filesystem, inside = files.resolve(path)
        with filesystem.open_input_stream(inside) as stream:
            start = bytes(stream.read(_HEAD))
    except OSError:
        # A folder or a glob; or nothing, which the reader will tell.
        return True
    first = start.decode("utf-8-sig", "replace").partition("\n")[0].rstrip("\r")
    return not {*names}.isdisjoint(next(csv.reader([first], delimiter=separator), []))


def _filled(text: Column) -> Column:
    return F.nullif(text, F.lit(""))


def _null() -> Column:
    return F.lit(None).cast("string")
