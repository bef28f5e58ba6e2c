"""Blocks joined to batches of arrays for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

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


def of_streams(chunks: Iterable[NDArray[np.int32]]) -> Iterator[Batch]:
    """Add to chunks of windows, see corpus/windows.py, where their groups begin, int32 [groups]."""
    for number, stream in enumerate(chunks):
        starts = np.empty(len(stream) // 3 + 1, np.int32)
        yield Batch((stream, starts[: _find_groups(stream, starts)]), number, 0)


@njit(cache=True)
def _find_groups(stream: NDArray[np.int32], starts: NDArray[np.int32]) -> int:
    """Write where the groups begin, of which each has at least one context; return their number."""
    place = count = 0
    while place < len(stream):
        starts[count] = place
        count += 1
        place += 2 + stream[place + 1]
    return count


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
