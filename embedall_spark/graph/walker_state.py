"""What walkers hold while they walk, and the rule by which they step; ``steps`` moves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS = 53
"""Of the random numbers that accept or reject a proposal."""

NONE = -1
_SLOTS = 64  # so many walkers take turns

_WALKER = np.dtype([
    ("key", "u8"),  # state of its random numbers
    ("row", "i8"), ("at", "i8"),  # where its next vertex is written; NONE: it has none
    ("vertex", "i8"), ("first", "i8"), ("degree", "i8"),  # where it is; that vertex's list of neighbours
    ("previous", "i8"), ("previous_first", "i8"), ("previous_degree", "i8"),  # NONE: the next step is of first order
    # Where all weights are equal, cells are proposed: the neighbours, and what the step back has beyond them.
    ("cells", "i8"),
    # The step back: whether it has been looked for; until then an upper bound of its weight; if it is there, its place
    # in ``indices``, else the list's end; the running sum before it, and its weight, or 0.
    ("known", "i8"), ("bound", "f8"), ("split", "i8"), ("before", "f8"), ("own", "f8"),
    # Proposed: a place in ``indices`` (NONE: the step back), the vertex there, and what accepts or rejects it.
    ("place", "i8"), ("candidate", "i8"), ("height", "i8"),
    # A search: what is left of a sorted list; where to look next, and places for each unit of the list's numbers.
    ("base", "i8"), ("count", "i8"), ("probe", "i8"), ("slope", "f8"),
])  # fmt: skip


class Turn(NamedTuple):
    """Walkers that take turns; arrays are [slots]."""

    walkers: NDArray[Any]
    proposing: NDArray[np.uint32]
    """Slots, as the next three."""
    moving: NDArray[np.uint32]
    searching: NDArray[np.uint32]
    deep: NDArray[np.uint32]
    vertices: NDArray[np.int64]
    """What walkers search for: a vertex, or a sum of weights."""
    sums: NDArray[np.float64]


class Rule(NamedTuple):
    """What p and q mean for proposals."""

    weighted: bool
    second: bool
    """Steps depend on the vertex before."""
    sure: bool
    """There is always a step back, and its weight is known."""
    common: bool
    """Common neighbours are likelier than others."""
    low: int
    """Random numbers below it accept any proposal but the step back."""
    back: int
    """Random numbers below it accept the step back."""
    cells: int
    """Equal weights: what the step back has beyond the others, in cells, rounded up."""
    extra: float
    """The same, not rounded."""
    bias: float
    """Of the step back."""
    slab: float
    """What of that is beyond ``most``; 0: nothing is."""
    most: float
    """The largest bias of the other steps."""


def turn() -> Turn:
    """Return walkers that are nowhere, all to move."""
    walkers = np.zeros(_SLOTS, _WALKER)
    walkers["at"] = NONE
    a, b, c, d = np.tile(np.arange(_SLOTS, dtype=np.uint32), (4, 1))
    return Turn(walkers, a, b, c, d, np.empty(_SLOTS, np.int64), np.empty(_SLOTS, np.float64))


def rule(p: float, q: float, weighted: bool, directed: bool) -> Rule:
    """Return the rule of node2vec's p and q."""
    bias, most, least = 1 / p, max(1.0, 1 / q), min(1.0, 1 / q)
    slab = max(0.0, bias - most)
    return Rule(
        weighted=weighted,
        second=p != 1 or q != 1,
        sure=not weighted and not directed,
        common=q > 1,
        low=int(least / most * 2**BITS),
        back=int(min(1.0, bias / most) * 2**BITS),
        cells=0 if weighted else int(np.ceil(slab / most)),
        extra=slab / most,
        bias=bias,
        slab=slab,
        most=most,
    )
