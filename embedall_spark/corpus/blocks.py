"""BLOCKS: encoded sequences in rows of thousands, the unit of windows and training.

Which block a sequence belongs to, and its place there, follow from its id, never from Spark's partitions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.corpus import encoded_pages as paging
from embedall_spark.corpus.vocabulary import encode_page
from embedall_spark.corpus.vocabulary_index import Lookup
from embedall_spark.errors import BadData
from embedall_spark.randomness import mix_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.encoded_pages import Batches, Table

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
_SMALLEST, _USUAL, _LARGEST = 1 << 14, 1 << 16, 1 << 18
_FEW, _MANY = 64, 4096
# Equal ids share a block, which must stay a row that Arrow can hold.
_MOST_TOKENS = 1 << 27


class Block(NamedTuple):
    """One block of sequences, or a piece of one; its arrays are writable."""

    number: int
    ids: NDArray[np.int64]
    """Ids of the sequences, int64 [n]."""
    offsets: NDArray[np.int64]
    """Where each sequence begins in ``tokens`` and the last one ends, int64 [n + 1]."""
    tokens: NDArray[np.int32]
    """Ids in VOCABULARY, int32 [m]."""


class BlockSource(NamedTuple):
    """Blocks that are computed again for each slice of the training and stored nowhere."""

    tokens: int
    """Tokens in all blocks together."""
    blocks: int
    """How many blocks there are; they are numbered from 0."""
    select: Callable[[Callable[[NDArray[np.int64]], NDArray[np.bool_]]], DataFrame]
    """Returns the BLOCKS whose numbers pass a filter; the same rows at every call."""


def number(total_tokens: int) -> int:
    """Return into how many blocks a corpus is cut; depends on its tokens alone.

    A block has 2**16 tokens on average; small corpora have smaller blocks (to 2**14), so that there are 64 of them
    to share out, large ones larger (to 2**18), so that a page of them does not fall into single sequences.
    """
    few, many = max(1, total_tokens // _SMALLEST), -(-total_tokens // _LARGEST)
    return min(few, max(_FEW, many, min(_MANY, total_tokens // _USUAL)))


def of_pages(pages: DataFrame, vocabulary_folder: str, blocks: int) -> DataFrame:
    """Return PAGES as BLOCKS over the VOCABULARY in a folder, ``blocks`` of them or fewer.

    Unknown tokens are dropped, and sequences of fewer than two known ones, since they have no window.
    """
    pieces = pages.select("ids", "lengths", "codes", "tokens").mapInArrow(_cut_pages(vocabulary_folder, blocks), BLOCKS)
    return _assemble(pieces)


def of_encoded(encoded: DataFrame, blocks: int) -> DataFrame:
    """Return ENCODED as BLOCKS, ``blocks`` of them or fewer; sequences of fewer than two tokens are dropped."""
    return _assemble(encoded.select("id", "tokens").mapInArrow(_cut_encoded(blocks), BLOCKS))


def total(blocks: DataFrame) -> tuple[int, int]:
    """Return how many tokens and how many sequences are in BLOCKS."""
    row = blocks.agg(F.sum("count"), F.sum(F.octet_length("lengths") / F.lit(4))).first()
    return (int(row[0] or 0), int(row[1] or 0)) if row else (0, 0)


def unpack(batch: pa.RecordBatch) -> Iterator[Block]:
    """Yield the blocks in a batch of BLOCKS."""
    for at in range(batch.num_rows):
        ids, lengths, tokens = (batch.column(name)[at].as_buffer() for name in ("ids", "lengths", "tokens"))
        yield Block(
            number=batch.column("block")[at].as_py(),
            ids=np.frombuffer(ids, np.int64).copy(),
            offsets=_offsets(np.frombuffer(lengths, np.int32)),
            tokens=np.frombuffer(tokens, np.int32).copy(),
        )


def _cut_pages(folder: str, blocks: int) -> Table:
    def pieces(batches: Batches) -> Batches:
        lookup = Lookup.open(folder)
        for batch in batches:
            for page in paging.read(batch):
                tokens, lengths = encode_page(page, lookup)
                yield from pack(_cut(page.ids, _offsets(lengths), tokens, blocks))

    return pieces


def _cut_encoded(blocks: int) -> Table:
    def pieces(batches: Batches) -> Batches:
        for batch in batches:
            lists = batch.column("tokens")
            lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
            yield from pack(_cut(batch.column("id").to_numpy(), _offsets(lengths), lists.flatten().to_numpy(), blocks))

    return pieces


def _cut(ids: NDArray[np.int64], offsets: NDArray[np.int64], tokens: NDArray[np.int32], blocks: int) -> Iterator[Block]:
    """Yield sequences as pieces of the blocks that they belong to."""
    whole = Block(-1, ids, offsets, tokens)
    kept = np.flatnonzero(np.diff(offsets) > 1)
    homes = (mix_arrays(ids[kept]).view(np.uint64) % np.uint64(blocks)).astype(np.int32)
    order = np.argsort(homes, kind="stable")
    kept, homes = kept[order], homes[order]
    edges = [0, *(np.flatnonzero(np.diff(homes)) + 1).tolist(), len(homes)] if len(homes) else []
    moved = _take(whole, kept)
    for start, stop in pairwise(edges):
        first, last = moved.offsets[start], moved.offsets[stop]
        part = moved.offsets[start : stop + 1] - first
        yield Block(int(homes[start]), moved.ids[start:stop], part, moved.tokens[first:last])


def _assemble(pieces: DataFrame) -> DataFrame:
    # Equal blocks land in one partition also where adaptive execution merges partitions.
    return pieces.repartition("block").sortWithinPartitions("block").mapInArrow(_merge_runs, BLOCKS)


def _merge_runs(batches: Batches) -> Batches:
    return pack(_merged(piece for batch in batches for piece in unpack(batch)))


def _merged(pieces: Iterator[Block]) -> Iterator[Block]:
    """Merge neighbouring pieces of one block; holds one block at a time."""
    run: list[Block] = []
    size = 0
    for piece in pieces:
        if run and run[0].number != piece.number:
            yield _merge(run)
            run, size = [], 0
        run.append(piece)
        size += len(piece.tokens)
        if size > _MOST_TOKENS:
            ids, copies = np.unique(np.concatenate([part.ids for part in run]), return_counts=True)
            raise BadData(
                f"block {piece.number} of the sequences has over {_MOST_TOKENS:,} tokens: the sequence with id "
                f"{ids[copies.argmax()]} occurs {copies.max():,} times or more; drop duplicates from the input"
            )
    if run:
        yield _merge(run)


def _merge(pieces: list[Block]) -> Block:
    """Return pieces of one block as a whole, in an order that does not depend on theirs."""
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
        # Two documents may have one id, and then still differ: their tokens decide.
        edges = [0, *(np.flatnonzero(~same) + 1).tolist(), len(order)]
        for start, stop in pairwise(edges):
            if stop - start > 1:
                order[start:stop] = sorted(order[start:stop], key=lambda at: _text(joined, at))
    merged = _take(joined, order)
    return merged._replace(ids=_distinct(merged.ids))


def _distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ids of which the second, third, ... copy of one are hashed with their number.

    Equal documents have equal ids, and would otherwise draw the same windows, one after the other.
    """
    again = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1) == 0)
    if not len(again):
        return ids
    first = np.maximum.accumulate(np.where(np.diff(ids, prepend=ids[:1] - 1) != 0, np.arange(len(ids)), 0))
    found = ids.copy()
    found[again] = mix_arrays(ids[again], (again - first[again]).astype(np.int64))
    return found


def _text(block: Block, at: int) -> bytes:
    return block.tokens[block.offsets[at] : block.offsets[at + 1]].tobytes()


def _take(block: Block, order: NDArray[np.integer]) -> Block:
    """Return the sequences at some places, in that order."""
    starts, lengths = block.offsets[:-1][order], np.diff(block.offsets)[order]
    offsets = _offsets(lengths)
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Block(block.number, block.ids[order], offsets, block.tokens[places])


def pack(blocks: Iterator[Block]) -> Iterator[pa.RecordBatch]:
    """Yield blocks as batches of BLOCKS of some MiB."""
    waiting: list[Block] = []
    size = 0
    for block in blocks:
        waiting.append(block)
        size += block.tokens.nbytes + block.ids.nbytes
        if size >= _BATCH_BYTES:
            yield _batch(waiting)
            waiting, size = [], 0
    if waiting:
        yield _batch(waiting)


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
