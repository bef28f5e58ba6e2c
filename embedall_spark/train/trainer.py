"""Training on the driver: slice after slice, each a Spark job that ends in a checkpoint."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from embedall_spark import files
from embedall_spark.corpus import cooccurrence
from embedall_spark.corpus.blocks import BlockSource
from embedall_spark.errors import BadData, ConfigError, TrainingDiverged
from embedall_spark.schemas import NGRAMS
from embedall_spark.train import (
    checkpoint,
    early_stopping,
    methods,
    preflight,
    rotation,
    single_worker,
    slice_job,
    slice_state,
    subwords,
    warm_start,
    window_chunks,
)
from embedall_spark.train import (
    plan as plans,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run
    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.plan import Corpus, Plan
    from embedall_spark.train.shard_io import Manifest

log = logging.getLogger(__name__)


def train(
    run: Run,
    sequences: DataFrame | BlockSource,
    vocabulary: DataFrame,
    folder: str,
    config: TrainConfig,
    evaluate: Callable[[DataFrame], float] | None = None,
) -> DataFrame:
    """Train on sequence blocks and return id, vector, context, norm and count of every token.

    Training resumes from the run's last checkpoint. GloVe trains on the sequences' co-occurrences, the stage
    "cooccurrence". A vocabulary that is too small for ``config.workers`` is trained by fewer, with a warning.

    Args:
        run: where checkpoints and figures go.
        sequences: BLOCKS, or their source.
        vocabulary: VOCABULARY.
        folder: the folder of its parquet files.
        config: the options of training.
        evaluate: returns the figure of ``config.until`` for such vectors.

    Raises:
        BadData: there is nothing to train on.
        ConfigError: the window is too wide for so many workers.
        ResourceError: the cluster lacks slots, memory or disk.
        TrainingDiverged: a shard is not finite or exploded.
        WorkerLost: a worker died or was silent for too long, and so in ``config.retries`` more tries.
    """
    if config.method == "glove":
        sequences = cooccurrence.build(run, sequences, folder, config.window, config.glove.cooccurrence)
    corpus = measure(sequences, vocabulary, config)
    config = _with_workers(config, corpus.vocabulary)
    _check_window(config)
    plan = plans.make_plan(corpus, config, preflight.threads(run.spark, config), preflight.device(run.spark, config))
    preflight.check(run.spark, corpus, config)
    log.info(
        "training: %s %s, vocabulary of %s, %d epochs of %d slice(s) and %d episode(s), %d worker(s) of %s",
        f"{corpus.tokens:,}", methods.of(config).UNIT, f"{corpus.vocabulary:,}", config.epochs, plan.slices,
        plan.episodes, plan.workers, "a GPU" if plan.device == "cuda" else f"{plan.threads} thread(s)",
    )  # fmt: skip
    log.info("training: estimated %s", preflight.describe(preflight.costs(run.spark, corpus, config)))
    if problem := plans.imbalance(corpus, config):
        log.warning("training: %s", problem)
    manifest = checkpoint.latest(run)
    if config.start is not None and (manifest is None or manifest["epoch"] < 0):
        manifest = manifest or warm_start.begin(run, vocabulary, folder, plan.workers, config)
        manifest = _train_new_ids(run, sequences, folder, plan, config, manifest)
    while True:
        epoch, index, current = _next_slice(manifest, plan)
        if manifest is not None and index == 0 and epoch > 0:
            manifest = early_stopping.add_figure(run, manifest, folder, config.until, evaluate)
            if epoch == config.epochs or (config.until and early_stopping.stale(manifest["history"], config.until)):
                break
        run.progress("train", epoch + index / current.slices, config.epochs, _note(manifest, config))
        manifest = _train_slice(run, sequences, folder, current, config, manifest, epoch, index)
    run.progress("train", config.epochs, config.epochs, _note(manifest, config))
    return checkpoint.vectors(run, manifest, folder)


def write_ngrams(run: Run, folder: str, config: TrainConfig, table: str) -> None:
    """Write the vectors of the n-grams of the last checkpoint, after train(), to a table of their own, NGRAMS."""
    manifest = checkpoint.latest(run)
    assert manifest is not None
    rows = subwords.table(run.spark, manifest, folder, config.ngrams, run.id)
    run.write_table(table, rows, NGRAMS, "Vectors of the words' n-grams, for words that have no vector")


def _with_workers(config: TrainConfig, vocabulary: int) -> TrainConfig:
    """Return the options with no more workers than a vocabulary can be divided among; a warning says if they differ."""
    least = 4 * (config.negative + 1 if config.method == "sgns" else 1)
    workers = max(1, min(config.workers, vocabulary // least))
    if workers < config.workers:
        log.warning(
            "train.workers=%d: the vocabulary of %d is too small for more than %d, so that fewer train (each needs %d)",
            config.workers, vocabulary, workers, least,
        )  # fmt: skip
    return config.model_copy(update={"workers": workers})


def _check_window(config: TrainConfig) -> None:
    """Refuse a window that fits in no buffer."""
    max_length = window_chunks.max_length(config.workers, config.window)
    if config.workers > 1 and config.method == "sgns" and max_length < 4 * config.window:
        raise ConfigError(
            f"train.window={config.window} with train.workers={config.workers}: sequences would be cut after "
            f"{max_length} tokens, to keep a task's buffers small; lower one of the two"
        )


def measure(sequences: DataFrame | BlockSource, vocabulary: DataFrame, config: TrainConfig) -> Corpus:
    """Return the sizes that a plan depends on, from two small aggregates over BLOCKS, or for GloVe over CELLS.

    Raises:
        BadData: there is no token to train on.
    """
    tokens, blocks = _size(sequences)
    if not tokens:
        raise BadData(
            "no sequence has two tokens (words, items) of the vocabulary, so there is no window to train on; lower "
            "vocabulary.min_count or give more input"
        )
    if config.method == "glove":
        cells = tokens * (2 if config.glove.cooccurrence.symmetric else 1)
        return plans.Corpus(vocabulary.count(), cells, float(cells), blocks)
    # word2vec's formula, which windows.py applies token by token.
    frequency = F.col("count") / F.col("total")
    keep = F.least(F.lit(1.0), F.sqrt(config.sample / frequency) + config.sample / frequency) if config.sample else 1.0
    counts = vocabulary.agg(F.sum("count").alias("total"), F.count("*").alias("size"))
    # A vertex that no walk visits has count 0.
    visited = vocabulary.where("count > 0").crossJoin(counts)
    occurrences = F.col("count") * keep
    # The path to a token in the Huffman tree has about so many turns.
    turns = F.greatest(F.lit(1.0), -F.log2(frequency))
    most_frequent = F.max_by("token", "count"), F.max(occurrences)
    sums = F.sum(occurrences * turns), F.max("total")
    row = visited.agg(F.max("size"), F.sum(occurrences), *most_frequent, *sums).first()
    assert row is not None
    # Of walks from some vertices, counts are those of walks from all.
    kept, share = float(row[1]), min(1.0, tokens / row[5])
    most = row[2], share * float(row[3])
    return plans.Corpus(int(row[0]), tokens, share * kept, blocks, most, float(row[4]) / max(kept, 1.0))


def _size(sequences: DataFrame | BlockSource) -> tuple[int, int]:
    """Return the numbers of tokens and of blocks."""
    if isinstance(sequences, BlockSource):
        return sequences.tokens, sequences.blocks
    row = sequences.agg(F.sum("count"), F.max("block")).first()
    return (int(row[0] or 0), int(row[1] or 0) + 1) if row else (0, 0)


def _next_slice(manifest: Manifest | None, plan: Plan) -> tuple[int, int, Plan]:
    """Return the epoch and slice to train, and the plan; an epoch ends under the plan with which it began."""
    if manifest is None:
        return 0, 0, plan
    if manifest["index"] + 1 == manifest["slices"]:
        return int(manifest["epoch"]) + 1, 0, plan
    begun = dataclasses.replace(plan, slices=int(manifest["slices"]), episodes=int(manifest["episodes"]))
    return int(manifest["epoch"]), int(manifest["index"]) + 1, begun


def _train_new_ids(
    run: Run,
    sequences: DataFrame | BlockSource,
    vocabulary: str,
    plan: Plan,
    config: TrainConfig,
    manifest: Manifest,
) -> Manifest:
    """Train the ids that the table to start from lacks, if there are any; return the last checkpoint's manifest."""
    options = warm_start.options(config)
    sizes = warm_start.corpus(run, plan.corpus, config)
    first = plans.make_plan(sizes, options, plan.threads, plan.device)
    while True:
        epoch, index, current = _next_slice(manifest, first)
        if epoch == 0:
            return manifest
        run.progress("new ids", index, current.slices)
        manifest = _train_slice(run, sequences, vocabulary, current, options, manifest, epoch, index)


def _train_slice(
    run: Run,
    sequences: DataFrame | BlockSource,
    vocabulary: str,
    plan: Plan,
    config: TrainConfig,
    before: Manifest | None,
    epoch: int,
    index: int,
) -> Manifest:
    """Train a slice and return the manifest of its checkpoint."""
    folder = checkpoint.folder(run, epoch, index)
    method = methods.of(config)
    new_ids = warm_start.stage(run) if epoch == warm_start.NEW_IDS else None
    slice_ = slice_state.Slice(run.id, vocabulary, folder, before, plan, config, epoch, index, new_ids)
    if isinstance(sequences, BlockSource):
        sequences = sequences.select(plan.block_filter(epoch, index, config.seed))
    if new_ids is not None:
        sequences = warm_start.around_new_ids(sequences, new_ids, config)
    job = partial((single_worker if plan.workers == 1 else rotation).run, sequences, slice_)
    reports, wall = slice_job.collect(run, job, slice_)
    diverged = {report["diverged"] for report in reports} - {None}
    if diverged:
        run.check_ownership()
        files.delete(folder)
        raise _divergence(diverged, method.RATE)
    figures = _figures(plan, method.UNIT, before if index else None, reports, wall)
    for name in ("loss", f"{method.UNIT}_per_second"):
        run.metric(name, figures[name], epoch * plan.slices + index + 1)
    return checkpoint.write(run, {
        "folder": folder, "epoch": epoch, "index": index, "slices": plan.slices, "episodes": plan.episodes,
        "workers": plan.workers, "lengths": dict(zip(("inputs", "outputs"), method.saved_lengths(config), strict=True)),
        "vector_size": config.vector_size,
        "vector": config.glove.vector if config.method == "glove" else "input",
        "sample": config.sample, "context": config.context,
        "rows": [report["rows"] for report in reports],
        "inputs": [report["inputs"] for report in reports], "outputs": [report["outputs"] for report in reports],
        **{name: [report[name] for report in reports] for name in ("vectors",) if config.max_n},
        "ngrams": sum(report.get("ngrams", 0) for report in reports),
        "history": before["history"] if before else [], "figures": figures, "reports": reports,
    })  # fmt: skip


def _divergence(reports: set[str], rate: str) -> TrainingDiverged:
    """Return the error for what workers report; ``rate`` is the option that is the learning rate."""
    first = min(reports, key=lambda text: "another" in text)
    return TrainingDiverged(
        f"training diverged at {first}; this slice was not saved. Lower {rate}, or look for a token that "
        "fills whole sequences"
    )


def _figures(
    plan: Plan, unit: str, before: Manifest | None, reports: list[dict[str, Any]], wall: float
) -> dict[str, float]:
    """Return the epoch's figures so far; ``before`` is the epoch's slice before this one."""
    tokens = plan.corpus.tokens / plan.slices
    sums = {name: float(sum(report[name] for report in reports)) for name in ("pairs", "loss", "loss_pairs")}
    if before:
        sums = {name: value + before["figures"]["sums"][name] for name, value in sums.items()}
    return {
        "sums": sums,  # type: ignore[dict-item]
        "loss": sums["loss"] / max(1.0, sums["loss_pairs"]),
        f"{unit}_per_second": tokens / wall,
        "seconds": wall,
    }


def _note(manifest: Manifest | None, config: TrainConfig) -> str:
    if manifest is None or "figures" not in manifest:
        return ""
    figures, unit = manifest["figures"], methods.of(config).UNIT
    return f"loss {figures['loss']:.4f}, {figures[f'{unit}_per_second']:,.0f} {unit}/s"
