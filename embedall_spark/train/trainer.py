"""The driver's side of training: slice after slice, each one Spark job that ends in a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from embedall_spark import files
from embedall_spark.corpus.blocks import BlockSource
from embedall_spark.errors import BadData, ConfigError, TrainingDiverged
from embedall_spark.train import (
    checkpoint,
    plan,
    preflight,
    rotation,
    single_worker,
    slice_worker,
    window_chunks,
    worker_errors,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run
    from embedall_spark.train.config import SkipGram, Until
    from embedall_spark.train.plan import Corpus, Plan
    from embedall_spark.train.shard_io import Saved

log = logging.getLogger(__name__)


def train(
    run: Run,
    sequences: DataFrame | BlockSource,
    vocabulary: DataFrame,
    folder: str,
    config: SkipGram,
    evaluate: Callable[[DataFrame], float] | None = None,
) -> DataFrame:
    """Train on sequence blocks and return id, vector, context, norm and count of every token.

    Goes on from the run's last checkpoint. ``sequences`` are BLOCKS, or make them, ``vocabulary`` is VOCABULARY, whose
    parquet files lie in ``folder``. ``evaluate`` turns such vectors into the figure of ``config.until``.

    Raises:
        BadData: there is nothing to train on.
        ConfigError: the vocabulary is too small, or the window too wide, for so many workers.
        ResourceError: the cluster lacks slots, memory or disk.
        TrainingDiverged: a shard is not finite or exploded.
        WorkerLost: a worker died or was silent for too long.
    """
    corpus = measure(sequences, vocabulary, config)
    _check_sizes(corpus, config)
    made = plan.make(corpus, config, preflight.threads(run.spark, config))
    preflight.check(run.spark, corpus, config)
    log.info(
        "training %s tokens of %s kinds, %d epochs of %d slice(s) and %d episode(s), %d worker(s) of %d thread(s)",
        f"{corpus.tokens:,}", f"{corpus.vocabulary:,}", config.epochs, made.slices, made.episodes, made.workers,
        made.threads,
    )  # fmt: skip
    saved = checkpoint.latest(run)
    while True:
        epoch, index, current = _next(saved, made)
        if saved is not None and index == 0:
            saved = _judge(run, saved, folder, config.until, evaluate)
            if epoch == config.epochs or (config.until and _stale(saved["history"], config.until)):
                break
        run.progress("train", epoch + index / current.slices, config.epochs, _note(saved))
        saved = _slice(run, sequences, folder, current, config, saved, (epoch, index))
    run.progress("train", config.epochs, config.epochs, _note(saved))
    return checkpoint.vectors(run, saved, folder)


def _check_sizes(corpus: Corpus, config: SkipGram) -> None:
    """Refuse numbers of workers that leave a shard without negatives, or a window that fits in no buffer."""
    if config.workers == 1:
        return
    least = 4 * config.workers * (config.negative + 1)
    if corpus.vocabulary < least:
        raise ConfigError(
            f"train.workers={config.workers} needs a vocabulary of {least} or more, found {corpus.vocabulary}: "
            "lower train.workers, or train on more"
        )
    longest = window_chunks.longest(config.workers, config.window)
    if longest < 4 * config.window:
        raise ConfigError(
            f"train.window={config.window} with train.workers={config.workers}: sequences would be cut after {longest} "
            "tokens, to keep a task's buffers small; lower one of the two"
        )


def measure(sequences: DataFrame | BlockSource, vocabulary: DataFrame, config: SkipGram) -> Corpus:
    """Return the sizes that a plan is made from; two small aggregates."""
    tokens, blocks = _size(sequences)
    if not tokens:
        raise BadData(
            "no sequence has two known tokens, so there is no window to train on; check the input and min_count"
        )
    # Kept as by word2vec's formula, which windows.py applies token by token.
    frequency = F.col("count") / F.col("total")
    keep = F.least(F.lit(1.0), F.sqrt(config.sample / frequency) + config.sample / frequency) if config.sample else 1.0
    counts = vocabulary.agg(F.sum("count").alias("total"), F.count("*").alias("size"))
    # A vertex that no walk has met counts 0.
    met = vocabulary.where("count > 0").crossJoin(counts)
    kept = met.agg(F.max("size"), F.sum(F.col("count") * keep)).first()
    assert kept is not None
    return plan.Corpus(int(kept[0]), tokens, float(kept[1]), blocks)


def _size(sequences: DataFrame | BlockSource) -> tuple[int, int]:
    """Return how many tokens and blocks there are."""
    if isinstance(sequences, BlockSource):
        return sequences.tokens, sequences.blocks
    row = sequences.agg(F.sum("count"), F.max("block")).first()
    return (int(row[0] or 0), int(row[1] or 0) + 1) if row else (0, 0)


def _next(saved: Saved | None, made: Plan) -> tuple[int, int, Plan]:
    """Return the epoch and slice to do, and the plan; an epoch that was begun ends under the plan that began it."""
    if saved is None:
        return 0, 0, made
    if saved["index"] + 1 == saved["slices"]:
        return int(saved["epoch"]) + 1, 0, made
    begun = dataclasses.replace(made, slices=int(saved["slices"]), episodes=int(saved["episodes"]))
    return int(saved["epoch"]), int(saved["index"]) + 1, begun


def _slice(
    run: Run,
    sequences: DataFrame | BlockSource,
    vocabulary: str,
    made: Plan,
    config: SkipGram,
    before: Saved | None,
    at: tuple[int, int],
) -> Saved:
    """Train one slice and return its checkpoint."""
    epoch, index = at
    folder = checkpoint.folder(run, epoch, index)
    run.check_ownership()
    files.delete(folder)
    slice_ = slice_worker.Slice(run.id, vocabulary, folder, before, made, config, epoch, index)
    since = time.perf_counter()
    found = (
        sequences.select(made.wanted(epoch, index, config.seed)) if isinstance(sequences, BlockSource) else sequences
    )
    job = (single_worker if made.workers == 1 else rotation).run(found, slice_)
    with worker_errors.translate_worker_errors(epoch, config.timeout):
        rows = job.collect()
    reports = [json.loads(row.report) for row in sorted(rows, key=lambda row: int(row.rank))]
    wall = time.perf_counter() - since
    diverged = {report["diverged"] for report in reports} - {None}
    if diverged:
        run.check_ownership()
        files.delete(folder)
        first = min(diverged, key=lambda text: "another" in text)
        raise TrainingDiverged(
            f"training diverged at {first}; nothing of this slice was kept. Lower train.alpha, or look for a token "
            "that fills whole sequences"
        )
    figures = _figures(made, before if index else None, reports, wall)
    for name in ("loss", "words_per_second"):
        run.metric(name, figures[name], epoch * made.slices + index + 1)
    return checkpoint.write(run, {
        "folder": folder, "epoch": epoch, "index": index, "slices": made.slices, "episodes": made.episodes,
        "workers": made.workers, "dim": config.vector_size, "sample": config.sample, "context": config.context,
        "rows": [report["rows"] for report in reports],
        "inputs": [report["inputs"] for report in reports], "outputs": [report["outputs"] for report in reports],
        "history": before["history"] if before else [], "figures": figures, "reports": reports,
    })  # fmt: skip


def _figures(made: Plan, before: Saved | None, reports: list[dict[str, Any]], wall: float) -> dict[str, float]:
    """Return the epoch's figures so far; ``before`` is the epoch's slice before this one."""
    tokens = made.corpus.tokens / made.slices
    sums = {name: float(sum(report[name] for report in reports)) for name in ("pairs", "loss", "loss_pairs")}
    if before:
        sums = {name: value + before["figures"]["sums"][name] for name, value in sums.items()}
    return {
        "sums": sums,  # type: ignore[dict-item]
        "loss": sums["loss"] / max(1.0, sums["loss_pairs"]),
        "words_per_second": tokens / wall,
        "seconds": wall,
    }


def _judge(
    run: Run, saved: Saved, vocabulary: str, until: Until | None, evaluate: Callable[[DataFrame], float] | None
) -> Saved:
    """Return the checkpoint at an epoch's end with the epoch's figure added to its history."""
    if until is None:
        return saved
    if until.metric == "loss":
        value = -float(saved["figures"]["loss"])
    else:
        assert evaluate is not None
        value = evaluate(checkpoint.vectors(run, saved, vocabulary))
        if math.isnan(value):
            raise BadData(f"train.until.metric: {until.metric} is not a number: none of its file's words is known")
        run.metric(f"until/{until.metric}", value, int(saved["epoch"]) + 1)
    return {**saved, "history": [*saved["history"], value]}


def _stale(history: list[float], until: Until) -> bool:
    """Tell whether the last ``patience`` epochs gained no more than ``min_gain`` over the best before them."""
    if len(history) <= until.patience:
        return False
    return max(history[-until.patience :]) <= max(history[: -until.patience]) + until.min_gain


def _note(saved: Saved | None) -> str:
    if saved is None:
        return ""
    figures = saved["figures"]
    return f"loss {figures['loss']:.4f}, {figures['words_per_second']:,.0f} words/s"
