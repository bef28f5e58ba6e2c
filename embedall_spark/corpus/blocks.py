"""BLOCKS: encoded sequences in rows of thousands, the unit of windows and training.

A sequence's block and its place there depend on its id, never on Spark's partitions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.corpus import encoded_pages, vocabulary
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.errors import BadData
from embedall_spark.randomness import mix_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.encoded_pages import Batches, Table
    from embedall_spark.run_context import Run

    BlockFilter = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
    """Tells for numbers of blocks, int64 [n], which of them to take."""

BLOCKS = T.StructType(
    [
        T.StructField("block", T.IntegerType(), False, {"comment": "number of the block"}),
        T.StructField("ids", T.BinaryType(), False, {"comment": "ids of its sequences, int64"}),
        T.StructField("lengths", T.BinaryType(), False, {"comment": "tokens in each sequence, int32"}),
        T.StructField("tokens", T.BinaryType(), False, {"comment": "ids in VOCABULARY, in order, int32"}),
        T.StructField("count", T.LongType(), False, {"comment": "tokens in the block"}),
    ]
)
_ARROW = pa.schema(
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
_MIN_SIZE, _USUAL_SIZE, _MAX_SIZE = 1 << 14, 1 << 16, 1 << 18
_FEW, _MANY = 64, 4096
# Sequences of equal ids share a block, which must remain a row that Arrow can hold.
_MAX_TOKENS = 1 << 27


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
    at_most, at_least = max(1, total_tokens // _MIN_SIZE), -(-total_tokens // _MAX_SIZE)
    return min(at_most, max(_FEW, at_least, min(_MANY, total_tokens // _USUAL_SIZE)))


def build(run: Run, pages: DataFrame, tokens: DataFrame) -> DataFrame:
    """Return PAGES as BLOCKS over a VOCABULARY, the run's stage "vocabulary"; itself the stage "blocks"."""
    folder, count = run.stage_path("vocabulary"), block_count(vocabulary.total_tokens(tokens))
    return run.stage("blocks", lambda: from_pages(pages, folder, count))


def build_in_order(run: Run, pages: DataFrame) -> DataFrame:
    """Return PAGES as BLOCKS of consecutive sequences, without a shuffle, for one worker; the stage "blocks".

    Blocks are numbered within Spark's partitions. One pass over a text learns more in its order than in a random one.
    """
    folder = run.stage_path("vocabulary")
    columns = pages.select("ids", "lengths", "codes", "tokens", "token_lengths")
    return run.stage("blocks", lambda: columns.mapInArrow(_cut_in_order(folder), BLOCKS))


def from_pages(pages: DataFrame, vocabulary_folder: str, blocks: int) -> DataFrame:
    """Return PAGES as at most ``blocks`` BLOCKS over the VOCABULARY in a folder.

    Tokens outside of the vocabulary are dropped, and then sequences of fewer than two tokens, which have no window.
    """
    pieces = pages.select("ids", "lengths", "codes", "tokens", "token_lengths").mapInArrow(
        _cut_pages(vocabulary_folder, blocks), BLOCKS
    )
    return _assemble(pieces)


def from_encoded(encoded: DataFrame, blocks: int) -> DataFrame:
    """Return ENCODED as at most ``blocks`` BLOCKS; sequences of fewer than two tokens are dropped."""
    return _assemble(encoded.select("id", "tokens").mapInArrow(_cut_encoded(blocks), BLOCKS))


def total_size(blocks: DataFrame) -> tuple[int, int]:
    """Return the numbers of tokens and of sequences in BLOCKS."""
    row = blocks.agg(F.sum("count"), F.sum(F.octet_length("lengths") / F.lit(4))).first()
    return (int(row[0] or 0), int(row[1] or 0)) if row else (0, 0)


def unpack(batch: pa.RecordBatch) -> Iterator[Block]:
    """Yield the blocks in a batch of BLOCKS."""
    for row in range(batch.num_rows):
        ids, lengths, tokens = (batch.column(name)[row].as_buffer() for name in ("ids", "lengths", "tokens"))
        yield Block(
            number=batch.column("block")[row].as_py(),
            ids=np.frombuffer(ids, np.int64).copy(),
            offsets=_offsets(np.frombuffer(lengths, np.int32)),
            tokens=np.frombuffer(tokens, np.int32).copy(),
        )


def _cut_pages(folder: str, blocks: int) -> Table:
    def pieces(batches: Batches) -> Batches:
        index = VocabularyIndex.open(folder)
        for batch in batches:
            for page in encoded_pages.read(batch):
                tokens, lengths = vocabulary.encode_page(page, index)
                yield from pack(_cut(page.ids, _offsets(lengths), tokens, blocks))

    return pieces


def _cut_in_order(folder: str) -> Table:
    def consecutive(batches: Batches) -> Iterator[Block]:
        index, number = VocabularyIndex.open(folder), 0
        for page in (page for batch in batches for page in encoded_pages.read(batch)):
            tokens, lengths = vocabulary.encode_page(page, index)
            sequences = _take(Block(-1, page.ids, _offsets(lengths), tokens), np.flatnonzero(lengths > 1))
            bounds = np.flatnonzero(np.diff(sequences.offsets[:-1] // _MIN_SIZE)) + 1
            for rows in np.split(np.arange(len(sequences.ids)), bounds):
                if len(rows):
                    yield _take(sequences, rows)._replace(number=number)
                    number += 1

    return lambda batches: pack(consecutive(batches))


def _cut_encoded(blocks: int) -> Table:
    def pieces(batches: Batches) -> Batches:
        for batch in batches:
            lists = batch.column("tokens")
            lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
            yield from pack(_cut(batch.column("id").to_numpy(), _offsets(lengths), lists.flatten().to_numpy(), blocks))

    return pieces


def _cut(ids: NDArray[np.int64], offsets: NDArray[np.int64], tokens: NDArray[np.int32], blocks: int) -> Iterator[Block]:
    """Yield sequences as pieces of the blocks that they belong to."""
    rows = np.flatnonzero(np.diff(offsets) > 1)
    numbers = (mix_arrays(ids[rows]).view(np.uint64) % np.uint64(blocks)).astype(np.int32)
    order = np.argsort(numbers, kind="stable")
    rows, numbers = rows[order], numbers[order]
    bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)] if len(numbers) else []
    ordered = _take(Block(-1, ids, offsets, tokens), rows)
    for start, stop in pairwise(bounds):
        first, last = ordered.offsets[start], ordered.offsets[stop]
        part = ordered.offsets[start : stop + 1] - first
        yield Block(int(numbers[start]), ordered.ids[start:stop], part, ordered.tokens[first:last])


def _assemble(pieces: DataFrame) -> DataFrame:
    # The pieces of a block come into one partition also where adaptive execution merges partitions.
    return pieces.repartition("block").sortWithinPartitions("block").mapInArrow(_merge_runs, BLOCKS)


def _merge_runs(batches: Batches) -> Batches:
    return pack(_whole_blocks(piece for batch in batches for piece in unpack(batch)))


def _whole_blocks(pieces: Iterator[Block]) -> Iterator[Block]:
    """Yield blocks, each merged from consecutive pieces; holds one block at a time."""
    run: list[Block] = []
    size = 0
    for piece in pieces:
        if run and run[0].number != piece.number:
            yield _merge(run)
            run, size = [], 0
        run.append(piece)
        size += len(piece.tokens)
        if size > _MAX_TOKENS:
            ids, copies = np.unique(np.concatenate([part.ids for part in run]), return_counts=True)
            raise BadData(
                f"block {piece.number} of the sequences has over {_MAX_TOKENS:,} tokens: the sequence with id "
                f"{ids[copies.argmax()]} occurs at least {copies.max():,} times; remove duplicates from the input"
            )
    if run:
        yield _merge(run)


def _merge(pieces: list[Block]) -> Block:
    """Return the block that pieces make up; its order does not depend on theirs."""
    joined = Block(
        pieces[0].number,
        np.concatenate([piece.ids for piece in pieces]),
        _offsets(np.concatenate([np.diff(piece.offsets) for piece in pieces])),
        np.concatenate([piece.tokens for piece in pieces]),
    )
    lengths = np.diff(joined.offsets)
    order = np.lexsort((lengths, joined.ids))
    same = (np.diff(joined.ids[order]) == 0) & (np.diff(lengths[order]) == 0)
    if same.any():
        # Different documents may have one id: their tokens decide.
        bounds = [0, *(np.flatnonzero(~same) + 1).tolist(), len(order)]
        for start, stop in pairwise(bounds):
            if stop - start > 1:
                order[start:stop] = sorted(order[start:stop], key=lambda row: _token_bytes(joined, row))
    merged = _take(joined, order)
    return merged._replace(ids=_distinct(merged.ids))


def _distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ids in which the second, third, ... copy of an id is hashed with its number.

    Equal documents have equal ids, and would otherwise draw the same windows, one after the other.
    """
    copies = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1) == 0)
    if not len(copies):
        return ids
    first = np.maximum.accumulate(np.where(np.diff(ids, prepend=ids[:1] - 1) != 0, np.arange(len(ids)), 0))
    distinct = ids.copy()
    distinct[copies] = mix_arrays(ids[copies], (copies - first[copies]).astype(np.int64))
    return distinct


def _token_bytes(block: Block, row: int) -> bytes:
    return block.tokens[block.offsets[row] : block.offsets[row + 1]].tobytes()


def _take(block: Block, order: NDArray[np.integer]) -> Block:
    """Return the sequences in the rows ``order``, in that order."""
    starts, lengths = block.offsets[:-1][order], np.diff(block.offsets)[order]
    offsets = _offsets(lengths)
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Block(block.number, block.ids[order], offsets, block.tokens[places])


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
        pa.array([np.diff(block.offsets).astype(np.int32).tobytes() for block in blocks], pa.binary()),
        pa.array([block.tokens.tobytes() for block in blocks], pa.binary()),
        pa.array([len(block.tokens) for block in blocks], pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_ARROW)


def _offsets(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
