"""How well vectors agree with the labels of their ids: purity of neighbors, and classification."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F
from scipy import sparse

from embedall_spark import randomness
from embedall_spark.schemas import from_arrow
from embedall_spark.search import exact
from embedall_spark.search.local_table import LocalTable
from embedall_spark.vectors import text_array, to_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.search.local_table import Vectors

    Labels: TypeAlias = DataFrame | pa.Table

log = logging.getLogger(__name__)

MAX_QUERIES = 2_000
MAX_IDS = 20_000  # at 128 dimensions their vectors take 10 MB
MAX_LABELS = 1_000
_MIN_IDS = 10  # with fewer, F1 says nothing: a tenth of them is not one


def purity(
    vectors: Vectors, labels: Labels, k: int = 10, *, seed: int = 1, limit: int = MAX_QUERIES
) -> dict[str, float]:
    """Return how often an id's nearest neighbors share a label with it, among the ids that have labels.

    Args:
        vectors: VECTORS.
        labels: as sources.metadata.read() returns them, or, where the vectors are on the driver, local_metadata.read().
        k: how many neighbors, by cosine.
        seed: of the sample of query ids.
        limit: at most so many query ids, chosen by a hash; their vectors and neighbors come to the driver.

    Returns:
        ``purity/neighbours``: share of neighbors that have a label in common with the query id, and
        ``purity/chance``: the same share among all pairs of query ids. Nothing where fewer than two ids have a label.

    Raises:
        ConfigError: ``k`` or ``limit`` is too large for exact.top_k().
    """
    labeled = _labeled(vectors, labels)
    sample = _sample(labeled, limit, seed)
    if len(sample.ids) < 2:
        log.warning("labels: %d ids of the table have one; purity of neighbors needs two", len(sample.ids))
        return {}
    hits = exact.top_k(labeled.rows, sample.matrix, k, exclude=[{name} for name in sample.ids], same_table=True)
    labels_of = {name: set(its_labels) for name, its_labels in zip(sample.ids, sample.labels, strict=True)}
    if others := sorted({name for neighbors in hits for name, _ in neighbors} - labels_of.keys()):
        labels_of |= {name: set(its_labels) for name, its_labels in labeled.labels_of(others).items()}
    shared = [
        not labels_of[name].isdisjoint(its_labels)
        for its_labels, neighbors in zip(sample.labels, hits, strict=True)
        for name, _ in neighbors
    ]
    figures = {"purity/neighbours": float(np.mean(shared)), "purity/chance": _chance(sample.labels)}
    log.info("labels: %.3f of neighbors share one, by chance %.3f", *figures.values())
    return figures


def classification(
    vectors: Vectors,
    labels: Labels,
    shares: Sequence[float] = (0.1, 0.5, 0.9),
    splits: int = 10,
    *,
    seed: int = 1,
    limit: int = MAX_IDS,
) -> dict[str, float]:
    """Return how well vectors predict labels, by node_classification.learn(), beside always guessing the majority.

    Args:
        vectors: VECTORS; taken as they are, not at unit length.
        labels: as sources.metadata.read() returns them. Of more than MAX_LABELS the most frequent ones are used.
        shares: shares of the labeled ids to train on; the others are the test set.
        splits: over how many random splits to take the mean.
        seed: of the splits and of the sample of ids.
        limit: at most so many labeled ids, chosen by a hash; they come to the driver.

    Returns:
        For a share of 0.5 ``classification/micro_f1_50``, ``classification/macro_f1_50`` and, for the majority's
        labels, ``classification/majority_micro_f1_50`` and ``classification/majority_macro_f1_50``, as figures()
        names them. Nothing where fewer than 10 ids have a label, or all have the same one: any vectors would do.
    """
    # Imported here: scikit-learn takes a second, which commands that only search need not wait.
    from embedall_spark.evaluate import node_classification

    sample = _sample(_labeled(vectors, labels), limit, seed)
    member = _membership(sample.labels)
    usable = member.any(axis=1)
    if usable.sum() < _MIN_IDS:
        log.warning(
            "labels: %d ids of the table have one; classification needs %d, and is left out", usable.sum(), _MIN_IDS
        )
        return {}
    if member.shape[1] < 2:
        log.warning("labels: all %d ids have the same one; classification needs two, and is left out", usable.sum())
        return {}
    results = node_classification.learn(sample.matrix[usable], member[usable], shares, splits, seed)
    values = [value for result in results for value in (*result.vectors, *result.majority)]
    log.info("labels: %d ids with %d labels classified", usable.sum(), member.shape[1])
    return dict(zip(figures(shares), values, strict=True))


def figures(shares: Sequence[float]) -> list[str]:
    """Return the names of classification()'s figures, in its order."""
    kinds = ("micro_f1", "macro_f1", "majority_micro_f1", "majority_macro_f1")
    return [f"classification/{kind}_{100 * share:g}" for share in shares for kind in kinds]


class _Sample(NamedTuple):
    """Ids with their vectors, float32 [ids, d], and labels."""

    ids: list[str]
    matrix: NDArray[np.float32]
    labels: list[list[str]]


class _Labeled(NamedTuple):
    """The rows whose ids have labels, and these, sorted."""

    rows: Vectors
    """VECTORS; in Spark id, vector and labels."""
    sets: dict[str, list[str]]
    """The labels by id, where the rows are on the driver."""

    def labels_of(self, ids: list[str]) -> dict[str, list[str]]:
        """Return the labels of some of the ids."""
        if isinstance(self.rows, LocalTable):
            return {name: self.sets[name] for name in ids}
        names = from_arrow(self.rows.sparkSession, pa.table({"id": pa.array(ids, pa.string())}))
        table = self.rows.join(names, "id", "left_semi").select("id", "labels").toArrow()
        return dict(zip(*table.to_pydict().values(), strict=True))


def _labeled(vectors: Vectors, labels: Labels) -> _Labeled:
    """Return the rows of the ids that have any label."""
    if isinstance(vectors, LocalTable):
        assert isinstance(labels, pa.Table)
        sets: dict[str, set[str]] = {}
        for name, label in zip(labels["id"].to_pylist(), labels["label"].to_pylist(), strict=True):
            if label is not None:
                sets.setdefault(name, set()).add(label)
        rows = vectors.where(pc.is_in(vectors.ids, value_set=text_array(sets)))
        return _Labeled(rows, {name: sorted(its_labels) for name, its_labels in sets.items()})
    collected = (
        labels.where("label is not null").groupBy("id").agg(F.sort_array(F.collect_set("label")).alias("labels"))
    )
    return _Labeled(vectors.select("id", "vector").join(collected, "id"), {})


def _sample(labeled: _Labeled, limit: int, seed: int) -> _Sample:
    """Bring a limited number of ids to the driver, the same ones however the table is partitioned."""
    if isinstance(labeled.rows, LocalTable):
        ids = labeled.rows.ids.to_pylist()
        first = np.argsort(randomness.spark_hashes(ids, seed), kind="stable")[:limit]
        chosen = labeled.rows.take(np.sort(first))
        assert chosen.rows is not None
        names = [ids[row] for row in np.sort(first)]
        return _Sample(names, chosen.vectors[chosen.rows], [labeled.sets[name] for name in names])
    table = labeled.rows.orderBy(F.xxhash64(F.lit(seed), "id"), "id").limit(limit).toArrow()
    table = table.take(pc.sort_indices(table["id"]))
    return _Sample(table["id"].to_pylist(), to_matrix(table["vector"]), table["labels"].to_pylist())


def _chance(labels: Sequence[Sequence[str]]) -> float:
    """Return the share of pairs that have a label in common."""
    rows = np.repeat(np.arange(len(labels)), [len(its_labels) for its_labels in labels])
    _, columns = np.unique([label for its_labels in labels for label in its_labels], return_inverse=True)
    member = sparse.csr_array((np.ones(len(rows), np.int32), (rows, columns)))
    return float((member @ member.T).nnz - len(labels)) / (len(labels) * (len(labels) - 1))


def _membership(labels: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Return which id has which label, bool [ids, labels]; the most frequent MAX_LABELS, in their order."""
    counts = Counter(label for its_labels in labels for label in its_labels)
    chosen = sorted(counts, key=lambda label: (-counts[label], label))[:MAX_LABELS]
    if len(counts) > len(chosen):
        log.warning("labels: %d different ones; only the most frequent %d are used", len(counts), len(chosen))
    column = {label: place for place, label in enumerate(chosen)}
    member = np.zeros((len(labels), len(chosen)), dtype=bool)
    for row, its_labels in enumerate(labels):
        member[row, [column[label] for label in its_labels if label in column]] = True
    return member
