"""The contrastive refinement on a sample of pairs, in one process that TorchDistributor starts, on a GPU or not."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pyspark.sql import functions as F

from embedall_spark import files, torch_processes
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import retrieval
from embedall_spark.latent.fit import contrastive
from embedall_spark.latent.fit.contrastive import ContrastiveConfig, Pairs, Refined
from embedall_spark.search import exact

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.latent.fit.contrastive import Float

log = logging.getLogger(__name__)

MAX_PAIRS = 200_000
MAX_BYTES = 256 << 20  # of both sides' vectors
_SCORED = 5_000  # validation items of the left side that are asked
INPUT, RESULT = "pairs.npz", "refined.npz"


def sample(left: DataFrame, right: DataFrame, pairs: DataFrame, *, seed: int = 1, limit: int = MAX_PAIRS) -> Pairs:
    """Return pairs of latent vectors on the driver, chosen by a hash: ``limit`` at most, fewer where MAX_BYTES is less.

    The matrices that are refined have k x k numbers each, for which so many pairs are plenty.

    Args:
        left: VECTORS of the latent space.
        right: VECTORS likewise.
        pairs: PAIRS; those without both vectors are left out.
        seed: of the choice.
        limit: 1 to MAX_PAIRS.

    Raises:
        ConfigError: ``limit`` is out of range.
        BadData: no pair has both vectors.
    """
    if not 1 <= limit <= MAX_PAIRS:
        raise ConfigError(f"limit {limit:,}: need 1 to {MAX_PAIRS:,} pairs")
    row = left.select(F.size("vector").alias("numbers")).first()
    most = min(limit, MAX_BYTES // (8 * row["numbers"])) if row is not None else limit
    known = pairs
    for side, name in ((left, "left"), (right, "right")):
        known = known.join(side.select(F.col("id").alias(name)), name, "left_semi")
    place = F.xxhash64(F.lit(seed), "left", "right").alias("place")
    weight = F.coalesce("weight", F.lit(1.0)).alias("weight")
    order = ["place", "left", "right", "weight"]
    # A pair that is there twice counts twice, but its two rows must come in one order.
    few = (
        known.select("left", "right", weight, place.alias("place"))
        .orderBy("place", "left", "right", "weight")
        .limit(most)
    )
    for side, name in ((left, "left"), (right, "right")):
        columns = [
            F.col("id").alias(name),
            F.col("vector").alias(f"{name}_vector"),
            F.xxhash64("vector").alias(f"{name}_id"),
        ]
        few = few.join(side.select(*columns), name)
    table = few.toArrow()
    if not len(table):
        raise BadData("no pair has vectors on both sides; nothing can be refined")
    table = table.sort_by([(name, "ascending") for name in order])
    vectors = [exact.to_matrix(table[f"{name}_vector"].combine_chunks()) for name in ("left", "right")]
    ids = [table[f"{name}_id"].to_numpy() for name in ("left", "right")]
    return Pairs(vectors[0], vectors[1], ids[0], ids[1], table["weight"].to_numpy())


def refine(spark: SparkSession, folder: str, train: Pairs, validation: Pairs, config: ContrastiveConfig) -> Refined:
    """Return what contrastive.refine() finds, in a process of its own: on a worker, or beside the driver.

    The best matrices are those of the greatest mean reciprocal rank, both ways, on the validation pairs.

    Args:
        spark: the session.
        folder: of the run, which the worker sees; pairs go there and the result comes from there.
        train: from sample().
        validation: from sample(), of other items.
        config: how.

    Raises:
        TrainingDiverged, ConfigError: as contrastive.refine().
        WorkerLost: the process died; what it has said is on standard error.
    """
    files.delete(f"{folder}/{RESULT}")
    parts = {f"{name}_{field}": part for name, pairs in (("train", train), ("validation", validation))
             for field, part in pairs._asdict().items()}  # fmt: skip
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **parts)
    files.write_bytes(f"{folder}/{INPUT}", content.getvalue())
    lost = "the process of the refinement died, see above for what it said"
    try:
        torch_processes.run(spark, work, folder, config.model_dump_json(), folder=folder, lost=lost, gpu=config.gpu)
    finally:
        files.delete(f"{folder}/{INPUT}")
    found = np.load(io.BytesIO(files.read_bytes(f"{folder}/{RESULT}")), allow_pickle=False)
    temperature, epoch = float(found["temperature"]), int(found["epoch"])
    log.info("contrastive refinement: epoch %d of %d is best", epoch, config.epochs)
    return Refined(found["left"], found["right"], temperature, epoch, found["scores"].tolist())


def work(folder: str, config_json: str) -> None:
    """Refine what lies in a folder; the process's function."""
    loaded = np.load(io.BytesIO(files.read_bytes(f"{folder}/{INPUT}")), allow_pickle=False)
    train, validation = (
        Pairs(*(loaded[f"{name}_{field}"] for field in Pairs._fields)) for name in ("train", "validation")
    )
    with torch_processes.report_errors(folder):
        config = ContrastiveConfig.model_validate_json(config_json)
        score = scorer(validation)
        found = contrastive.refine(train, config, lambda a, b: score(a, b).mrr, "cuda" if config.gpu else "cpu")
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **found._asdict())
    files.write_bytes(f"{folder}/{RESULT}", content.getvalue())


class Score(NamedTuple):
    """How well each side of validation pairs finds the other, means of both ways; the greater tuple is better.

    The mean reciprocal rank comes first: with few distinct titles recall@10 is 1 for most options.
    """

    mrr: float
    recall_1: float
    recall_10: float


def scorer(pairs: Pairs) -> Callable[[Float, Float], Score]:
    """Return the function that scores matrices by the pairs."""
    _, left, at_left = np.unique(pairs.left_ids, return_index=True, return_inverse=True)
    _, right, at_right = np.unique(pairs.right_ids, return_index=True, return_inverse=True)
    links = np.unique(np.stack([at_left, at_right], axis=1), axis=0)
    # Of many items a part tells enough.
    links = links[links[:, 0] < _SCORED]
    few, links[:, 1] = np.unique(links[:, 1], return_inverse=True)
    lefts, rights = pairs.left[left[:_SCORED]], pairs.right[right[few]]

    def score(a: Float, b: Float) -> Score:
        x, y = ((side @ matrix).astype(np.float32) for side, matrix in ((lefts, a), (rights, b)))
        figures = retrieval.measure(x, y, links)
        return Score(*(sum(figures[f"{way}/{name}"] for way in retrieval.WAYS) / 2 for name in Score._fields))

    return score
