"""Contrastive refinement on a sample of pairs, in one process that TorchDistributor starts, with or without a GPU."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pyspark.sql import functions as F

from embedall_spark import devices, files, torch_processes
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import retrieval
from embedall_spark.latent.fit import contrastive
from embedall_spark.latent.fit.contrastive import ContrastiveConfig, Pairs, Refined
from embedall_spark.vectors import dimension, to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.latent.fit.contrastive import Float

log = logging.getLogger(__name__)

MAX_PAIRS = 200_000
MAX_BYTES = 256 << 20  # vectors of both sides
_SCORED = 5_000  # validation items of the left side, at most, that a score takes
INPUT, RESULT = "pairs.npz", "refined.npz"


def sample(left: DataFrame, right: DataFrame, pairs: DataFrame, *, seed: int = 1, limit: int = MAX_PAIRS) -> Pairs:
    """Return a sample of the pairs' latent vectors, on the driver: by a hash, at most ``limit`` pairs and MAX_BYTES.

    The refined matrices have only k x k values each, so that a sample is enough.

    Args:
        left: VECTORS of the latent space.
        right: VECTORS likewise.
        pairs: PAIRS; those without both vectors are left out.
        seed: of the sample.
        limit: 1 to MAX_PAIRS.

    Raises:
        ConfigError: ``limit`` is out of range.
        BadData: no pair has both vectors.
    """
    if not 1 <= limit <= MAX_PAIRS:
        raise ConfigError(f"limit {limit:,}: need 1 to {MAX_PAIRS:,} pairs")
    size = dimension(left)
    rows = limit if size is None else min(limit, MAX_BYTES // (8 * size))
    usable = pairs
    for side, name in ((left, "left"), (right, "right")):
        usable = usable.join(side.select(F.col("id").alias(name)), name, "left_semi")
    place = F.xxhash64(F.lit(seed), "left", "right").alias("place")
    weight = F.coalesce("weight", F.lit(1.0)).alias("weight")
    order = ["place", "left", "right", "weight"]
    # A pair that occurs twice counts twice, but its two rows must come in one order.
    sampled = usable.select("left", "right", weight, place).orderBy(*order).limit(rows)
    for side, name in ((left, "left"), (right, "right")):
        columns = [
            F.col("id").alias(name),
            F.col("vector").alias(f"{name}_vector"),
            F.xxhash64("vector").alias(f"{name}_id"),
        ]
        sampled = sampled.join(side.select(*columns), name)
    table = sampled.toArrow()
    if not len(table):
        raise BadData("no pair has vectors on both sides; nothing can be refined")
    table = table.sort_by([(name, "ascending") for name in order])
    vectors = [to_matrix(table[f"{name}_vector"]) for name in ("left", "right")]
    ids = [table[f"{name}_id"].to_numpy() for name in ("left", "right")]
    return Pairs(vectors[0], vectors[1], ids[0], ids[1], table["weight"].to_numpy())


def refine(spark: SparkSession, folder: str, train: Pairs, validation: Pairs, config: ContrastiveConfig) -> Refined:
    """Run contrastive.refine() in a process of its own, on a worker or beside the driver, and return its result.

    The best matrices are those with the highest mean reciprocal rank, over both directions, on the validation pairs.

    Args:
        spark: the session.
        folder: of the run, shared with the worker; the pairs and the result are exchanged there.
        train: from sample().
        validation: from sample(), of other items.
        config: options of the refinement.

    Raises:
        TrainingDiverged, ConfigError: as contrastive.refine().
        WorkerLost: the process died; its output is on standard error.
    """
    files.delete(f"{folder}/{RESULT}")
    arrays = {f"{name}_{field}": part for name, pairs in (("train", train), ("validation", validation))
              for field, part in pairs._asdict().items()}  # fmt: skip
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    files.write_bytes(f"{folder}/{INPUT}", content.getvalue())
    lost = "the process of the contrastive refinement died; its output is above"
    try:
        torch_processes.run(spark, work, folder, config.model_dump_json(), folder=folder, lost=lost, gpu=config.gpu)
    finally:
        files.delete(f"{folder}/{INPUT}")
    result = np.load(io.BytesIO(files.read_bytes(f"{folder}/{RESULT}")), allow_pickle=False)
    temperature, epoch = float(result["temperature"]), int(result["epoch"])
    log.info("contrastive refinement: epoch %d of %d is the best", epoch, config.epochs)
    return Refined(result["left"], result["right"], temperature, epoch, result["scores"].tolist())


def work(folder: str, config_json: str) -> None:
    """Refine the pairs in a folder and write the result there; runs in the process that refine() starts."""
    loaded = np.load(io.BytesIO(files.read_bytes(f"{folder}/{INPUT}")), allow_pickle=False)
    train, validation = (
        Pairs(*(loaded[f"{name}_{field}"] for field in Pairs._fields)) for name in ("train", "validation")
    )
    with torch_processes.report_errors(folder):
        config = ContrastiveConfig.model_validate_json(config_json)
        score = scorer(validation)
        refined = contrastive.refine(train, config, lambda a, b: score(a, b).mrr, devices.process_device(config.gpu))
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **refined._asdict())
    files.write_bytes(f"{folder}/{RESULT}", content.getvalue())


class Score(NamedTuple):
    """Retrieval figures of validation pairs, means of both directions; the greater tuple is better.

    The mean reciprocal rank comes first: with few distinct titles recall@10 is 1 for most options.
    """

    mrr: float
    recall_1: float
    recall_10: float


def scorer(pairs: Pairs) -> Callable[[Float, Float], Score]:
    """Build the function that scores two matrices [k, k] by the pairs."""
    _, first_left, left_index = np.unique(pairs.left_ids, return_index=True, return_inverse=True)
    _, first_right, right_index = np.unique(pairs.right_ids, return_index=True, return_inverse=True)
    links = np.unique(np.stack([left_index, right_index], axis=1), axis=0)
    # If there are many items, a part of them is enough.
    links = links[links[:, 0] < _SCORED]
    partners, links[:, 1] = np.unique(links[:, 1], return_inverse=True)
    left, right = pairs.left[first_left[:_SCORED]], pairs.right[first_right[partners]]

    def score(a: Float, b: Float) -> Score:
        x, y = ((side @ matrix).astype(np.float32) for side, matrix in ((left, a), (right, b)))
        figures = retrieval.measure(x, y, links)
        return Score(*(sum(figures[f"{way}/{name}"] for way in retrieval.WAYS) / 2 for name in Score._fields))

    return score
