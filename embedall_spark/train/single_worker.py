"""Training with one worker: no shuffle, no process group; windows are drawn as the sequences arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedall_spark import devices
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.train import glove, methods, slice_state, slice_worker, subwords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    from pyspark.sql import DataFrame


def run(sequences: DataFrame, slice_: slice_state.Slice) -> DataFrame:
    """Return the job that trains a slice in one task; REPORT rows."""
    profile = devices.training_profile(sequences.sparkSession, slice_.plan.device)
    return _in_order(sequences, slice_).mapInArrow(_task(slice_), slice_state.REPORT, profile=profile)


def _in_order(sequences: DataFrame, slice_: slice_state.Slice) -> DataFrame:
    """Return the blocks in one partition."""
    if slice_.config.method == "glove":
        return glove.shuffle(sequences, slice_)
    if slice_.plan.threads == 1 and slice_.plan.device == "cpu":
        # Repeatable: the order of the blocks must not depend on Spark's partitions.
        # Blocks in the order of a text have their numbers several times, so that ids decide.
        return sequences.repartition(1).sortWithinPartitions("block", "ids")
    return sequences.coalesce(1)


def _task(slice_: slice_state.Slice) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def train(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stats = slice_state.WorkerStats()
        vocabulary = VocabularyIndex.open(slice_.vocabulary)
        ngrams = subwords.open_index(slice_.vocabulary, slice_.config)
        inputs, outputs, shards = slice_worker.open_model(slice_, vocabulary, 0, ngrams)
        stats.lap("load")
        progress = slice_state.ProgressFile(slice_, 0, stats)
        if slice_.plan.device == "cuda":
            from embedall_spark.train.device import single_worker as on_device

            device, model = devices.training_device(0), (inputs, outputs)
            on_device.train_blocks(
                slice_, vocabulary.counts, shards, *model, _blocks(batches, slice_), stats, progress, device
            )
        else:
            train_block = methods.of(slice_.config).block_trainer(slice_, vocabulary, inputs, outputs, stats, progress)
            stats.lap("prepare")
            slice_worker.for_each(train_block, _blocks(batches, slice_), slice_.plan.threads)
        stats.lap("train")
        slice_worker.check_model(slice_, stats, inputs, outputs, "(0, 0)", 1.0)
        written = {} if stats.diverged else slice_worker.save_model(slice_, 0, inputs, outputs, ngrams)
        stats.lap("checkpoint")
        yield stats.report(0, written)

    return train


def _blocks(batches: Iterable[pa.RecordBatch], slice_: slice_state.Slice) -> Iterator[Any]:
    """Yield the blocks of a slice."""
    config, method = slice_.config, methods.of(slice_.config)
    blocks = (block for batch in batches for block in method.unpack(batch, config))
    for _, block in slice_.plan.select_blocks(blocks, slice_.epoch, slice_.index, config.seed):
        yield block
