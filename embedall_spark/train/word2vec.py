"""word2vec as a method of the trainer: what a worker does with blocks of sequences, or with chunks of windows."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embedall_spark import randomness
from embedall_spark.corpus import blocks, windows
from embedall_spark.train import aligned_rows, huffman, plan, sgns, shard_io, window_chunks, word2vec_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from torch import Tensor

    from embedall_spark.corpus.blocks import Block
    from embedall_spark.corpus.vocabulary_index import VocabularyIndex
    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.slice_state import ProgressFile, Slice, WorkerStats

    Matrix = TypeVar("Matrix", NDArray[np.float32], Tensor)

UNIT = "words"
# Ints of windows drawn at a time: few enough to stay in a core's cache until the kernel has used them.
_BUFFER = 1 << 17
# Consecutive groups share negatives until so many pairs have used them; measured to cost no quality.
_SHARE = 6


def saved_lengths(config: TrainConfig) -> tuple[int, int]:
    """Return the floats of rows in a checkpoint: a vector; of outputs also an inner node's, where there are both."""
    both = config.hs and config.negative
    return config.vector_size, 2 * aligned_rows.padded_length(config.vector_size) if both else config.vector_size


def initial_rows(ids: NDArray[np.int64], config: TrainConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return untrained input and output rows, float32 [n, padded length]: uniform in ±0.5 / dimension, and zeros."""
    inputs = shard_io.random_rows(ids, config.vector_size, config.vector_size, config.seed)
    return inputs, aligned_rows.zeros(len(ids), aligned_rows.padded_length(saved_lengths(config)[1]))


def weights(rows: Matrix, config: TrainConfig) -> Matrix:
    """Return the part of rows that must stay small: all of it."""
    return rows


def unpack(batch: pa.RecordBatch, config: TrainConfig) -> Iterator[Block]:
    """Yield the blocks in a batch."""
    return blocks.unpack(batch)


def streams(sequences: DataFrame, slice_: Slice) -> DataFrame:
    """Return the chunks of a slice's windows, each at the worker that has its contexts' rows."""
    return window_chunks.streams(sequences, slice_.vocabulary, slice_.plan, slice_.config, slice_.epoch, slice_.index)


def block_trainer(
    slice_: Slice,
    vocabulary: VocabularyIndex,
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    stats: WorkerStats,
    progress: ProgressFile,
) -> Callable[[Block], None]:
    """Return the function that trains the whole model on one block; safe to call from several threads."""
    config, kernel = slice_.config, _kernel(slice_.config, vocabulary)
    windower = window_chunks.make_windower(vocabulary, config, slice_.epoch, 1)
    size = int(np.clip(16 * vocabulary.size, 1 << 20, 1 << 22))
    keys = (config.seed, slice_.epoch, slice_.index)
    table = aligned_rows.negative_table(vocabulary.counts, config.ns_exponent, size, *keys)
    buffers = threading.local()

    def train(block: Block) -> None:
        max_length = int(np.diff(block.offsets).max())
        need = max(_BUFFER, windows.capacity(max_length, min(config.window, max_length)))
        if not hasattr(buffers, "streams") or buffers.streams.shape[1] < need:
            buffers.streams, buffers.fill = windower._replace(capacity=need).buffers()
        stream, fill = buffers.streams, buffers.fill
        first = 0
        while first < len(block.ids):
            fill[:] = 0
            stop = windower.draw(block, first, stream, fill)
            share = min(1.0, stats.tokens / slice_.tokens)
            rate = plan.learning_rate(config, slice_.progress(share))
            cursor = randomness.mix(config.seed, slice_.epoch, block.number, first) % size
            _, *figures = kernel(stream[0], 0, fill[0], inputs, outputs, table, cursor, rate, 1)
            stats.add(int(block.offsets[stop] - block.offsets[first]), *figures)
            progress.update(share)
            first = stop

    return train


def chunk_trainer(
    slice_: Slice,
    counts: NDArray[np.int64],
    ints: int,
    key: tuple[int, int],
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
) -> Callable[[int, NDArray[np.int32], float], tuple[int, float, int]]:
    """Return the function that trains two shards on one chunk of windows; safe to call from several threads.

    Args:
        slice_: the part of the training.
        counts: counts of the output shard's tokens, int64 [n].
        ints: the ints of all chunks.
        key: episode, and number of the output shard.
        inputs: rows of the input shard.
        outputs: rows of the output shard.

    It is called with the number of a chunk, its content, and the share of the whole training that is done; it returns
    the pairs trained on, and the summed loss of a sample of them, and the size of this sample.
    """
    config = slice_.config
    kernel = sgns.kernel(inputs.shape[1], config.negative, _batch_size(config))
    share = min(_SHARE, _batch_size(config))
    # A group has at least three ints and shares its negatives: a table of this size is used about once.
    size = int(np.clip(ints * config.negative // share, 1 << 14, 1 << 22))
    table = aligned_rows.negative_table(counts, config.ns_exponent, size, config.seed, slice_.epoch, *key)

    def train(number: int, stream: NDArray[np.int32], progress: float) -> tuple[int, float, int]:
        rate = plan.learning_rate(config, progress)
        cursor = randomness.mix(config.seed, slice_.epoch, *key, number) % size
        return kernel(stream, 0, len(stream), inputs, outputs, table, cursor, rate, share)[1:]

    return train


def _batch_size(config: TrainConfig) -> int:
    """Return the contexts of a window that are trained on together."""
    return config.batch_size or sgns.MAX_CONTEXTS


def _kernel(config: TrainConfig, vocabulary: VocabularyIndex) -> Callable[..., Any]:
    """Return the kernel of the configured variant, called as sgns.kernel()'s."""
    dim = aligned_rows.padded_length(config.vector_size)
    if config.sg and not config.hs:
        return sgns.kernel(dim, config.negative, _batch_size(config))
    paths = huffman.paths(vocabulary.counts) if config.hs else huffman.NO_PATHS
    kernel = word2vec_kernel.kernel(
        dim, config.negative, cbow=not config.sg, mean=bool(config.cbow_mean), hs=bool(config.hs)
    )

    def train(*arguments: Any) -> tuple[int, int, float, int]:
        return kernel(*arguments, *paths)

    return train
