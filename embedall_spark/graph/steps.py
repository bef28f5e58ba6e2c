"""Steps of many walkers at once, compiled; ``walks.walk`` says what they are.

A second-order step is drawn by rejection (KnightKing: Yang et al. 2019, section 4): a neighbour is proposed in
proportion to its edge's weight, and accepted in proportion to its bias. Nearly all of the time is waiting for memory,
so that walkers take turns, and each asks for what it will read at its next turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from embedall_spark.graph.walks import Rule

    Slots = NDArray[np.uint32]

BITS = 53  # of the random numbers that accept or reject a proposal
_ALL = 1 << BITS
_SLOTS = 128  # walkers that take turns
_NONE = -1
_HALF, _LOW, _REST = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(64 - BITS)
_GOLDEN, _FIRST, _SECOND = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

_WALKER = np.dtype([
    ("key", "u8"),  # state of its random numbers
    ("row", "i8"), ("at", "i8"),  # where its next vertex is written
    ("vertex", "i8"), ("first", "i8"), ("degree", "i8"),  # where it is; that vertex's list of neighbours
    ("previous", "i8"), ("previous_first", "i8"), ("previous_degree", "i8"),  # _NONE: the next step is of first order
    ("cells", "i8"),  # equal weights: neighbours, and what the step back has beyond them
    ("split", "i8"), ("before", "f8"), ("own", "f8"), # weights: the step back's place in ``indices`` if it is taken out
    # of the rejection, else the list's end; the running sum before it; its weight, else 0
    ("place", "i8"), ("candidate", "i8"), ("height", "i8"),  # proposed: place in ``indices`` (_NONE: the step back) and
    # vertex; a random number of BITS
    ("base", "i8"), ("count", "i8"),  # what remains to be searched
])  # fmt: skip


class _Turn(NamedTuple):
    walkers: NDArray[Any]  # [slots], as all here
    proposing: Slots  # lists of slots
    moving: Slots
    searching: Slots
    deep: Slots
    sought: NDArray[np.int64]  # what a walker searches for
    sums: NDArray[np.float64]


_compiled: Callable[[Callable[..., Any]], Any] = njit(nogil=True, cache=True, error_model="numpy")
_instruction: Callable[[Callable[..., Any]], Any] = intrinsic


@_instruction
def _prefetch(_: Any, array: Any, at: Any) -> Any:
    """Ask the processor to bring an element into its cache; it may lie outside of the array."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(function, [builder.bitcast(builder.gep(data, [values[1]]), byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), build


@_compiled
def walk(graph: Any, starts: Any, keys: Any, rule: Rule, tokens: Any, lengths: Any) -> None:
    """Write walks to the beginnings of the rows of ``tokens`` [m, length], and how long they are to ``lengths`` [m]."""
    walkers, lists = np.zeros(_SLOTS, _WALKER), np.empty((4, _SLOTS), np.uint32)
    sought, sums = np.empty(_SLOTS, np.int64), np.empty(_SLOTS, np.float64)
    turn = _Turn(walkers, lists[0], lists[1], lists[2], lists[3], sought, sums)
    begun = proposing = 0
    moving = _SLOTS
    for slot in range(_SLOTS):
        turn.moving[slot], walkers[slot].at = slot, _NONE  # which has no vertex to write
    while True:
        begun, proposing, arrived = _move(graph, starts, keys, rule, tokens, lengths, turn, moving, begun, proposing)
        if proposing == 0:
            break
        if arrived > 0:
            _find_back(graph, rule, turn, arrived)
        if rule.weighted:
            _propose_by_weight(graph, rule, turn, proposing)
        else:
            _propose(graph, rule, turn, proposing)
        moving, searching, proposing = _decide(graph, rule, turn, proposing)
        if searching > 0:
            moving, proposing = _compare(graph, rule, turn, moving, searching, proposing)


@_compiled
def _move(
    graph: Any, starts: Any, keys: Any, rule: Rule, tokens: Any, lengths: Any, turn: _Turn,
    moving: int, begun: int, proposing: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Go to the candidates; return how many walks have begun, walkers propose next, and must find their step back."""
    indptr, walkers = graph.indptr, turn.walkers
    arrived = 0
    for i in range(moving):
        slot = turn.moving[i]
        walker = walkers[slot]
        going = walker.at != _NONE and _arrive(indptr, rule, tokens, lengths, walker)
        while not going and begun < starts.size:
            _prefetch(indptr, np.int64(starts[min(begun + 1, starts.size - 1)]))
            walker.key, walker.row, walker.at = keys[begun], begun, 0
            walker.vertex, walker.candidate = _NONE, np.int64(starts[begun])
            going = _arrive(indptr, rule, tokens, lengths, walker)
            begun += 1
        if going:
            turn.proposing[proposing] = turn.searching[arrived] = slot
            proposing += 1
            arrived += rule.find_back and walker.previous != _NONE
            if rule.weighted:
                _prefetch(graph.cumulative, walker.first + walker.degree - 1)
    return begun, proposing, arrived


@_compiled
def _arrive(indptr: Any, rule: Rule, tokens: Any, lengths: Any, walker: Any) -> bool:
    """Write the candidate; return whether the walk goes on from there."""
    vertex = walker.candidate
    tokens[np.uint64(walker.row), np.uint64(walker.at)] = vertex
    walker.at += 1
    first = indptr[np.uint64(vertex)]
    degree = indptr[np.uint64(vertex + 1)] - first
    if walker.at == tokens.shape[1] or degree == 0:
        lengths[walker.row] = walker.at
        return False
    # Where there is one neighbour, no bias matters.
    walker.previous = walker.vertex if rule.second and degree > 1 else _NONE
    walker.previous_first, walker.previous_degree = walker.first, walker.degree
    walker.vertex, walker.first, walker.degree = vertex, first, degree
    walker.cells = degree if walker.previous == _NONE else degree + rule.cells
    walker.split, walker.own = first + degree, 0.0
    return True


@_compiled
def _find_back(graph: Any, rule: Rule, turn: _Turn, arrived: int) -> None:
    """Find the step back among the neighbours; in a directed graph it may not be there."""
    indices, cumulative, walkers, searching = graph.indices, graph.cumulative, turn.walkers, turn.searching
    for i in range(arrived):
        walker = walkers[searching[i]]
        turn.sought[searching[i]] = walker.previous
        walker.base, walker.count = walker.first, walker.degree
    _search(indices, turn.sought, walkers, searching, turn.deep, arrived)
    for i in range(arrived):
        walker = walkers[searching[i]]
        if indices[np.uint64(walker.base)] != walker.previous:
            walker.cells = walker.degree
        elif rule.weighted:
            walker.split = walker.base
            walker.before = cumulative[np.uint64(walker.base - 1)] if walker.base > walker.first else 0.0
            walker.own = cumulative[np.uint64(walker.base)] - walker.before


@_compiled
def _random(walker: Any) -> Any:
    """Return 64 random bits (splitmix64, as in ``randomness``)."""
    walker.key += _GOLDEN
    bits = (walker.key ^ (walker.key >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


@_compiled
def _propose(graph: Any, rule: Rule, turn: _Turn, proposing: int) -> None:
    """Propose one of the cells, all alike."""
    indices, walkers = graph.indices, turn.walkers
    for i in range(proposing):
        walker = walkers[turn.proposing[i]]
        # A random number times the cells has 96 bits: the cell, and a fraction that does not depend on it.
        bits, cells = _random(walker), np.uint64(walker.cells)
        low = (bits & _LOW) * cells
        high = (bits >> _HALF) * cells + (low >> _HALF)
        beyond = np.int64(high >> _HALF) - walker.degree
        height = np.int64(((high << _HALF) | (low & _LOW)) >> _REST)
        if beyond < 0:
            walker.place, walker.height = walker.first + walker.degree + beyond, height
            _prefetch(indices, walker.place)
        else:
            # Of the last cell only a part counts.
            walker.place, walker.height = _NONE, 0 if beyond + height / _ALL < rule.extra else _ALL


@_compiled
def _propose_by_weight(graph: Any, rule: Rule, turn: _Turn, proposing: int) -> None:
    """Propose a neighbour in proportion to the edge's weight."""
    indices, cumulative, walkers, searching = graph.indices, graph.cumulative, turn.walkers, turn.searching
    found = 0
    for i in range(proposing):
        slot = turn.proposing[i]
        walker = walkers[slot]
        end = walker.first + walker.degree
        total = cumulative[np.uint64(end - 1)]
        uniform = np.float64(_random(walker) >> _REST) / _ALL
        # The step back, if it is taken out, lies first, then what is before it in the list, then what is after it.
        back = walker.own * rule.bias
        sought = uniform * (back + rule.most * (total - walker.own)) - back
        if sought < 0:
            walker.place, walker.height = _NONE, 0
            continue
        sought /= rule.most
        walker.base, walker.count = walker.first, walker.split - walker.first
        if walker.split + 1 < end and sought >= walker.before:
            sought += walker.own
            walker.base, walker.count = walker.split + 1, end - walker.split - 1
        if walker.previous != _NONE:
            walker.height = np.int64(_random(walker) >> _REST)
        turn.sums[slot] = sought
        searching[found] = slot
        found += 1
    _search(cumulative, turn.sums, walkers, searching, turn.deep, found)
    for i in range(found):
        walker = walkers[searching[i]]
        walker.place = walker.base
        _prefetch(indices, walker.place)


@_compiled
def _decide(graph: Any, rule: Rule, turn: _Turn, proposing: int) -> tuple[int, int, int]:
    """Accept, reject, or leave it to a comparison; return how many move, search and propose next."""
    indptr, indices, walkers = graph.indptr, graph.indices, turn.walkers
    moving = searching = rejected = 0
    for i in range(proposing):
        slot = turn.proposing[i]
        walker = walkers[slot]
        candidate = walker.previous if walker.place == _NONE else np.int64(indices[np.uint64(walker.place)])
        walker.candidate = candidate
        _prefetch(indptr, candidate)
        back = candidate == walker.previous
        # The slot is written to all lists, and counted in one.
        turn.moving[moving] = turn.searching[searching] = turn.proposing[rejected] = slot
        if walker.previous == _NONE or walker.height < (rule.back if back else rule.low):
            moving += 1
        elif back:
            rejected += 1
        else:
            searching += 1
    return moving, searching, rejected


@_compiled
def _compare(graph: Any, rule: Rule, turn: _Turn, moving: int, searching: int, proposing: int) -> tuple[int, int]:
    """Accept or reject by whether the vertex before has an edge to the candidate; return how many move and propose."""
    indptr, indices, walkers, sought = graph.indptr, graph.indices, turn.walkers, turn.sought
    for i in range(searching):
        slot = turn.searching[i]
        walker = walkers[slot]
        sought[slot], walker.base, walker.count = walker.candidate, walker.previous_first, walker.previous_degree
        if not graph.directed:
            first = indptr[np.uint64(walker.candidate)]
            degree = indptr[np.uint64(walker.candidate + 1)] - first
            if degree < walker.count:
                sought[slot], walker.base, walker.count = walker.previous, first, degree
    _search(indices, sought, walkers, turn.searching, turn.deep, searching)
    for i in range(searching):
        slot = turn.searching[i]
        turn.moving[moving] = turn.proposing[proposing] = slot
        accepted = (indices[np.uint64(walkers[slot].base)] == sought[slot]) == rule.common
        moving += accepted
        proposing += not accepted
    return moving, proposing


@_compiled
def _search(array: Any, sought: Any, walkers: Any, searching: Slots, deep: Slots, number: int) -> None:
    """Set ``base`` to the first place in the walker's part of a sorted array with no less than is sought, or the last.

    All go down by a level, then by the next, so that they wait for memory together.
    """
    left = 0
    for i in range(number):
        walker = walkers[searching[i]]
        _prefetch(array, walker.base + (walker.count >> 1) - 1)
        deep[left] = searching[i]
        left += walker.count > 1
    while left > 0:
        kept = 0
        for i in range(left):
            slot = deep[i]
            walker = walkers[slot]
            half = walker.count >> 1
            walker.base += half if array[np.uint64(walker.base + half - 1)] < sought[slot] else 0
            walker.count -= half
            _prefetch(array, walker.base + (walker.count >> 1) - 1)
            deep[kept] = slot
            kept += walker.count > 1
        left = kept
