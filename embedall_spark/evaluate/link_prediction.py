"""Link prediction: do vectors distinguish held-out edges from pairs without an edge?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark.randomness import generator, permutation
from embedall_spark.schemas import from_arrow
from embedall_spark.vectors import dimension, to_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Examples = tuple[NDArray[np.float32], NDArray[np.bool_]]

log = logging.getLogger(__name__)

MAX_PAIRS = 100_000
_MAX_BYTES = 128 << 20  # of the pairs' features on the driver
_MAX_VERTICES = 200_000  # among which pairs that are no edges are drawn
_MIN_PAIRS = 4  # of each kind; with fewer there is nothing to train on, or to rank
_ENDS = ("low", "high")


def split(edges: DataFrame, share: float, seed: int) -> tuple[DataFrame, DataFrame]:
    """Return the edges to train on, and those held out, with the columns of ``edges``.

    A hash of its two ends, in any order, decides whether an edge is held out: both directions and all duplicates
    together.

    Args:
        edges: EDGES; rows without an end are kept.
        share: how many of the edges to hold out, 0 to 1.
        seed: of the choice.
    """
    place = F.pmod(F.xxhash64(F.lit(seed), F.least("src", "dst"), F.greatest("src", "dst")), F.lit(1 << 53))
    is_held_out = (place < int(share * (1 << 53))) & F.col("src").isNotNull() & F.col("dst").isNotNull()
    return edges.where(~is_held_out), edges.where(is_held_out)


def auc(
    vectors: DataFrame, held_out: DataFrame, edges: DataFrame, *, seed: int = 1, limit: int = MAX_PAIRS
) -> dict[str, float]:
    """Return how well vectors distinguish held-out edges from pairs without an edge.

    Method: node2vec (Grover and Leskovec 2016), section 4.4: as many random pairs of vertices that are no edge as
    held-out edges; a pair's features are the element-wise (Hadamard) product of its two vectors; a logistic regression
    is trained on half of the pairs of each kind and ranks the other half. Features are scaled to mean 0 and variance 1,
    so that the penalty does not depend on the vectors' length.

    Args:
        vectors: VECTORS, trained without the held-out edges.
        held_out: the held-out edges, from split(); those with an end that has no vector are left out.
        edges: all edges, the held-out ones included.
        seed: of the pairs and the halves.
        limit: at most so many pairs come to the driver, half of them edges, chosen by a hash; fewer if their features
            would take more than 128 MiB.

    Returns:
        ``links/auc``: area under the ROC curve, 0.5 by chance; ``links/pairs``: how many pairs were ranked. Nothing
        if there are fewer than four pairs of a kind.
    """
    d = dimension(vectors)
    most = min(limit, _MAX_BYTES // (4 * d)) // 2 if d else 0
    place = F.xxhash64(F.lit(seed), "low", "high")
    true = _products(vectors, _pairs(held_out).withColumn("place", place), most)
    false = _products(vectors, _non_edges(vectors, edges, len(true), seed), len(true))
    if min(len(true), len(false)) < _MIN_PAIRS:
        log.warning(
            "links: %d held-out edges and %d other pairs have vectors, need %d of each; no AUC",
            len(true),
            len(false),
            _MIN_PAIRS,
        )
        return {}
    # Each kind is halved by itself: one half to train on, one to rank.
    halves = [np.array_split(kind[permutation(len(kind), seed)], 2) for kind in (true, false)]
    train, test = (
        (np.concatenate(kinds), np.repeat([True, False], [len(kind) for kind in kinds]))
        for kinds in zip(*halves, strict=True)
    )
    figures = {"links/auc": _auc(train, test), "links/pairs": float(len(test[0]))}
    log.info("links: AUC %.3f over %d pairs", *figures.values())
    return figures


def _auc(train: Examples, test: Examples) -> float:
    # Imported here: scikit-learn takes a second, which commands that do not need it need not wait.
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with threadpool_limits(1):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(*train)
        return float(roc_auc_score(test[1], model.decision_function(test[0])))


def _pairs(edges: DataFrame) -> DataFrame:
    """Return the pairs of vertices that edges join, each once: low and high, in the order of their names."""
    ends = edges.select(F.least("src", "dst").alias("low"), F.greatest("src", "dst").alias("high"))
    return ends.where("low != high").distinct()


def _non_edges(vectors: DataFrame, edges: DataFrame, count: int, seed: int) -> DataFrame:
    """Return random pairs that are no edges, more than ``count`` where the graph has them: low, high, place."""
    spark = vectors.sparkSession
    sample = vectors.select("id").orderBy(F.xxhash64(F.lit(seed), "id"), "id").limit(_MAX_VERTICES).toArrow()
    names = sample["id"].combine_chunks().sort()
    # In a small graph many draws hit an edge, or the same pair again.
    draws = generator(seed, len(names)).integers(max(len(names), 1), size=(2, 2 * count + 1000))
    low, high = draws.min(axis=0), draws.max(axis=0)
    _, first = np.unique(low * len(names) + high, return_index=True)
    first = np.sort(first[low[first] != high[first]])
    columns = {"low": names.take(pa.array(low[first])), "high": names.take(pa.array(high[first])), "place": first}
    return from_arrow(spark, pa.table(columns)).join(_pairs(edges), ["low", "high"], "left_anti")


def _products(vectors: DataFrame, pairs: DataFrame, count: int) -> NDArray[np.float32]:
    """Return the products of the vectors of the first ``count`` pairs that have them, float32 [n, d]."""
    low, high = (vectors.select(F.col("id").alias(end), F.col("vector").alias(f"{end}_vector")) for end in _ENDS)
    with_vectors = pairs.join(low.select("low"), "low", "left_semi").join(high.select("high"), "high", "left_semi")
    chosen = with_vectors.orderBy("place", "low", "high").limit(count).join(low, "low").join(high, "high")
    product = F.zip_with("low_vector", "high_vector", lambda a, b: a * b).alias("product")
    table = chosen.select("place", "low", "high", product).toArrow()
    if not len(table):
        return np.zeros((0, 1), dtype=np.float32)
    table = table.sort_by([("place", "ascending"), ("low", "ascending"), ("high", "ascending")])
    return to_matrix(table["product"])
