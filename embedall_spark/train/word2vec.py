"""word2vec as a method of the trainer: what a worker does with blocks of sequences, or with chunks of windows."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embedall_spark import randomness
from embedall_spark.corpus import blocks, windows
from embedall_spark.corpus.ngrams import NO_NGRAMS
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.train import aligned_rows, huffman, plan, sgns, shard_io, subwords, window_chunks, word2vec_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from torch import Tensor

    from embedall_spark.corpus.blocks import Block
    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.slice_state import ProgressFile, Slice, WorkerStats

    Matrix = TypeVar("Matrix", NDArray[np.float32], Tensor)

UNIT, RATE = "words", "train.alpha"
# Ints of windows drawn at a time: few enough to stay in a core's cache until the kernel has used them.
_BUFFER = 1 << 17
# Consecutive groups share negatives until so many pairs have used them; measured to cost no quality.
_SHARE = 6
# Contexts that share negatives where words have n-grams: measured to cost no quality, while 32 do.
_NGRAM_BATCH = 3
# What the random rows of n-grams are drawn by, which no token has as its id.
_FIRST_NGRAM = 1 << 40


def saved_lengths(config: TrainConfig) -> tuple[int, int]:
    """Return the floats of rows in a checkpoint: a vector; of outputs also an inner node's, where there are both."""
    both = config.hs and config.negative
    return config.vector_size, 2 * aligned_rows.padded_length(config.vector_size) if both else config.vector_size


def initial_rows(
    ids: NDArray[np.int64], config: TrainConfig, buckets: NDArray[np.int32] = NO_NGRAMS.buckets
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return untrained input and output rows, float32 [n, padded length]: uniform in ±0.5 / dimension, and zeros."""
    input_ids = np.concatenate([ids, _FIRST_NGRAM + buckets.astype(np.int64)])
    inputs = shard_io.random_rows(input_ids, config.vector_size, config.vector_size, config.seed)
    return inputs, aligned_rows.zeros(len(ids), aligned_rows.padded_length(saved_lengths(config)[1]))


def start_inputs(
    vectors: NDArray[np.float32], contexts: NDArray[np.float32], config: TrainConfig
) -> NDArray[np.float32]:
    """Return the input vectors of a table, which are its vectors."""
    return vectors


def start_columns(config: TrainConfig) -> NDArray[np.int64]:
    """Return the columns of a row that a start from a table gives: all but the padding."""
    return np.arange(config.vector_size)


def weights(rows: Matrix, config: TrainConfig) -> Matrix:
    """Return the part of rows that must stay small: all of it."""
    return rows


def unpack(batch: pa.RecordBatch, config: TrainConfig) -> Iterator[Block]:
    """Yield the blocks in a batch."""
    return blocks.unpack(batch)


def streams(sequences: DataFrame, slice_: Slice) -> DataFrame:
    """Return the chunks of a slice's windows, each at the worker that has its input rows."""
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
    config, kernel = slice_.config, _kernel(slice_, vocabulary)
    windower = window_chunks.make_windower(vocabulary, config, slice_.epoch, 1)
    size = int(np.clip(16 * vocabulary.size, 1 << 20, 1 << 22))
    keys = (config.seed, slice_.epoch, slice_.index)
    table = aligned_rows.recurring_negatives(vocabulary.counts, config.ns_exponent, size, inputs.shape[1], *keys)
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
            cursor = randomness.mix(config.seed, slice_.epoch, block.number, first) % len(table)
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
) -> Callable[[int, NDArray[np.int32], float], tuple[int, float, float]]:
    """Return the function that trains two shards on one chunk of windows; safe to call from several threads.

    Args:
        slice_: the part of the training.
        counts: counts of the tokens of the part of the outputs, int64 [n].
        ints: the ints of all chunks.
        key: episode, and number of the part of the outputs.
        inputs: rows of the input shard.
        outputs: rows of the part.

    It is called with the number of a chunk, its content, and the share of the whole training that is done; it returns
    the pairs trained on, the summed loss of a sample of them, and the size of this sample in pairs.
    """
    config = slice_.config
    if config.hs:
        return _path_trainer(slice_, key[1], inputs, outputs)
    kernel = sgns.kernel(inputs.shape[1], config.negative, _batch_size(config))
    share = min(_SHARE, _batch_size(config))
    # A group has at least three ints and shares its negatives: a table of this size is used about once.
    size = int(np.clip(ints * config.negative // share, 1 << 14, 1 << 22))
    keys = (config.seed, slice_.epoch, *key)
    table = aligned_rows.recurring_negatives(counts, config.ns_exponent, size, inputs.shape[1], *keys)

    def train(number: int, stream: NDArray[np.int32], progress: float) -> tuple[int, float, float]:
        rate = plan.learning_rate(config, progress)
        cursor = randomness.mix(config.seed, slice_.epoch, *key, number) % len(table)
        return kernel(stream, 0, len(stream), inputs, outputs, table, cursor, rate, share)[1:]

    return train


def _path_trainer(
    slice_: Slice, part: int, inputs: NDArray[np.float32], outputs: NDArray[np.float32]
) -> Callable[[int, NDArray[np.int32], float], tuple[int, float, float]]:
    """Return the function that trains on a chunk by hierarchical softmax, with the inner nodes of one part alone.

    A chunk has centers, which are rows of inputs, and contexts as vocabulary ids; it is trained on with every part.
    """
    config, workers = slice_.config, slice_.plan.workers
    vocabulary = VocabularyIndex.open(slice_.vocabulary)
    shards = plan.output_shards(vocabulary.counts, workers, config, vocabulary.folder)
    paths = tuple(huffman.select(_paths(slice_.vocabulary), shards.shard, shards.local, plan.PARTS, part))
    kernel = word2vec_kernel.kernel(inputs.shape[1], 0, cbow=False, mean=True, hs=True, ngrams=False)
    nothing = np.zeros(0, np.int32)
    parts = workers * plan.PARTS

    def train(number: int, stream: NDArray[np.int32], progress: float) -> tuple[int, float, float]:
        rate = plan.learning_rate(config, progress)
        arguments = (stream, 0, len(stream), inputs, outputs, nothing, 0, rate, slice_.plan.threads)
        pairs, loss, sampled = kernel(*arguments, paths, tuple(NO_NGRAMS[:2]))[1:]
        # Pairs are counted once, and their losses are sums over the nodes of all parts.
        return pairs if part == 0 else 0, loss, sampled / parts

    return train


@lru_cache(maxsize=1)
def _paths(folder: str) -> huffman.Paths:
    return huffman.paths(VocabularyIndex.open(folder).counts)


def _batch_size(config: TrainConfig) -> int:
    """Return the contexts of a window that are trained on together."""
    return config.batch_size or sgns.MAX_CONTEXTS


def _kernel(slice_: Slice, vocabulary: VocabularyIndex) -> Callable[..., Any]:
    """Return the kernel of the configured variant, called as sgns.kernel()'s."""
    config = slice_.config
    dim = aligned_rows.padded_length(config.vector_size)
    if config.sg and not config.hs and not config.max_n:
        return sgns.kernel(dim, config.negative, _batch_size(config))
    paths = tuple(huffman.paths(vocabulary.counts) if config.hs else huffman.NO_PATHS)
    offsets, rows, _ = subwords.open_index(slice_.vocabulary, config)
    kernel = word2vec_kernel.kernel(
        dim, config.negative, cbow=not config.sg, mean=bool(config.cbow_mean), hs=bool(config.hs),
        ngrams=config.max_n > 0, batch_size=config.batch_size or (_NGRAM_BATCH if config.max_n else 1),
    )  # fmt: skip

    def train(*arguments: Any) -> tuple[int, int, float, int]:
        return kernel(*arguments[:-1], slice_.plan.threads, paths, (offsets, rows))

    return train
