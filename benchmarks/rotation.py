"""Block rotation: what W workers cost, part by part, and whether they keep the quality of one.

W = 1, 2, 4 and 8 train on the same sequence blocks in turns, each round with another seed, in one session with as many
slots as workers, beside the bare kernel on the same windows.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

import common
import numpy as np

from embedall_spark import config as configs
from embedall_spark import session
from embedall_spark.corpus import blocking, blocks, encoded_pages, vocabulary
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.kinds import words
from embedall_spark.train import aligned_rows, plan, sgns, trainer, window_chunks, word2vec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.kinds.words import Config
    from embedall_spark.train.config import TrainConfig

    Facts = dict[str, Any]

GOALS = {f"analogy_w{workers}_minus_w1": -0.01 for workers in (2, 4, 8)}
# What is not the kernel: drawing windows where W = 1, reading them where it is more, and Python around them.
QUICK_GOALS = {"training_over_kernel_w1": 0.5, "training_over_kernel_w2": 0.5}
QUICK_TOKENS, QUICK_EPOCHS = 300_000, 2
WORKERS, QUICK_WORKERS = [1, 2, 4, 8], [1, 2]
CORES = os.cpu_count() or 1
# The bare kernel sees so many tokens, in memory, and so often.
KERNEL_TOKENS, KERNEL_PASSES = 2_000_000, 3


class Corpus(NamedTuple):
    """The stages that all runs share."""

    sequences: DataFrame
    """BLOCKS."""
    vocabulary: DataFrame
    folder: str
    """Where the vocabulary's files are."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each number of workers, each with another seed")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="numbers of workers to compare")
    options = parser.parse_args(arguments)
    ratios: dict[str, float] = {}
    # The sets that measure quality are in gensim's package.
    if not common.absent("gensim"):
        with tempfile.TemporaryDirectory(prefix="embedall-rotation-") as work:
            lines = common.corpus(options.corpus, options.tokens or (QUICK_TOKENS if options.quick else None), work)
            if lines is not None:
                if not options.quick:
                    common.announce(40)
                ratios = measure(lines, Path(work), options)
    print(common.result("rotation", ratios, QUICK_GOALS if options.quick else GOALS))


def measure(lines: Path, work: Path, options: Any) -> dict[str, float]:
    """Return the ratios of W workers to one and to the bare kernel."""
    epochs, rounds, sizes = options.epochs, options.rounds, options.workers
    if options.quick:
        epochs, rounds, sizes = QUICK_EPOCHS, 1, QUICK_WORKERS
    values = {"input": {"path": str(lines)}, "output": {"table": str(work / "words")}, "train": {"epochs": epochs}}
    config = configs.parse(words.Config, values)
    corpus = stages(work, config, max(sizes))
    runs: dict[int, list[Facts]] = defaultdict(list)
    for turn in range(rounds):
        for workers in sizes:
            # As many threads as there are cores, however they are shared out.
            update = {"workers": workers, "threads": max(1, CORES // workers), "seed": config.train.seed + turn}
            chosen = config.train.model_copy(update=update)
            run = common.open_run(session.get("rotation"), work, f"w{workers}-{turn}", config)
            vectors = trainer.train(run, *corpus, chosen)
            facts = parts(run.folder) | windows_job(corpus, chosen) | bare(corpus, chosen)
            if not options.quick:
                facts |= quality(vectors)
            common.say(f"W={workers}, {chosen.threads} thread(s) each", **facts)
            runs[workers].append(facts)
    return compare(runs)


def stages(work: Path, config: Config, slots: int) -> Corpus:
    """Return the corpus, read, counted and encoded once."""
    spark = session.get("rotation", master=f"local[{slots}]")
    run = common.open_run(spark, work, "stages", config)
    pages = run.stage("pages", lambda: encoded_pages.from_documents(words.read(spark, config), config.tokens))
    counted = vocabulary.build(run, pages, config.vocabulary)
    folder, number = run.stage_path("vocabulary"), blocks.block_count(vocabulary.total_tokens(counted))
    return Corpus(run.stage("blocks", lambda: blocking.from_pages(pages, folder, number)), counted, folder)


def parts(folder: str) -> Facts:
    """Return where an epoch's time went, seconds and bytes of a worker on average, from the last epochs' reports."""
    # A run's first epoch starts Python workers and loads kernels.
    warm = [saved for saved in common.checkpoints(folder) if saved["epoch"] > 0]
    reports = [report for saved in warm for report in saved["reports"]]
    names = dict.fromkeys(part for report in reports for part in report["seconds"])
    seconds = {part: round(fmean(report["seconds"].get(part, 0.0) for report in reports), 3) for part in names}
    tokens = fmean(saved["figures"]["words_per_second"] * saved["figures"]["seconds"] for saved in warm)
    return {
        "job_seconds": fmean(saved["figures"]["seconds"] for saved in warm),
        "parts": seconds,
        "words_per_second": fmean(saved["figures"]["words_per_second"] for saved in warm),
        "training_words_per_second": tokens / seconds["train"],
        **{name: fmean(report[name] for report in reports) for name in ("sent_bytes", "spool_bytes", "peak_rss_bytes")},
    }


def windows_job(corpus: Corpus, config: TrainConfig) -> Facts:
    """Return how long windows and their shuffle take alone, in seconds; with one worker there is no such job."""
    if config.workers == 1:
        return {}
    sizes = trainer.measure(corpus.sequences, corpus.vocabulary, config)
    slice_plan = plan.make_plan(sizes, config, config.threads or 1)
    since = time.perf_counter()
    for index in range(slice_plan.slices):
        chunks = window_chunks.streams(corpus.sequences, corpus.folder, slice_plan, config, 0, index)
        chunks.write.format("noop").mode("overwrite").save()
    return {"windows_and_shuffle_seconds": time.perf_counter() - since}


def bare(corpus: Corpus, config: TrainConfig) -> Facts:
    """Return tokens per second of drawing windows (one core) and of the kernel (all cores), in this process."""
    lookup, workers = VocabularyIndex.open(corpus.folder), config.workers
    tokens, _ = blocks.total_size(corpus.sequences)
    sample = corpus.sequences.limit(max(1, corpus.sequences.count() * KERNEL_TOKENS // max(tokens, KERNEL_TOKENS)))
    sample_blocks = [block for batch in sample.toArrow().to_batches() for block in blocks.unpack(batch)]
    source = window_chunks.make_windower(lookup, config, 0, workers)
    lanes, draws = draw(source, sample_blocks)
    inputs = [word2vec.initial_rows(source.shards.ids(shard), config)[0] for shard in range(workers)]
    # One worker's outputs are one part, those of several have two each.
    parts = [source.shards.part_ids(part) if workers > 1 else slice(None) for part in range(workers * source.parts)]
    outputs = [word2vec.initial_rows(np.arange(lookup.size)[ids], config)[1] for ids in parts]
    tables = [
        aligned_rows.negative_table(lookup.counts[ids], config.ns_exponent, 1 << 20, config.seed, part)
        for part, ids in enumerate(parts)
    ]
    compiled = sgns.kernel(aligned_rows.padded_length(config.vector_size), config.negative)
    share = 1 if workers == 1 else word2vec._SHARE

    def train(lane: list[tuple[int, NDArray[np.int32]]]) -> None:
        for at, (key, stream) in enumerate(lane):
            worker, part = source.destination(key)
            model = inputs[worker], outputs[part], tables[part]
            compiled(stream, 0, len(stream), *model, at, np.float32(0.02), share)

    seconds = []
    with ThreadPoolExecutor(CORES) as pool:
        for _ in range(1 + KERNEL_PASSES):
            since = time.perf_counter()
            list(pool.map(train, lanes))
            seconds.append(time.perf_counter() - since)
    size = sum(len(block.tokens) for block in sample_blocks)
    return {"windows_words_per_second": size / draws, "kernel_words_per_second": size / median(seconds[1:])}


def draw(
    source: window_chunks.Windower, sample_blocks: Sequence[blocks.Block]
) -> tuple[list[list[tuple[int, NDArray[np.int32]]]], float]:
    """Return (stream, windows) chunks in lanes that run side by side, as the trainer's threads do; and the seconds."""
    buffers, fill = source.buffers()
    chunks: list[tuple[int, NDArray[np.int32]]] = []
    source.draw(sample_blocks[0], 0, buffers, fill)
    fill[:] = 0
    since = time.perf_counter()
    for block in map(source.prepare, sample_blocks):
        first = 0
        while first < len(block.ids):
            first = source.draw(block, first, buffers, fill)
            chunks += [(int(key), buffers[key, : fill[key]].copy()) for key in np.flatnonzero(fill)]
            fill[:] = 0
    seconds = time.perf_counter() - since
    workers = source.workers
    if workers == 1:
        return [chunks[lane::CORES] for lane in range(CORES)], seconds
    # Worker i goes through the parts of the outputs from its own on.
    ways = [[] for _ in range(workers)]
    for key, stream in chunks:
        worker, part = source.destination(key)
        ways[worker].append(((part - source.parts * worker) % (workers * source.parts), key, stream))
    return [[(key, stream) for _, key, stream in sorted(way, key=lambda one: one[0])] for way in ways], seconds


def quality(vectors: DataFrame) -> Facts:
    """Return what the vectors score."""
    table = vectors.select("id", "vector", "count").toArrow().sort_by([("count", "descending"), ("id", "ascending")])
    return {**common.quality(table["id"].to_pylist(), common.matrix(table["vector"]))}


def compare(runs: Mapping[int, Sequence[Facts]]) -> dict[str, float]:
    """Return rates of W workers against one worker's and the kernel's by medians, and quality by means."""
    ratios: dict[str, float] = {}

    def middle(workers: int, key: str) -> float:
        return median(float(facts[key]) for facts in runs[workers])

    def mean(workers: int, key: str) -> float:
        return fmean(float(facts[key]) for facts in runs[workers])

    # How far apart two runs of one worker are that differ by the seed alone.
    if "analogy" in runs[1][0] and len(runs[1]) > 1:
        ratios["analogy_w1_deviation"] = stdev(facts["analogy"] for facts in runs[1])
    for workers in runs:
        training = middle(workers, "training_words_per_second")
        ratios[f"training_over_kernel_w{workers}"] = training / middle(workers, "kernel_words_per_second")
        if workers > 1:
            ratios[f"speed_w{workers}_over_w1"] = middle(workers, "words_per_second") / middle(1, "words_per_second")
            for key in ("analogy", "ws353", "simlex"):
                if key in runs[1][0]:
                    ratios[f"{key}_w{workers}_minus_w1"] = mean(workers, key) - mean(1, key)
    return ratios


if __name__ == "__main__":
    main()
