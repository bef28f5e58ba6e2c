"""The methods of training: what the trainer, for one worker or several, needs of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from embedall_spark.corpus.ngrams import NO_NGRAMS
from embedall_spark.train import glove, word2vec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from torch import Tensor

    from embedall_spark.corpus.vocabulary_index import VocabularyIndex
    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.slice_state import ProgressFile, Slice, WorkerStats

    Rows = NDArray[np.float32]
    Matrix = TypeVar("Matrix", Rows, Tensor)


class Method(Protocol):
    """A module that offers these functions; word2vec.py describes them."""

    UNIT: str
    """What the training passes over."""
    RATE: str
    """The option that is the learning rate."""

    def saved_lengths(self, config: TrainConfig) -> tuple[int, int]:
        """Return the floats of an input row and of an output row in a checkpoint."""

    def initial_rows(
        self, ids: NDArray[np.int64], config: TrainConfig, buckets: NDArray[np.int32] = NO_NGRAMS.buckets
    ) -> tuple[Rows, Rows]:
        """Return untrained rows of both sides, which depend on (seed, id or bucket) alone.

        Rows of n-grams' buckets, if there are any, follow those of the tokens in the inputs.
        """

    def start_inputs(self, vectors: Rows, contexts: Rows, config: TrainConfig) -> Rows:
        """Return the input vectors that a table's vectors and context vectors stand for."""

    def start_columns(self, config: TrainConfig) -> NDArray[np.int64]:
        """Return the columns of a row that a start from a table gives; the others are first to be trained."""

    def weights(self, rows: Matrix, config: TrainConfig) -> Matrix:
        """Return the part of rows that must stay small."""

    def unpack(self, batch: pa.RecordBatch, config: TrainConfig) -> Iterator[Any]:
        """Yield the blocks in a batch; each has a ``number``."""

    def streams(self, table: DataFrame, slice_: Slice) -> DataFrame:
        """Return a slice's chunks, each in the partition of the worker that trains on it."""

    def block_trainer(
        self,
        slice_: Slice,
        vocabulary: VocabularyIndex,
        inputs: Rows,
        outputs: Rows,
        stats: WorkerStats,
        progress: ProgressFile,
    ) -> Callable[[Any], None]:
        """Return the function that trains the whole model on one block."""

    def chunk_trainer(
        self,
        slice_: Slice,
        counts: NDArray[np.int64],
        ints: int,
        key: tuple[int, int],
        inputs: Rows,
        outputs: Rows,
    ) -> Callable[[int, NDArray[np.int32], float], tuple[int, float, float]]:
        """Return the function that trains two shards on one chunk."""


_METHODS: dict[str, Method] = {"sgns": word2vec, "glove": glove}


def of(config: TrainConfig) -> Method:
    """Return the method that a configuration names."""
    return _METHODS[config.method]
