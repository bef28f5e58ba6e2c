"""BLOCKS: encoded sequences in rows of thousands, the unit of windows and training.

A sequence's block and its place there depend on its id, never on Spark's partitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import list_offsets
from embedall_spark.corpus import packed_ints, sequence_kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    BlockFilter = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
    """Tells for numbers of blocks, int64 [n], which of them to take."""

BLOCKS = T.StructType(
    [
        T.StructField("block", T.IntegerType(), False, {"comment": "number of the block"}),
        T.StructField("ids", T.BinaryType(), False, {"comment": "ids of its sequences, int64"}),
        T.StructField("lengths", T.BinaryType(), False, {"comment": "tokens in each sequence, packed"}),
        T.StructField("tokens", T.BinaryType(), False, {"comment": "ids in VOCABULARY, in order, packed"}),
        T.StructField("count", T.LongType(), False, {"comment": "tokens in the block"}),
    ]
)
ARROW = pa.schema(
    [
        pa.field("block", pa.int32()),
        pa.field("ids", pa.binary()),
        pa.field("lengths", pa.binary()),
        pa.field("tokens", pa.binary()),
        pa.field("count", pa.int64()),
    ]
)
_BATCH_BYTES = 8 << 20
# Tokens in a block, and numbers of blocks: see block_count().
MIN_SIZE, _USUAL_SIZE, _MAX_SIZE = 1 << 14, 1 << 16, 1 << 18
_FEW, _MANY = 64, 4096


class Block(NamedTuple):
    """One block of sequences, or a piece of one; its arrays are writable."""

    number: int
    ids: NDArray[np.int64]
    """Ids of the sequences, int64 [n]."""
    offsets: NDArray[np.int64]
    """Where each sequence begins in ``tokens``, and where the last one ends, int64 [n + 1]."""
    tokens: NDArray[np.int32]
    """Ids in VOCABULARY, int32 [m]."""


class BlockSource(NamedTuple):
    """Blocks that are computed again for each slice of the training and stored nowhere."""

    tokens: int
    """Tokens in all blocks together."""
    blocks: int
    """How many blocks there are; they are numbered from 0."""
    select: Callable[[BlockFilter], DataFrame]
    """Returns the BLOCKS whose numbers pass a filter; the same rows at every call."""


def block_count(total_tokens: int) -> int:
    """Return the number of blocks of a corpus, which depends on its number of tokens alone.

    A block has 2**16 tokens on average. Small corpora have smaller blocks (down to 2**14), so that there are 64 of them
    to distribute; large ones have larger blocks (up to 2**18), so that a page is not cut into single sequences.
    """
    at_most, at_least = max(1, total_tokens // MIN_SIZE), -(-total_tokens // _MAX_SIZE)
    return min(at_most, max(_FEW, at_least, min(_MANY, total_tokens // _USUAL_SIZE)))


def total_size(blocks: DataFrame) -> tuple[int, int]:
    """Return the numbers of tokens and of sequences in BLOCKS."""
    row = blocks.agg(F.sum("count"), F.sum(F.octet_length("ids") / F.lit(8))).first()
    return (int(row[0] or 0), int(row[1] or 0)) if row else (0, 0)


def unpack(batch: pa.RecordBatch) -> Iterator[Block]:
    """Yield the blocks in a batch of BLOCKS."""
    for row in range(batch.num_rows):
        ids, lengths, tokens = (batch.column(name)[row].as_buffer() for name in ("ids", "lengths", "tokens"))
        yield Block(
            number=batch.column("block")[row].as_py(),
            ids=np.frombuffer(ids, np.int64).copy(),
            offsets=list_offsets.from_lengths(packed_ints.unpack(lengths)),
            tokens=packed_ints.unpack(tokens),
        )


def take(block: Block, order: NDArray[np.integer]) -> Block:
    """Return the sequences in the rows ``order``, in that order."""
    offsets = list_offsets.from_lengths(np.diff(block.offsets)[order])
    tokens = np.empty(offsets[-1], np.int32)
    sequence_kernels.take(block.tokens, block.offsets, order.astype(np.int64), offsets, tokens)
    return Block(block.number, block.ids[order], offsets, tokens)


def pack(blocks: Iterator[Block]) -> Iterator[pa.RecordBatch]:
    """Yield blocks as batches of BLOCKS of about 8 MiB."""
    buffer: list[Block] = []
    size = 0
    for block in blocks:
        buffer.append(block)
        size += block.tokens.nbytes + block.ids.nbytes
        if size >= _BATCH_BYTES:
            yield _batch(buffer)
            buffer, size = [], 0
    if buffer:
        yield _batch(buffer)


def _batch(blocks: list[Block]) -> pa.RecordBatch:
    columns = [
        pa.array([block.number for block in blocks], pa.int32()),
        pa.array([block.ids.tobytes() for block in blocks], pa.binary()),
        pa.array([packed_ints.pack(block.offsets[1:] - block.offsets[:-1]) for block in blocks], pa.binary()),
        pa.array([packed_ints.pack(block.tokens) for block in blocks], pa.binary()),
        pa.array([len(block.tokens) for block in blocks], pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ARROW)
