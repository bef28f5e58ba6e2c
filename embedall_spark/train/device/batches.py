"""Blocks joined to batches of arrays for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from embedall_spark.corpus.blocks import Block
    from embedall_spark.corpus.cooccurrence import Cells

SIZE = 1 << 20
"""Tokens or cells of a batch: work for some milliseconds, of which launches take microseconds."""


class Batch(NamedTuple):
    """Arrays for the device, and how many tokens or cells are in them."""

    arrays: tuple[NDArray[Any], ...]
    number: int
    """Tells the batches of an epoch apart."""
    size: int


def of_blocks(blocks: Iterable[Block], size: int) -> Iterator[Batch]:
    """Join blocks of sequences to batches of at least ``size`` tokens: tokens, offsets and ids, see windows.Tokens."""
    held: list[Block] = []
    for block in blocks:
        held.append(block)
        if sum(len(one.tokens) for one in held) >= size:
            yield _join(held)
            held = []
    if held:
        yield _join(held)


def of_cells(blocks: Iterable[Cells], size: int) -> Iterator[Batch]:
    """Cut blocks of cells to batches of at most ``size`` cells: rows, columns and counts."""
    for cells in blocks:
        for first in range(0, len(cells.counts), size):
            arrays = tuple(
                np.require(array[first : first + size], requirements="W")
                for array in (cells.rows, cells.columns, cells.counts)
            )
            yield Batch(arrays, 0, len(arrays[0]))


def _join(blocks: list[Block]) -> Batch:
    """Return the sequences of blocks as one batch."""
    starts = np.cumsum([0, *(len(block.tokens) for block in blocks)])
    offsets = [block.offsets[:-1] + start for block, start in zip(blocks, starts, strict=False)]
    arrays = (
        np.concatenate([block.tokens for block in blocks]),
        np.concatenate([*offsets, starts[-1:]]),
        np.concatenate([block.ids for block in blocks]),
    )
    return Batch(arrays, blocks[0].number, int(starts[-1]))
