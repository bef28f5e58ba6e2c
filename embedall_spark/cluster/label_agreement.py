"""How well clusters agree with labels: purity and normalised mutual information."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)


def purity_nmi(assignments: DataFrame, labels: DataFrame) -> dict[str, float]:
    """Return ``clusters/purity`` and ``clusters/nmi`` over the ids that have a label; nothing where there are none.

    Purity is the share of ids that have the most frequent label of their cluster. NMI is the mutual information of
    clusters and labels over the mean of their entropies (Strehl and Ghosh 2002, section 3, with the arithmetic mean);
    1 where all ids have one cluster and one label, 0 where they are independent.

    Args:
        assignments: id and cluster.
        labels: id and label; of several labels of an id the first in order counts.
    """
    single = labels.where("label is not null").groupBy("id").agg(F.min("label").alias("label"))
    cells = assignments.join(single, "id").groupBy("cluster", "label").agg(F.count("*").alias("ids"))
    sums = cells.agg(F.sum("ids").alias("ids"), F.countDistinct("cluster", "label").alias("cells")).first()
    if sums is None or not sums["ids"]:
        log.warning("clusters: no id has a label, so that purity and NMI cannot be told")
        return {}
    ids = F.lit(float(sums["ids"]))
    share, of_cluster, of_label = (F.col(name) / ids for name in ("ids", "in_cluster", "in_label"))
    counted = cells.withColumns(
        {
            "in_cluster": F.sum("ids").over(Window.partitionBy("cluster")),
            "in_label": F.sum("ids").over(Window.partitionBy("label")),
            "most": F.max("ids").over(Window.partitionBy("cluster")),
        }
    )
    # Each cell adds its part of its cluster's and of its label's entropy.
    found = counted.agg(
        F.sum(F.col("ids") * F.col("most") / F.col("in_cluster")).alias("pure"),
        F.sum(share * F.log(share / (of_cluster * of_label))).alias("information"),
        F.sum(-share * (F.log(of_cluster) + F.log(of_label))).alias("entropies"),
    ).first()
    assert found is not None
    nmi = 1.0 if sums["cells"] == 1 else max(0.0, 2 * found["information"] / found["entropies"])
    figures = {"clusters/purity": round(found["pure"]) / int(sums["ids"]), "clusters/nmi": min(1.0, float(nmi))}
    log.info("clusters: purity %.4f, NMI %.4f", *figures.values())
    return figures
