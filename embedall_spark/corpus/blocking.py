"""PAGES or ENCODED to BLOCKS: sequences are cut into pieces of blocks, and a shuffle brings these together.

A sequence's block and its place there depend on its id, never on Spark's partitions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedall_spark import list_offsets
from embedall_spark.corpus import blocks, encoded_pages, packed_ints, vocabulary
from embedall_spark.corpus.blocks import BLOCKS, Block
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.errors import BadData
from embedall_spark.randomness import mix_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.encoded_pages import Batches, Table
    from embedall_spark.run_context import Run

# Sequences of equal ids share a block, which must remain a row that Arrow can hold.
_MAX_TOKENS = 1 << 27


def build(run: Run, pages: DataFrame, tokens: DataFrame) -> DataFrame:
    """Return PAGES as BLOCKS over a VOCABULARY, the run's stage "vocabulary"; itself the stage "blocks"."""
    folder, count = run.stage_path("vocabulary"), blocks.block_count(vocabulary.total_tokens(tokens))
    return run.stage("blocks", lambda: from_pages(pages, folder, count))


def build_in_order(run: Run, pages: DataFrame) -> DataFrame:
    """Return PAGES as BLOCKS of consecutive sequences, without a shuffle, for one worker; the stage "blocks".

    Blocks are numbered within Spark's partitions. One pass over a text learns more in its order than in a random one.
    """
    folder = run.stage_path("vocabulary")
    columns = pages.select("ids", "lengths", "codes", "tokens", "token_lengths")
    return run.stage("blocks", lambda: columns.mapInArrow(_cut_in_order(folder), BLOCKS))


def from_pages(pages: DataFrame, vocabulary_folder: str, number: int) -> DataFrame:
    """Return PAGES as at most ``number`` BLOCKS over the VOCABULARY in a folder.

    Tokens outside of the vocabulary are dropped, and then sequences of fewer than two tokens, which have no window.
    """
    pieces = pages.select("ids", "lengths", "codes", "tokens", "token_lengths").mapInArrow(
        _cut_pages(vocabulary_folder, number), BLOCKS
    )
    return _assemble(pieces)


def from_encoded(encoded: DataFrame, number: int) -> DataFrame:
    """Return ENCODED as at most ``number`` BLOCKS; sequences of fewer than two tokens are dropped."""
    return _assemble(encoded.select("id", "tokens").mapInArrow(_cut_encoded(number), BLOCKS))


def _cut_pages(folder: str, number: int) -> Table:
    def pieces(batches: Batches) -> Batches:
        index = VocabularyIndex.open(folder)
        for batch in batches:
            for page in encoded_pages.read(batch):
                tokens, lengths = vocabulary.encode_page(page, index)
                yield _cut(page.ids, list_offsets.from_lengths(lengths), tokens, number)

    return pieces


def _cut_in_order(folder: str) -> Table:
    def consecutive(batches: Batches) -> Iterator[Block]:
        index, number = VocabularyIndex.open(folder), 0
        for page in (page for batch in batches for page in encoded_pages.read(batch)):
            tokens, lengths = vocabulary.encode_page(page, index)
            encoded = Block(-1, page.ids, list_offsets.from_lengths(lengths), tokens)
            sequences = blocks.take(encoded, np.flatnonzero(lengths > 1))
            bounds = list_offsets.from_runs(sequences.offsets[:-1] // blocks.MIN_SIZE)
            for start, stop in pairwise(bounds.tolist()):
                yield blocks.take(sequences, np.arange(start, stop))._replace(number=number)
                number += 1

    return lambda batches: blocks.pack(consecutive(batches))


def _cut_encoded(number: int) -> Table:
    def pieces(batches: Batches) -> Batches:
        for batch in batches:
            lists = batch.column("tokens")
            offsets = list_offsets.from_lengths(lists.value_lengths().to_numpy(zero_copy_only=False))
            yield _cut(batch.column("id").to_numpy(), offsets, lists.flatten().to_numpy(), number)

    return pieces


def _cut(ids: NDArray[np.int64], offsets: NDArray[np.int64], tokens: NDArray[np.int32], number: int) -> pa.RecordBatch:
    """Return sequences as pieces of the blocks that they belong to, in rows of BLOCKS."""
    rows = np.flatnonzero(np.diff(offsets) > 1)
    numbers = (mix_arrays(ids[rows]).view(np.uint64) % np.uint64(number)).astype(np.int32)
    order = np.argsort(numbers, kind="stable")
    numbers, ordered = numbers[order], blocks.take(Block(-1, ids, offsets, tokens), rows[order])
    # A piece may be a single sequence, so that nothing is done for each of them here.
    bounds = list_offsets.from_runs(numbers)
    ends = ordered.offsets[bounds]
    columns = [
        pa.array(numbers[bounds[:-1]]),
        packed_ints.binary_array(ordered.ids, 8 * bounds),
        packed_ints.pack_parts(np.diff(ordered.offsets), bounds),
        packed_ints.pack_parts(ordered.tokens, ends),
        pa.array(np.diff(ends)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=blocks.ARROW)


def _assemble(pieces: DataFrame) -> DataFrame:
    # The pieces of a block come into one partition also where adaptive execution merges partitions.
    return pieces.repartition("block").sortWithinPartitions("block").mapInArrow(_merge_runs, BLOCKS)


def _merge_runs(batches: Batches) -> Batches:
    return blocks.pack(_whole_blocks(piece for batch in batches for piece in _joined_pieces(batch)))


def _joined_pieces(batch: pa.RecordBatch) -> Iterator[Block]:
    """Yield the pieces in rows of BLOCKS, those of one block that follow each other as one."""
    numbers = batch.column("block").to_numpy()
    ids, places = packed_ints.row_bytes(batch.column("ids"))
    lengths, sequences = packed_ints.unpack_parts(batch.column("lengths"))
    tokens, ends = packed_ints.unpack_parts(batch.column("tokens"))
    for start, stop in pairwise(list_offsets.from_runs(numbers).tolist()):
        first, last = sequences[start], sequences[stop]
        yield Block(
            number=int(numbers[start]),
            ids=ids[places[start] : places[stop]].view(np.int64),
            offsets=list_offsets.from_lengths(lengths[first:last]),
            tokens=tokens[ends[start] : ends[stop]],
        )


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
        list_offsets.from_lengths(np.concatenate([np.diff(piece.offsets) for piece in pieces])),
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
    merged = blocks.take(joined, order)
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
