"""The kernel of GloVe for GPUs, in Triton; the arithmetic and the rows are those of train/glove_kernel.py.

A program trains on one cell after the other; changes are added by atomics, so that none is lost. See sgns_kernel.py for
Triton's interpreter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.standard import _sum_combine as _sum

from embedall_spark.train import glove_kernel
from embedall_spark.train.device import sgns_kernel

if TYPE_CHECKING:
    from torch import Tensor


ROWS = 4
"""A program holds a vector of each side, and their sums of squared gradients."""


class CellBatch(NamedTuple):
    """Cells of the co-occurrence matrix, on the device."""

    rows: Tensor
    """Rows of the input shard, int32 [n]."""
    columns: Tensor
    """Rows of a part of the outputs, int32 [n]."""
    counts: Tensor
    """float32 [n]."""


class Constants(NamedTuple):
    """See ``GloveConfig``."""

    x_max: float
    alpha: float
    eta: float
    grad_clip: float


def train(
    cells: CellBatch, inputs: Tensor, outputs: Tensor, vector_size: int, constants: Constants, programs: int
) -> Tensor:
    """Train on cells, and return cells, summed loss and cells again, float32 [programs, 3].

    Nothing waits for the device.

    Args:
        cells: see CellBatch.
        inputs: float32 [rows, 2 * half], see ``glove_kernel.initial_rows``; changed.
        outputs: float32 [rows, 2 * half]; changed.
        vector_size: dimensions of a vector.
        constants: see Constants.
        programs: programs in flight.
    """
    figures = torch.empty((programs, 3), dtype=torch.float32, device=inputs.device)
    half = glove_kernel.half_length(vector_size)
    with torch.cuda.device(inputs.device if inputs.is_cuda else -1):
        _glove[(programs,)](
            *cells, len(cells.counts), inputs, outputs, figures, *constants,
            DIM=vector_size, HALF=half, BLOCK=triton.next_power_of_2(half), num_warps=sgns_kernel.warps(half, ROWS - 1),
        )  # fmt: skip
    return figures


@triton.jit(do_not_specialize=["size"])  # type: ignore[untyped-decorator]
def _glove(  # type: ignore[no-untyped-def] # noqa: ANN202
    rows, columns, counts, size, inputs, outputs, figures, x_max, alpha, eta, clip,  # noqa: ANN001
    DIM: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    place = tl.arange(0, BLOCK)
    in_row = place < HALF
    # A row of the inputs has its bias behind the vector and then a constant 1; of the outputs, the 1 comes first.
    in_bias, out_bias = place == DIM, place == DIM + 1
    in_free, out_free = place != DIM + 1, place != DIM
    loss = 0.0
    trained = 0.0
    for cell in range(program, size, tl.num_programs(0)):
        left = inputs + tl.load(rows + cell).to(tl.int64) * (2 * HALF) + place
        right = outputs + tl.load(columns + cell).to(tl.int64) * (2 * HALF) + place
        # The first cache does not see what other programs add.
        w = tl.load(left, mask=in_row, other=0.0, cache_modifier=".cg")
        c = tl.load(right, mask=in_row, other=0.0, cache_modifier=".cg")
        w_squares = tl.load(left + HALF, mask=in_row, other=1.0, cache_modifier=".cg")
        c_squares = tl.load(right + HALF, mask=in_row, other=1.0, cache_modifier=".cg")
        count = tl.load(counts + cell)
        difference = tl.reduce(w * c, 0, _sum) - tl.log(count)
        trained += 1.0
        # Written so that NaN, too, changes nothing.
        if tl.abs(difference) < 1e30:
            weight = tl.where(count < x_max, tl.exp(alpha * tl.log(count / x_max)), 1.0)
            gradient = weight * difference
            loss += gradient * difference / 2
            # As in the authors' program, a bias is neither slowed by the learning rate nor clipped.
            of_w = tl.where(in_bias, gradient, eta * tl.minimum(tl.maximum(gradient * c, -clip), clip))
            of_c = tl.where(out_bias, gradient, eta * tl.minimum(tl.maximum(gradient * w, -clip), clip))
            of_w, of_c = tl.where(in_free, of_w, 0.0), tl.where(out_free, of_c, 0.0)
            tl.atomic_add(left, -of_w / tl.sqrt(w_squares), mask=in_row, sem="relaxed")
            tl.atomic_add(right, -of_c / tl.sqrt(c_squares), mask=in_row, sem="relaxed")
            tl.atomic_add(left + HALF, of_w * of_w, mask=in_row, sem="relaxed")
            tl.atomic_add(right + HALF, of_c * of_c, mask=in_row, sem="relaxed")
    tl.store(figures + program * 3, trained)
    tl.store(figures + program * 3 + 1, loss)
    tl.store(figures + program * 3 + 2, trained)
