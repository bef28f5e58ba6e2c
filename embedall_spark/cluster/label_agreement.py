"""How well clusters agree with labels: purity and normalized mutual information."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import functions as F

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from scipy.sparse import csr_matrix

log = logging.getLogger(__name__)

MAX_CELLS = 1_000_000
"""Pairs of a cluster and a label that occur together; the contingency table comes to the driver."""


def purity_nmi(assignments: DataFrame, labels: DataFrame) -> dict[str, float]:
    """Return ``clusters/purity`` and ``clusters/nmi`` over the labeled ids; nothing where there are none.

    Purity is the share of ids that have the most frequent label of their cluster. NMI is the mutual information of
    clusters and labels over the mean of their entropies (Strehl and Ghosh 2002, section 3, with the arithmetic mean);
    1 where all ids have one cluster and one label, 0 where they are independent.

    Args:
        assignments: id and cluster.
        labels: id and label; of several labels of an id the first in order counts.
    """
    # Imported here: it takes a second, which runs without labels need not wait.
    from scipy.stats import entropy
    from sklearn.metrics import mutual_info_score

    single = labels.where("label IS NOT NULL").groupBy("id").agg(F.min("label").alias("label"))
    counts = assignments.join(single, "id").groupBy("cluster", "label").count()
    cells = counts.limit(MAX_CELLS + 1).toArrow()
    if not 0 < len(cells) <= MAX_CELLS:
        reason = "no id has a label" if not len(cells) else f"over {MAX_CELLS:,} pairs of a cluster and a label occur"
        log.warning("clusters: purity and NMI are not computed, because %s", reason)
        return {}
    table = _contingency(*(cells[name].combine_chunks() for name in ("cluster", "label", "count")))
    mean_entropy = (entropy(np.asarray(table.sum(axis=0)).ravel()) + entropy(np.asarray(table.sum(axis=1)).ravel())) / 2
    information = mutual_info_score(None, None, contingency=table)
    figures = {
        "clusters/purity": int(table.max(axis=1).sum()) / int(table.sum()),
        "clusters/nmi": float(np.clip(information / mean_entropy, 0, 1)) if mean_entropy else 1.0,
    }
    log.info("clusters: purity %.4f, NMI %.4f", *figures.values())
    return figures


def _contingency(clusters: pa.Array, labels: pa.Array, counts: pa.Array) -> csr_matrix:
    """Return how many ids each cluster (row) and label (column) have in common, int64."""
    from scipy.sparse import coo_matrix

    rows, columns = (np.asarray(side.dictionary_encode().indices) for side in (clusters, labels))
    return coo_matrix((np.asarray(counts), (rows, columns))).tocsr()
