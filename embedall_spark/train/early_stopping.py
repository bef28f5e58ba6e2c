"""When training stops before its last epoch: the figure of each epoch, and whether it still gains."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from embedall_spark.errors import BadData
from embedall_spark.train import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run
    from embedall_spark.train.config import Until
    from embedall_spark.train.shard_io import Manifest


def add_figure(
    run: Run, manifest: Manifest, vocabulary: str, until: Until | None, evaluate: Callable[[DataFrame], float] | None
) -> Manifest:
    """Return the manifest after an epoch with the figure of ``until`` added to its history."""
    if until is None:
        return manifest
    if until.metric == "loss":
        value = -float(manifest["figures"]["loss"])
    else:
        assert evaluate is not None
        value = evaluate(checkpoint.vectors(run, manifest, vocabulary))
        if math.isnan(value):
            raise BadData(
                f"train.until.metric: {until.metric} cannot be computed: no word of its file is in the vocabulary"
            )
        run.metric(f"until/{until.metric}", value, int(manifest["epoch"]) + 1)
    return {**manifest, "history": [*manifest["history"], value]}


def stale(history: list[float], until: Until) -> bool:
    """Return whether the last ``patience`` epochs gained no more than ``min_gain`` over the best before them."""
    if len(history) <= until.patience:
        return False
    return max(history[-until.patience :]) <= max(history[: -until.patience]) + until.min_gain
