"""Steps of many walkers at once, compiled; ``walks.walk`` says what they are.

A second-order step is drawn by rejection (KnightKing: Yang et al. 2019, section 4): a neighbour is proposed in
proportion to its edge's weight, and accepted in proportion to its bias. Nearly all of the time is waiting for memory,
so that walkers take turns, and each asks for what it will read at its next turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from embedall_spark.graph.walker_state import BITS, NONE
from embedall_spark.numba_intrinsics import prefetch, random

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedall_spark.graph.walker_state import Rule, Turn

_ALL = 1 << BITS
_HALF, _LOW, _REST = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(64 - BITS)
_ROUNDING = 2.0**-50  # a bound, of sums of weights
# Sums are guessed while more than so many are left, and at most so often.
_FAR, _NEAR, _GUESSES = 256, 64, 4

_compiled: Callable[[Callable[..., Any]], Any] = njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def walk(graph: Any, starts: Any, keys: Any, rule: Rule, turn: Turn, tokens: Any, lengths: Any) -> None:
    """Write walks to the beginnings of the rows of ``tokens`` [m, length], and how long they are to ``lengths`` [m]."""
    begun, proposing = _move(graph, starts, keys, rule, tokens, lengths, turn, turn.walkers.size, 0, 0)
    while proposing > 0:
        if rule.weighted:
            _propose_by_weight(graph, rule, turn, proposing)
        else:
            _propose(graph, rule, turn, proposing)
        if rule.second:
            moving, searching, proposing = _decide(graph, rule, turn, proposing)
            moving, proposing = _look_up(graph, rule, turn, moving, searching, proposing)
        else:
            moving, proposing = _accept(graph, turn, proposing)
        begun, proposing = _move(graph, starts, keys, rule, tokens, lengths, turn, moving, begun, proposing)


@_compiled
def _move(
    graph: Any, starts: Any, keys: Any, rule: Rule, tokens: Any, lengths: Any, turn: Turn,
    moving: int, begun: int, proposing: int,
) -> tuple[int, int]:  # fmt: skip
    """Go to the candidates, or begin walks; return how many have begun, and how many walkers propose next."""
    indptr, cumulative, walkers = graph.indptr, graph.cumulative, turn.walkers
    for i in range(moving):
        slot = turn.moving[i]
        walker = walkers[slot]
        first, place = walker.first, walker.split if walker.place == NONE else walker.place
        going = walker.at != NONE and _arrive(indptr, rule, tokens, lengths, walker)
        while not going and begun < starts.size:
            prefetch(indptr, np.int64(starts[min(begun + 1, starts.size - 1)]))
            walker.key, walker.row, walker.at = keys[begun], begun, 0
            walker.vertex, walker.candidate = NONE, np.int64(starts[begun])
            going = _arrive(indptr, rule, tokens, lengths, walker)
            begun += 1
        if going:
            turn.proposing[proposing] = slot
            proposing += 1
            if rule.weighted:
                prefetch(cumulative, walker.first + walker.degree - 1)
                walker.bound = np.inf
                if rule.slab > 0 and not graph.directed and not walker.known:
                    # The way back has the same weight but for the rounding of the sums.
                    before, own = _weight(cumulative, first, place)
                    walker.bound = own + (before + own) * _ROUNDING
    return begun, proposing


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
    previous, cells = NONE, degree
    if rule.second and degree > 1 and walker.vertex != NONE:
        previous, cells = walker.vertex, degree + rule.cells
        walker.previous_first, walker.previous_degree = walker.first, walker.degree
    walker.vertex, walker.first, walker.degree, walker.cells, walker.previous = vertex, first, degree, cells, previous
    walker.known = rule.sure or previous == NONE
    walker.split, walker.own = first + degree, 0.0
    return True


@_compiled
def _propose(graph: Any, rule: Rule, turn: Turn, proposing: int) -> None:
    """Propose one of the cells, all alike."""
    indices, walkers = graph.indices, turn.walkers
    for i in range(proposing):
        walker = walkers[turn.proposing[i]]
        # A random number times the cells has 96 bits: the cell, and a fraction that does not depend on it.
        bits, cells = random(walker), np.uint64(walker.cells)
        low = (bits & _LOW) * cells
        high = (bits >> _HALF) * cells + (low >> _HALF)
        cell, height = np.int64(high >> _HALF), np.int64(((high << _HALF) | (low & _LOW)) >> _REST)
        walker.place, walker.height = walker.first + cell, height
        prefetch(indices, walker.place)
        if cell >= walker.degree:
            # Of the last cell only a part counts.
            walker.place, walker.height = NONE, -1 if cell - walker.degree + height / _ALL < rule.extra else _ALL


@_compiled
def _propose_by_weight(graph: Any, rule: Rule, turn: Turn, proposing: int) -> None:
    """Propose a neighbour in proportion to the edge's weight."""
    indices, cumulative, walkers, searching = graph.indices, graph.cumulative, turn.walkers, turn.searching
    found = 0
    for i in range(proposing):
        slot = turn.proposing[i]
        walker = walkers[slot]
        end = walker.first + walker.degree
        total = cumulative[np.uint64(end - 1)]
        uniform = np.float64(random(walker) >> _REST) / _ALL
        # The step back, or what of it is taken out, lies before the list; where its place is known, it is not in there.
        back = walker.own * rule.bias if walker.known else min(walker.bound + total * _ROUNDING, total) * rule.slab
        sought = uniform * (back + rule.most * (total - walker.own)) - back
        if sought < 0:
            walker.place, walker.height, turn.sums[slot] = NONE, -1, sought + back
            continue
        sought /= rule.most
        walker.base, walker.count = walker.first, walker.split - walker.first
        if walker.split + 1 < end and sought >= walker.before:
            sought += walker.own
            walker.base, walker.count = walker.split + 1, end - walker.split - 1
        if walker.previous != NONE:
            walker.height = np.int64(random(walker) >> _REST)
        walker.slope = walker.degree / total
        turn.sums[slot] = sought
        searching[found] = slot
        found += 1
    _guess(cumulative, turn, found)
    _search(cumulative, turn.sums, walkers, searching, turn.deep, found)
    for i in range(found):
        walker = walkers[searching[i]]
        walker.place = walker.base
        prefetch(indices, walker.place)


@_compiled
def _accept(graph: Any, turn: Turn, proposing: int) -> tuple[int, int]:
    """Accept all; return how many then move and propose."""
    indptr, indices, walkers = graph.indptr, graph.indices, turn.walkers
    for i in range(proposing):
        walker = walkers[turn.proposing[i]]
        turn.moving[i], walker.candidate = turn.proposing[i], np.int64(indices[np.uint64(walker.place)])
        prefetch(indptr, walker.candidate)
    return proposing, 0


@_compiled
def _decide(graph: Any, rule: Rule, turn: Turn, proposing: int) -> tuple[int, int, int]:
    """Accept, reject, or have it looked up; return how many then move, search and propose."""
    indptr, indices, cumulative, walkers = graph.indptr, graph.indices, graph.cumulative, turn.walkers
    moving = searching = rejected = 0
    for i in range(proposing):
        slot = turn.proposing[i]
        walker = walkers[slot]
        candidate = walker.previous if walker.place == NONE else np.int64(indices[np.uint64(walker.place)])
        walker.candidate = candidate
        prefetch(indptr, candidate)
        back = candidate == walker.previous
        # The slot is written to every list, and counted in one.
        turn.moving[moving] = turn.searching[searching] = turn.proposing[rejected] = slot
        if walker.previous == NONE or walker.height < (rule.back if back else rule.low):
            certain = walker.place != NONE or walker.known
            moving += certain
            searching += not certain
        elif not back:
            searching += 1
        else:
            rejected += 1
            if rule.weighted:
                # Not again: it may have most of the weight.
                _take_out(cumulative, walker, walker.place)
    return moving, searching, rejected


@_compiled
def _look_up(graph: Any, rule: Rule, turn: Turn, moving: int, searching: int, proposing: int) -> tuple[int, int]:
    """Look for an edge from the former vertex, or the way back; accept or reject; return how many move and propose."""
    indptr, indices, cumulative, walkers = graph.indptr, graph.indices, graph.cumulative, turn.walkers
    sought = turn.vertices
    for i in range(searching):
        slot = turn.searching[i]
        walker = walkers[slot]
        if walker.candidate == walker.previous:
            sought[slot], walker.base, walker.count = walker.previous, walker.first, walker.degree
            continue
        sought[slot], walker.base, walker.count = walker.candidate, walker.previous_first, walker.previous_degree
        if not graph.directed:
            first = indptr[np.uint64(walker.candidate)]
            degree = indptr[np.uint64(walker.candidate + 1)] - first
            if degree < walker.count:
                sought[slot], walker.base, walker.count = walker.previous, first, degree
    _search(indices, sought, walkers, turn.searching, turn.deep, searching)
    for i in range(searching):
        slot = turn.searching[i]
        walker = walkers[slot]
        accepted = found = indices[np.uint64(walker.base)] == sought[slot]
        if walker.candidate != walker.previous:
            accepted = found == rule.common
        elif found and rule.weighted:
            _take_out(cumulative, walker, walker.base)
            accepted = turn.sums[slot] < walker.own * rule.slab
        elif not found:
            walker.known, walker.cells = 1, walker.degree
        turn.moving[moving] = turn.proposing[proposing] = slot
        moving += accepted
        proposing += not accepted
    return moving, proposing


@_compiled
def _weight(cumulative: Any, first: int, place: int) -> tuple[float, float]:
    """Return the sum of the weights before a place in the list from ``first`` on, and the weight there."""
    before = cumulative[np.uint64(place - 1)] if place > first else 0.0
    return before, cumulative[np.uint64(place)] - before


@_compiled
def _take_out(cumulative: Any, walker: Any, place: int) -> None:
    """Take the step back, which is at this place, out of the list."""
    walker.before, walker.own = _weight(cumulative, walker.first, place)
    walker.split, walker.known = place, 1


@_compiled
def _guess(cumulative: Any, turn: Turn, number: int) -> None:
    """Narrow down searches in long lists: each guess goes as far as sums grow on average, and beyond what is sought."""
    walkers, deep, sums = turn.walkers, turn.deep, turn.sums
    left = 0
    for i in range(number):
        slot = turn.searching[i]
        walker = walkers[slot]
        if walker.count > _FAR:
            place = walker.first + np.int64(sums[slot] * walker.slope)
            walker.probe = min(max(place, walker.base), walker.base + walker.count - 1)
            prefetch(cumulative, walker.probe)
            deep[left] = slot
            left += 1
    for _ in range(_GUESSES):
        kept = 0
        for i in range(left):
            slot = deep[i]
            walker = walkers[slot]
            difference = sums[slot] - cumulative[np.uint64(walker.probe)]
            last = walker.base + walker.count - 1
            if difference > 0:
                walker.base = min(walker.probe + 1, last)
            else:
                last = walker.probe
            walker.count = last - walker.base + 1
            distance = difference * walker.slope
            distance += np.copysign(np.sqrt(abs(distance)) + 2, distance)
            walker.probe = min(max(walker.probe + np.int64(distance), walker.base), last)
            prefetch(cumulative, walker.probe)
            deep[kept] = slot
            kept += walker.count > _NEAR
        left = kept


@_compiled
def _search(array: Any, sought: Any, walkers: Any, searching: Any, deep: Any, number: int) -> None:
    """Set ``base`` to the first place in each part of a sorted array not below what is sought, or to the last."""
    left = 0
    for i in range(number):
        walker = walkers[searching[i]]
        prefetch(array, walker.base + (walker.count >> 1) - 1)
        deep[left] = searching[i]
        left += walker.count > 1
    while left > 0:
        # All go down a level, so that they wait for memory together.
        kept = 0
        for i in range(left):
            slot = deep[i]
            walker = walkers[slot]
            half = walker.count >> 1
            walker.base += half if array[np.uint64(walker.base + half - 1)] < sought[slot] else 0
            walker.count -= half
            prefetch(array, walker.base + (walker.count >> 1) - 1)
            deep[kept] = slot
            kept += walker.count > 1
        left = kept
