"""Compiled steps of many walkers at once; ``walks.walk`` defines them.

A second-order step is drawn by rejection (KnightKing: Yang et al. 2019, section 4): a neighbor is proposed in
proportion to its edge's weight, and accepted in proportion to its bias. Nearly all of the time is spent waiting for
memory, so walkers take turns, and each prefetches what it will read at its next turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from embedall_spark.graph.walker_state import BITS, NONE
from embedall_spark.numba_intrinsics import prefetch, random

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedall_spark.graph.walker_state import StepRule, WalkerPool

_ALL = 1 << BITS
_HALF, _LOW, _REST = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(64 - BITS)
_ROUNDING = 2.0**-50  # bound of the relative error of sums of weights
# Interpolation search begins on lists longer than _FAR, ends at _NEAR, and takes at most _GUESSES steps.
_FAR, _NEAR, _GUESSES = 256, 64, 4

_compiled: Callable[[Callable[..., Any]], Any] = njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def walk(graph: Any, starts: Any, keys: Any, rule: StepRule, pool: WalkerPool, tokens: Any, lengths: Any) -> None:
    """Write walks to the beginnings of the rows of ``tokens`` [m, length], and their lengths to ``lengths`` [m]."""
    begun, proposing = _move(graph, starts, keys, rule, tokens, lengths, pool, pool.walkers.size, 0, 0)
    while proposing > 0:
        if rule.weighted:
            _propose_by_weight(graph, rule, pool, proposing)
        else:
            _propose(graph, rule, pool, proposing)
        if rule.second_order:
            moving, searching, proposing = _decide(graph, rule, pool, proposing)
            moving, proposing = _look_up(graph, rule, pool, moving, searching, proposing)
        else:
            moving, proposing = _accept(graph, pool, proposing)
        begun, proposing = _move(graph, starts, keys, rule, tokens, lengths, pool, moving, begun, proposing)


@_compiled
def _move(
    graph: Any, starts: Any, keys: Any, rule: StepRule, tokens: Any, lengths: Any, pool: WalkerPool,
    moving: int, begun: int, proposing: int,
) -> tuple[int, int]:  # fmt: skip
    """Move to the candidates, or begin walks; return how many have begun, and how many walkers propose next."""
    indptr, cumulative, walkers = graph.indptr, graph.cumulative, pool.walkers
    for i in range(moving):
        slot = pool.moving[i]
        walker = walkers[slot]
        first, place = walker.first, walker.return_place if walker.proposed == NONE else walker.proposed
        going = walker.position != NONE and _arrive(indptr, rule, tokens, lengths, walker)
        while not going and begun < starts.size:
            prefetch(indptr, np.int64(starts[min(begun + 1, starts.size - 1)]))
            walker.key, walker.row, walker.position = keys[begun], begun, 0
            walker.vertex, walker.candidate = NONE, np.int64(starts[begun])
            going = _arrive(indptr, rule, tokens, lengths, walker)
            begun += 1
        if going:
            pool.proposing[proposing] = slot
            proposing += 1
            if rule.weighted:
                prefetch(cumulative, walker.first + walker.degree - 1)
                walker.return_bound = np.inf
                if rule.return_excess > 0 and not graph.directed and not walker.return_known:
                    # The edge back has the same weight, up to the rounding of the sums.
                    before, weight = _weight(cumulative, first, place)
                    walker.return_bound = weight + (before + weight) * _ROUNDING
    return begun, proposing


@_compiled
def _arrive(indptr: Any, rule: StepRule, tokens: Any, lengths: Any, walker: Any) -> bool:
    """Write the candidate; return whether the walk continues from there."""
    vertex = walker.candidate
    tokens[np.uint64(walker.row), np.uint64(walker.position)] = vertex
    walker.position += 1
    first = indptr[np.uint64(vertex)]
    degree = indptr[np.uint64(vertex + 1)] - first
    if walker.position == tokens.shape[1] or degree == 0:
        lengths[walker.row] = walker.position
        return False
    previous, cells = NONE, degree
    if rule.second_order and degree > 1 and walker.vertex != NONE:
        previous, cells = walker.vertex, degree + rule.return_cells
        walker.previous_first, walker.previous_degree = walker.first, walker.degree
    walker.vertex, walker.first, walker.degree, walker.cells, walker.previous = vertex, first, degree, cells, previous
    walker.return_known = rule.return_known or previous == NONE
    walker.return_place, walker.return_weight = first + degree, 0.0
    return True


@_compiled
def _propose(graph: Any, rule: StepRule, pool: WalkerPool, proposing: int) -> None:
    """Propose one of the cells, all with equal chance."""
    indices, walkers = graph.indices, pool.walkers
    for i in range(proposing):
        walker = walkers[pool.proposing[i]]
        # A random number times the cells has 96 bits: the cell, and a fraction that does not depend on it.
        bits, cells = random(walker), np.uint64(walker.cells)
        low = (bits & _LOW) * cells
        high = (bits >> _HALF) * cells + (low >> _HALF)
        cell, fraction = np.int64(high >> _HALF), np.int64(((high << _HALF) | (low & _LOW)) >> _REST)
        walker.proposed, walker.accept_bits = walker.first + cell, fraction
        prefetch(indices, walker.proposed)
        if cell >= walker.degree:
            # Only a part of the last cell counts.
            accepted = cell - walker.degree + fraction / _ALL < rule.return_cells_exact
            walker.proposed, walker.accept_bits = NONE, -1 if accepted else _ALL


@_compiled
def _propose_by_weight(graph: Any, rule: StepRule, pool: WalkerPool, proposing: int) -> None:
    """Propose a neighbor in proportion to its edge's weight."""
    indices, cumulative, walkers, searching = graph.indices, graph.cumulative, pool.walkers, pool.searching
    searches = 0
    for i in range(proposing):
        slot = pool.proposing[i]
        walker = walkers[slot]
        end = walker.first + walker.degree
        total = cumulative[np.uint64(end - 1)]
        uniform = np.float64(random(walker) >> _REST) / _ALL
        # The step back, or its excess, lies before the list; where its place is known, the list does not have it.
        bound = min(walker.return_bound + total * _ROUNDING, total)
        back = walker.return_weight * rule.return_bias if walker.return_known else bound * rule.return_excess
        target = uniform * (back + rule.max_bias * (total - walker.return_weight)) - back
        if target < 0:
            walker.proposed, walker.accept_bits, pool.sums[slot] = NONE, -1, target + back
            continue
        target /= rule.max_bias
        walker.base, walker.count = walker.first, walker.return_place - walker.first
        if walker.return_place + 1 < end and target >= walker.return_sum:
            target += walker.return_weight
            walker.base, walker.count = walker.return_place + 1, end - walker.return_place - 1
        if walker.previous != NONE:
            walker.accept_bits = np.int64(random(walker) >> _REST)
        walker.slope = walker.degree / total
        pool.sums[slot] = target
        searching[searches] = slot
        searches += 1
    _interpolate(cumulative, pool, searches)
    _search(cumulative, pool.sums, walkers, searching, pool.deep, searches)
    for i in range(searches):
        walker = walkers[searching[i]]
        walker.proposed = walker.base
        prefetch(indices, walker.proposed)


@_compiled
def _accept(graph: Any, pool: WalkerPool, proposing: int) -> tuple[int, int]:
    """Accept all; return how many then move and propose."""
    indptr, indices, walkers = graph.indptr, graph.indices, pool.walkers
    for i in range(proposing):
        walker = walkers[pool.proposing[i]]
        pool.moving[i], walker.candidate = pool.proposing[i], np.int64(indices[np.uint64(walker.proposed)])
        prefetch(indptr, walker.candidate)
    return proposing, 0


@_compiled
def _decide(graph: Any, rule: StepRule, pool: WalkerPool, proposing: int) -> tuple[int, int, int]:
    """Accept, reject, or leave it to a search; return how many then move, search and propose."""
    indptr, indices, cumulative, walkers = graph.indptr, graph.indices, graph.cumulative, pool.walkers
    moving = searching = rejected = 0
    for i in range(proposing):
        slot = pool.proposing[i]
        walker = walkers[slot]
        candidate = walker.previous if walker.proposed == NONE else np.int64(indices[np.uint64(walker.proposed)])
        walker.candidate = candidate
        prefetch(indptr, candidate)
        back = candidate == walker.previous
        # The slot is written to all three lists, and counted in one.
        pool.moving[moving] = pool.searching[searching] = pool.proposing[rejected] = slot
        if walker.previous == NONE or walker.accept_bits < (rule.accept_return_below if back else rule.accept_below):
            certain = walker.proposed != NONE or walker.return_known
            moving += certain
            searching += not certain
        elif not back:
            searching += 1
        else:
            rejected += 1
            if rule.weighted:
                # It must not be proposed again: it may have most of the weight.
                _take_out_return(cumulative, walker, walker.proposed)
    return moving, searching, rejected


@_compiled
def _look_up(graph: Any, rule: StepRule, pool: WalkerPool, moving: int, searching: int, proposing: int) -> Any:
    """Search an edge from the vertex before, or the edge back; accept or reject; return how many move and propose."""
    indptr, indices, walkers, targets = graph.indptr, graph.indices, pool.walkers, pool.vertices
    for i in range(searching):
        slot = pool.searching[i]
        walker = walkers[slot]
        if walker.candidate == walker.previous:
            targets[slot], walker.base, walker.count = walker.previous, walker.first, walker.degree
            continue
        targets[slot], walker.base, walker.count = walker.candidate, walker.previous_first, walker.previous_degree
        if not graph.directed:
            first = indptr[np.uint64(walker.candidate)]
            degree = indptr[np.uint64(walker.candidate + 1)] - first
            if degree < walker.count:
                targets[slot], walker.base, walker.count = walker.previous, first, degree
    _search(indices, targets, walkers, pool.searching, pool.deep, searching)
    for i in range(searching):
        slot = pool.searching[i]
        walker = walkers[slot]
        accepted = is_match = indices[np.uint64(walker.base)] == targets[slot]
        if walker.candidate != walker.previous:
            accepted = is_match == rule.prefers_common
        elif is_match and rule.weighted:
            _take_out_return(graph.cumulative, walker, walker.base)
            accepted = pool.sums[slot] < walker.return_weight * rule.return_excess
        elif not is_match:
            walker.return_known, walker.cells = 1, walker.degree
        pool.moving[moving] = pool.proposing[proposing] = slot
        moving += accepted
        proposing += not accepted
    return moving, proposing


@_compiled
def _weight(cumulative: Any, first: int, place: int) -> tuple[float, float]:
    """Return the sum of the weights before a place in the list that begins at ``first``, and the weight there."""
    before = cumulative[np.uint64(place - 1)] if place > first else 0.0
    return before, cumulative[np.uint64(place)] - before


@_compiled
def _take_out_return(cumulative: Any, walker: Any, place: int) -> None:
    """Take the step back, which is at ``place``, out of the list."""
    walker.return_sum, walker.return_weight = _weight(cumulative, walker.first, place)
    walker.return_place, walker.return_known = place, 1


@_compiled
def _interpolate(cumulative: Any, pool: WalkerPool, number: int) -> None:
    """Narrow down searches in long lists: each step goes as far as sums grow on average, and beyond the target."""
    walkers, deep, sums = pool.walkers, pool.deep, pool.sums
    left = 0
    for i in range(number):
        slot = pool.searching[i]
        walker = walkers[slot]
        if walker.count > _FAR:
            place = walker.first + np.int64(sums[slot] * walker.slope)
            walker.probe = min(max(place, walker.base), walker.base + walker.count - 1)
            prefetch(cumulative, walker.probe)
            deep[left] = slot
            left += 1
    for _ in range(_GUESSES):
        remaining = 0
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
            deep[remaining] = slot
            remaining += walker.count > _NEAR
        left = remaining


@_compiled
def _search(array: Any, targets: Any, walkers: Any, searching: Any, deep: Any, number: int) -> None:
    """Set ``base`` to the first place in each part of a sorted array that is not below the target, or to the last."""
    left = 0
    for i in range(number):
        walker = walkers[searching[i]]
        prefetch(array, walker.base + (walker.count >> 1) - 1)
        deep[left] = searching[i]
        left += walker.count > 1
    while left > 0:
        # All searches go one level down, so that they wait for memory together.
        remaining = 0
        for i in range(left):
            slot = deep[i]
            walker = walkers[slot]
            half = walker.count >> 1
            walker.base += half if array[np.uint64(walker.base + half - 1)] < targets[slot] else 0
            walker.count -= half
            prefetch(array, walker.base + (walker.count >> 1) - 1)
            deep[remaining] = slot
            remaining += walker.count > 1
        left = remaining
