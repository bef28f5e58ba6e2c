"""The kernel of skip-gram with negative sampling for GPUs, in Triton.

One program trains on a center and its contexts. It reads the center's row and those of the negatives once, adds their
summed changes once, and each context's change once (HogBatch: Ji et al. 2016, "Parallelizing Word2Vec in Shared and
Distributed Memory", section 3; FULL-W2V: Randall et al. 2021, "FULL-W2V: Fully Exploiting Data Reuse for W2V on
GPU-Accelerated Systems", arXiv 2312.07743). Programs share the rows without locks (Hogwild), and changes are added by
atomics, so that none is lost.

With TRITON_INTERPRET=1 in the environment before this module is imported, the kernel runs on tensors of the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

# tl.sum and tl.sigmoid are functions that Triton's interpreter enters anew at each call, for milliseconds.
from triton.language.standard import _sum_combine as _sum

if TYPE_CHECKING:
    from torch import Tensor

_LOSS_EVERY = 64  # one of so many groups is used to estimate the loss
# Registers of a multiprocessor, and of a thread beside those that hold rows; the compiler reports 96 in all at d=128
# and 163 at d=300 (5 negatives, sm_90).
_REGISTERS, _OTHER_REGISTERS = 65_536, 35
# Programs in flight that may train on the same row of the outputs.
_MOST_ON_A_ROW = 256


class Groups(NamedTuple):
    """Centers with their contexts; all int32, on the device."""

    rows: Tensor
    """Rows of the input shard, in the order of the tokens."""
    centers: Tensor
    """Rows of a part of the outputs, one per group."""
    first: Tensor
    """The place of a group's first context in ``rows``."""
    stop: Tensor
    """One more than the place of its last context."""
    skip: Tensor
    """A place between them that is no context, the center's own; -1: there is none."""
    bounds: Tensor
    """The groups of part p are those from bounds[p] to bounds[p + 1]."""


def train(
    groups: Groups,
    part: int,
    inputs: Tensor,
    outputs: Tensor,
    negatives: Tensor,
    cursor: int,
    alpha: float,
    negative: int,
    batch_size: int,
    window: int,
    programs: int,
) -> Tensor:
    """Train on the groups of a part; return pairs, loss summed over a sample, pairs of it, float32 [programs, 3].

    Nothing waits for the device.

    Args:
        groups: see Groups.
        part: which of them.
        inputs: float32 [rows, dim], changed; contexts are rows of it. ``dim`` is a multiple of 16.
        outputs: float32 [rows, dim], changed; centers and negatives are rows of it.
        negatives: int32, see ``aligned_rows.negative_table``; group g reads it cyclically from ``cursor`` + g * n on, n
            being the negatives that a group can need.
        cursor: the first index of it, less than its length.
        alpha: learning rate.
        negative: negatives of a batch; one that equals the center contributes nothing.
        batch_size: places that are trained on together and share their negatives; 1: each pair has its own.
        window: greatest distance between center and context.
        programs: programs in flight; see count_programs().
    """
    dim = inputs.shape[1]
    block = triton.next_power_of_2(dim)
    figures = torch.empty((programs, 3), dtype=torch.float32, device=inputs.device)
    with torch.cuda.device(inputs.device if inputs.is_cuda else -1):
        _sgns[(programs,)](
            groups.rows, groups.centers, groups.first, groups.stop, groups.skip, groups.bounds, part,
            negatives, len(negatives), cursor, inputs, outputs, figures, alpha,
            DIM=dim, BLOCK=block, NEGATIVE=negative, TARGETS=triton.next_power_of_2(negative + 1), BATCH=batch_size,
            DRAWS=-(-(2 * window + 1) // batch_size) * negative, LOSS_EVERY=_LOSS_EVERY, num_warps=warps(dim, negative),
        )  # fmt: skip
    return figures


def warps(dim: int, negative: int) -> int:
    """Return the warps of a program: few, so that many programs are in flight, but enough registers for its rows."""
    floats = triton.next_power_of_2(dim) * triton.next_power_of_2(negative + 1)
    return int(min(16, max(1, floats // 2048)))


def count_programs(device: torch.device, rows: int, dim: int, negative: int, hottest: float = 0.0) -> int:
    """Return how many programs to start: as many as the device holds, but few enough that training is stable.

    Programs in flight do not see each other's changes. If many of them train on the same row, its changes add up to a
    step that is too large; see docs/log.md for what was simulated.

    Args:
        device: where to.
        rows: rows of a side of the model.
        dim: floats of a row.
        negative: negatives of a group.
        hottest: how often a group trains on the most frequent row of the outputs, see windows.hottest_row().
    """
    if device.type != "cuda":
        return 4
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    # Of the targets and their changes. More programs than fit would run after all others, when little else does.
    floats = triton.next_power_of_2(dim) * triton.next_power_of_2(negative + 1) // (32 * warps(dim, negative))
    registers = -(-(2 * floats + _OTHER_REGISTERS) // 8) * 8
    resident = processors * max(1, _REGISTERS // (32 * registers) // warps(dim, negative))
    stable = min(rows // 4, int(_MOST_ON_A_ROW / hottest) if hottest else rows)
    return int(max(1, min(resident, stable)))


@triton.jit(do_not_specialize=["part", "size", "cursor"])  # type: ignore[untyped-decorator]
def _sgns(  # type: ignore[no-untyped-def] # noqa: ANN202
    rows, centers, first, stop, skip, bounds, part, negatives, size, cursor, inputs, outputs, figures, alpha,  # noqa: ANN001
    DIM: tl.constexpr, BLOCK: tl.constexpr, NEGATIVE: tl.constexpr, TARGETS: tl.constexpr, BATCH: tl.constexpr,
    DRAWS: tl.constexpr, LOSS_EVERY: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    begin = tl.load(bounds + part)
    total = tl.load(bounds + part + 1)
    columns = tl.arange(0, BLOCK)
    in_row = columns < DIM
    target = tl.arange(0, TARGETS)
    loss = 0.0
    pairs = 0.0
    sampled = 0.0
    # More draws than 32 bits can count.
    draws = tl.full((), DRAWS, tl.int64)
    for group in range(begin + program, total, tl.num_programs(0)):
        center = tl.load(centers + group)
        place = tl.load(first + group)
        last = tl.load(stop + group)
        hole = tl.load(skip + group)
        drawn = cursor + draws * group
        while place < last:
            # Target 0 is the center, then come the negatives.
            index = (drawn + target - 1) % size
            ids = tl.load(negatives + index, mask=(target > 0) & (target <= NEGATIVE), other=0)
            ids = tl.where(target == 0, center, ids)
            used = (target == 0) | ((target <= NEGATIVE) & (ids != center))
            drawn += NEGATIVE
            # Rows are read from the second cache: the first one does not see what other programs add.
            to = outputs + ids.to(tl.int64)[:, None] * DIM + columns[None, :]
            mask = used[:, None] & in_row[None, :]
            targets = tl.load(to, mask=mask, other=0.0, cache_modifier=".cg")
            change = tl.full((TARGETS, BLOCK), 0.0, tl.float32)
            end = tl.minimum(place + BATCH, last)
            for at in range(place, end):
                if at != hole:
                    row = tl.load(rows + at)
                    pointer = inputs + row.to(tl.int64) * DIM + columns
                    vector = tl.load(pointer, mask=in_row, other=0.0, cache_modifier=".cg")
                    dots = tl.reduce(targets * vector[None, :], 1, _sum)
                    label = tl.where(target == 0, 1.0, 0.0)
                    step = tl.where(used, alpha * (label - 1.0 / (1.0 + tl.exp(-dots))), 0.0)
                    tl.atomic_add(pointer, tl.reduce(step[:, None] * targets, 0, _sum), mask=in_row, sem="relaxed")
                    change += step[:, None] * vector[None, :]
                    pairs += 1.0
                    if group % LOSS_EVERY == 0:
                        signed = tl.where(target == 0, -dots, dots)
                        each = tl.maximum(signed, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(signed)))
                        loss += tl.reduce(tl.where(used, each, 0.0), 0, _sum)
                        sampled += 1.0
            tl.atomic_add(to, change, mask=mask, sem="relaxed")
            place = end
    tl.store(figures + program * 3, pairs)
    tl.store(figures + program * 3 + 1, loss)
    tl.store(figures + program * 3 + 2, sampled)
