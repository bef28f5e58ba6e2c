"""Windows drawn on the device from blocks of tokens; the draws are those of corpus/windows.py, bit by bit.

Only token ids cross from the host, four bytes a token, where a stream of pairs needs eight times as many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from embedall_spark import randomness
from embedall_spark.corpus.windows import keep_thresholds
from embedall_spark.train.device.sgns_kernel import Groups

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_MASK = 0xFFFFFFFF


def _signed(value: int) -> int:
    """Return the 64 bits of an unsigned integer, read as signed: torch's kernels lack most operations on unsigned."""
    return int(np.uint64(value).view(np.int64))


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Tokens(NamedTuple):
    """Sequences on the device."""

    tokens: Tensor
    """Vocabulary ids, int32 [m]."""
    offsets: Tensor
    """Where each sequence begins in ``tokens``, and where the last one ends, int64 [n + 1]."""
    ids: Tensor
    """Ids of the sequences, int64 [n]."""


class Windower(NamedTuple):
    """Draws the windows of an epoch; see make()."""

    keep: Tensor
    """See ``windows.keep_thresholds``; int64 [V]."""
    shard: Tensor
    """The shard of each token's rows, int32 [V]."""
    local: Tensor
    """The index of a token's rows in its shard, int32 [V]."""
    window: int
    shrink: bool
    seed: int

    def draw(self, sequences: Tokens, shard: int = 0, shards: int = 1, parts: int = 1) -> Groups:
        """Return the windows with contexts in a shard, sorted by their centers' parts; nothing waits for the device.

        Args:
            sequences: what to draw from.
            shard: the shard of the contexts' rows.
            shards: number of shards.
            parts: the rows of a shard of centers are divided into so many parts: row r is row r // parts of part
                r % parts, which is part ``shard * parts + r % parts`` of all.
        """
        tokens, offsets, ids = sequences
        total, device = len(tokens), tokens.device
        lengths = offsets[1:] - offsets[:-1]
        sequence = torch.repeat_interleave(torch.arange(len(ids), device=device), lengths, output_size=total)
        index = torch.arange(total, device=device) - offsets[sequence]
        random = _mix(_mix(ids + _signed(randomness.mix(self.seed)))[sequence] + (index + 1) * _GOLDEN)
        kept = (random & _MASK) <= self.keep[tokens]
        radius = 1 + ((random >> 32 & _MASK) * self.window >> 32) if self.shrink else self.window
        # Windows are counted in kept tokens, and then in those among them whose rows are in the shard.
        before = _count_before(kept)
        first = torch.maximum(before[offsets[:-1]][sequence], before[:-1] - radius)
        stop = torch.minimum(before[offsets[1:]][sequence], before[:-1] + radius + 1)
        of_token, local = self.shard[tokens], self.local[tokens]
        own = kept & (of_token == shard)
        own_before = _count_before(own)
        places = own_before[-1].repeat(total + 2)
        places.scatter_(0, torch.where(kept, before[:-1], total + 1), own_before[:-1])
        first, stop = places[first], places[stop]
        rows = torch.empty(total + 1, dtype=torch.int32, device=device)
        rows.scatter_(0, torch.where(own, own_before[:-1], total), local)
        part = of_token * parts + local % parts
        part = torch.where(kept & (stop - first > own.long()), part, shards * parts)
        order = torch.sort(part, stable=True)
        bounds = torch.searchsorted(order.values, torch.arange(shards * parts + 1, dtype=part.dtype, device=device))
        columns = (local // parts, first, stop, torch.where(own, own_before[:-1], -1))
        centers, begins, ends, skip = (column[order.indices].to(torch.int32) for column in columns)
        return Groups(rows, centers, begins, ends, skip, bounds.to(torch.int32))


def hottest_row(
    counts: NDArray[np.int64], sample: float, ns_exponent: float, negative: int, divisions: int = 1
) -> float:
    """Return how often a group trains on the most frequent row of the outputs, as its center or as a negative.

    Args:
        counts: counts of the vocabulary, int64 [V].
        sample: threshold of subsampling.
        ns_exponent: negatives are drawn in proportion to count to this power.
        negative: negatives of a group.
        divisions: into so many parts the outputs are divided; the one that has this row has little else.
    """
    kept = np.maximum(counts, 1) * (keep_thresholds(counts, sample) + 1.0)
    drawn = np.maximum(np.asarray(counts, np.float64), 1.0) ** ns_exponent
    shares = (min(1.0, divisions * float(weights.max() / weights.sum())) for weights in (kept, drawn))
    return next(shares) + negative * next(shares)


def of_stream(stream: Tensor, starts: Tensor) -> Groups:
    """Return the groups of a stream of windows with centers in one part.

    Args:
        stream: groups of center, n and n contexts, rows of a part and of a shard, int32; see corpus/windows.py.
        starts: where the groups begin, int32.
    """
    first = starts + 2
    bounds = torch.tensor([0, len(starts)], dtype=torch.int32, device=stream.device)
    return Groups(stream, stream[starts], first, first + stream[starts + 1], torch.full_like(starts, -1), bounds)


def make(
    counts: NDArray[np.int64],
    shard: NDArray[np.int32],
    local: NDArray[np.int32],
    sample: float,
    window: int,
    shrink: bool,
    seed: int,
    device: torch.device,
) -> Windower:
    """Return what draws an epoch's windows on a device.

    Args:
        counts: counts of the vocabulary, int64 [V].
        shard: the shard of each token's rows, int32 [V].
        local: the index of a token's rows in its shard, int32 [V].
        sample: threshold of subsampling; 0: none.
        window: greatest distance between a center and a context, after subsampling.
        shrink: draw each center's distance uniformly from 1 to ``window``.
        seed: seed of the epoch, 64 bits.
        device: where to.
    """
    arrays = (keep_thresholds(counts, sample).astype(np.int64), shard, local)
    keep, shard_, local_ = (torch.from_numpy(np.array(array)).to(device) for array in arrays)
    return Windower(keep, shard_, local_, window, shrink, seed)


def _count_before(flags: Tensor) -> Tensor:
    """Return how many flags are set before each place and in all, int64 [n + 1]."""
    counts = torch.zeros(len(flags) + 1, dtype=torch.int64, device=flags.device)
    torch.cumsum(flags, 0, out=counts[1:])
    return counts


def _mix(state: Tensor) -> Tensor:
    """Finish splitmix64 as corpus/windows.py does, in signed integers, which wrap alike."""
    state = (state ^ _shift(state, 30)) * _FIRST
    state = (state ^ _shift(state, 27)) * _SECOND
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """Shift right as if the integers were unsigned."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
