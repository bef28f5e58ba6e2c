"""The state of walkers while they walk, and the rule by which they step; ``walk_kernel`` moves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS = 53
"""Of the random numbers that accept or reject a proposal."""

NONE = -1
_SLOTS = 64  # walkers that take turns

_WALKER = np.dtype([
    ("key", "u8"),  # state of its random numbers
    ("row", "i8"), ("position", "i8"),  # where its next vertex is written; NONE: it has no walk
    ("vertex", "i8"), ("first", "i8"), ("degree", "i8"),  # where it is, and that vertex's list of neighbors
    ("previous", "i8"), ("previous_first", "i8"), ("previous_degree", "i8"),  # NONE: the next step is of first order
    # Where all weights are equal, cells are proposed: the neighbors, and the step back's excess over them.
    ("cells", "i8"),
    # The step back: whether it has been looked up; until then an upper bound of its weight; if it exists, its place in
    # ``indices``, else the list's end; the running sum before it, and its weight, or 0.
    ("return_known", "i8"), ("return_bound", "f8"), ("return_place", "i8"), ("return_sum", "f8"),
    ("return_weight", "f8"),
    # The proposal: a place in ``indices`` (NONE: the step back), its vertex, and the bits that accept or reject it.
    ("proposed", "i8"), ("candidate", "i8"), ("accept_bits", "i8"),
    # A search: the rest of a sorted list; where to look next, and list places per unit of the list's values.
    ("base", "i8"), ("count", "i8"), ("probe", "i8"), ("slope", "f8"),
])  # fmt: skip


class WalkerPool(NamedTuple):
    """Walkers that take turns; arrays are [slots]."""

    walkers: NDArray[Any]
    proposing: NDArray[np.uint32]
    """Slots, as in the next three."""
    moving: NDArray[np.uint32]
    searching: NDArray[np.uint32]
    deep: NDArray[np.uint32]
    """Slots whose search is not finished."""
    vertices: NDArray[np.int64]
    """The vertices that walkers search for."""
    sums: NDArray[np.float64]
    """The sums of weights that walkers search for."""


class StepRule(NamedTuple):
    """What p and q mean for proposals; the bias of a step multiplies its edge's weight."""

    weighted: bool
    second_order: bool
    """Steps depend on the vertex before."""
    return_known: bool
    """There is always a step back, and its weight is known."""
    prefers_common: bool
    """Neighbors that the vertex before has too are more likely than others."""
    accept_below: int
    """Random numbers below it accept any proposal but the step back."""
    accept_return_below: int
    """Random numbers below it accept the step back."""
    return_cells: int
    """Equal weights: the cells of ``return_excess``, rounded up."""
    return_cells_exact: float
    """The same, not rounded."""
    return_bias: float
    """Bias of the step back."""
    return_excess: float
    """The part of that above ``max_bias``; 0: there is none."""
    max_bias: float
    """The largest bias of the other steps."""


def new_pool() -> WalkerPool:
    """Return walkers without a walk, all about to move."""
    walkers = np.zeros(_SLOTS, _WALKER)
    walkers["position"] = NONE
    a, b, c, d = np.tile(np.arange(_SLOTS, dtype=np.uint32), (4, 1))
    return WalkerPool(walkers, a, b, c, d, np.empty(_SLOTS, np.int64), np.empty(_SLOTS, np.float64))


def step_rule(p: float, q: float, weighted: bool, directed: bool) -> StepRule:
    """Return the rule of node2vec's p and q."""
    return_bias, max_bias, min_bias = 1 / p, max(1.0, 1 / q), min(1.0, 1 / q)
    excess = max(0.0, return_bias - max_bias)
    return StepRule(
        weighted=weighted,
        second_order=p != 1 or q != 1,
        return_known=not weighted and not directed,
        prefers_common=q > 1,
        accept_below=int(min_bias / max_bias * 2**BITS),
        accept_return_below=int(min(1.0, return_bias / max_bias) * 2**BITS),
        return_cells=0 if weighted else int(np.ceil(excess / max_bias)),
        return_cells_exact=excess / max_bias,
        return_bias=return_bias,
        return_excess=excess,
        max_bias=max_bias,
    )
