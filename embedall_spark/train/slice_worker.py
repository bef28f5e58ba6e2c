"""What every worker does around its training loop: load rows, run threads over chunks, save a checkpoint."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from embedall_spark.corpus.ngrams import NO_NGRAMS
from embedall_spark.train import aligned_rows, methods, plan, shard_io, subwords, warm_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from embedall_spark.corpus.ngrams import NgramIndex
    from embedall_spark.corpus.vocabulary_index import VocabularyIndex
    from embedall_spark.train.methods import Matrix
    from embedall_spark.train.plan import Shards
    from embedall_spark.train.slice_state import Slice, WorkerStats


def open_model(
    slice_: Slice, vocabulary: VocabularyIndex, rank: int, ngrams: NgramIndex = NO_NGRAMS
) -> tuple[NDArray[np.float32], NDArray[np.float32], Shards]:
    """Return a worker's input and output rows, and the shards of inputs: from the last checkpoint, or untrained.

    Rows of n-grams follow those of the tokens in the inputs.
    """
    config, workers = slice_.config, slice_.plan.workers

    def shards_of(count: int, matrix: str) -> Shards:
        if matrix == "outputs":
            return plan.output_shards(vocabulary.counts, count, config, vocabulary.folder)
        return plan.shards(vocabulary.counts, count, config.sample, vocabulary.folder)

    shards = shards_of(workers, "inputs")
    if slice_.resume_from is not None:
        return *shard_io.load(slice_.resume_from, rank, workers, shards_of, len(ngrams.buckets)), shards
    inputs, outputs = methods.of(config).initial_rows(shards.ids(rank), config, ngrams.buckets)
    if config.hs:
        # Rows of inner nodes, which begin as zeros.
        outputs = aligned_rows.zeros(len(shards_of(workers, "outputs").ids(rank)), outputs.shape[1])
    return inputs, outputs, shards


def check_model(
    slice_: Slice,
    stats: WorkerStats,
    inputs: Matrix,
    outputs: Matrix,
    block: str,
    share: float,
) -> None:
    """Look at the parts of a worker's rows that must stay small, see WorkerStats.check()."""
    method = methods.of(slice_.config)
    stats.check([method.weights(rows, slice_.config) for rows in (inputs, outputs)], slice_, block, share)


def save_model(
    slice_: Slice,
    rank: int,
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    ngrams: NgramIndex = NO_NGRAMS,
) -> dict[str, Any]:
    """Write a worker's rows into the slice's checkpoint; return the numbers of rows and the files' names."""
    if slice_.new_ids is not None:
        warm_start.put_back(slice_, rank, inputs, outputs)
    lengths = methods.of(slice_.config).saved_lengths(slice_.config)
    written = {
        "rows": len(inputs) - len(ngrams.buckets),
        "inputs": shard_io.save(slice_.folder, f"inputs-{rank}", inputs, lengths[0]),
        "outputs": shard_io.save(slice_.folder, f"outputs-{rank}", outputs, lengths[1]),
    }
    if len(ngrams.buckets):
        subwords.compose(inputs, ngrams)
        written["vectors"] = shard_io.save(slice_.folder, f"vectors-{rank}", inputs[: written["rows"]], lengths[0])
        written["ngrams"] = len(ngrams.buckets)
    return written


def for_each(work: Callable[[Any], None], items: Iterable[Any], threads: int) -> None:
    """Call ``work`` with every item; with one thread in their order, with several concurrently (Hogwild).

    Few items are queued at a time, so that the memory does not depend on the number of items.
    """
    if threads == 1:
        for item in items:
            work(item)
        return
    slots = threading.Semaphore(threads + 2)
    errors: list[BaseException] = []

    def guarded(item: Any) -> None:
        try:
            work(item)
        except BaseException as error:
            errors.append(error)
        finally:
            slots.release()

    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            slots.acquire()
            if errors:
                break
            pool.submit(guarded, item)
    if errors:
        raise errors[0]
