"""Cost of a step against degree, on bipartite graphs of equal size whose hubs have from 10 to 10 million neighbors.

Half of the steps start at hubs, half at their neighbors, which have 10 each, of the star with 10 million leaves 1. The
graph whose hubs have 10 is 10-regular. One thread; processor time, the least of some turns.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import common
import numpy as np

from embedall_spark import randomness
from embedall_spark.graph.walks import Graph, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Costs = dict[str, dict[int, float]]

EDGES, QUICK_EDGES, LEAST = 10_000_000, 1_000_000, 10
DEGREES, QUICK_DEGREES = [10**power for power in range(1, 8)], [10, 10**4, 10**6]
BIASES = {"first_order": (1.0, 1.0), "p0.25_q4": (0.25, 4.0), "p4_q0.25": (4.0, 0.25)}
TURNS, QUICK_TURNS = 7, 2
WALKS, LENGTH = 20_000, 40
# A step at any degree costs at most three times as much as at degree 10.
GOALS = {f"{weights}_{bias}": 1 / 3 for weights in ("equal", "weighted") for bias in BIASES}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--edges", type=int, help="of each graph; the greatest degree")
    options = parser.parse_args(arguments)
    edges = options.edges or (QUICK_EDGES if options.quick else EDGES)
    if not options.quick:
        common.announce(10)
    degrees = [degree for degree in (QUICK_DEGREES if options.quick else DEGREES) if degree <= edges]
    costs = measure(degrees, edges, QUICK_TURNS if options.quick else TURNS)
    show(costs, degrees)
    print(common.result("hubs", compare(costs), GOALS))


def measure(degrees: Sequence[int], edges: int, turns: int) -> Costs:
    """Return nanoseconds per step, by weights and biases, then by degree."""
    graphs = {degree: bipartite(degree, edges) for degree in degrees}
    costs: Costs = {name: dict.fromkeys(degrees, np.inf) for name in GOALS}
    for turn in range(turns):
        for degree, weights in itertools.product(degrees, ("equal", "weighted")):
            graph = graphs[degree]
            graph = graph if weights == "weighted" else graph._replace(cumulative=np.empty(0))
            for bias, (p, q) in BIASES.items():
                name = f"{weights}_{bias}"
                costs[name][degree] = min(costs[name][degree], cost(graph, p, q, turn))
        common.say(
            f"turn {turn + 1}", **{name: {str(key): round(ns) for key, ns in costs[name].items()} for name in costs}
        )
    return costs


def cost(graph: Graph, p: float, q: float, turn: int) -> float:
    """Return nanoseconds of processor time per step."""
    starts = randomness.generator(turn).integers(0, len(graph.indptr) - 1, WALKS).astype(np.int32)
    walk_numbers = np.arange(WALKS)
    walk(graph, starts[:100], walk_numbers[:100], 3, p, q, turn)
    since = time.thread_time_ns()
    tokens, lengths = walk(graph, starts, walk_numbers, LENGTH, p, q, turn)
    return (time.thread_time_ns() - since) / (len(tokens) - len(lengths))


def bipartite(degree: int, edges: int) -> Graph:
    """Return an undirected graph of hubs with ``degree`` neighbors, which have 10 each, or, of one hub, 1 each.

    A neighbor has one of its edges to each tenth of the hubs, at random; weights are exponential.
    """
    classes = LEAST if degree * LEAST <= edges else 1
    neighbors, hubs = edges // classes, edges // degree
    lists: list[NDArray[Any]] = []
    homes = np.empty((neighbors, classes), np.int32)
    for i in range(classes):
        order = randomness.permutation(neighbors, i)
        homes[order, i] = np.arange(neighbors) // degree + i * (hubs // classes)
        lists.append(np.sort(order.reshape(-1, degree), axis=1).ravel())
    ends = np.concatenate(lists)
    indptr = np.concatenate([np.arange(hubs) * degree, edges + np.arange(neighbors + 1) * classes])
    there = weights(ends, np.repeat(np.arange(hubs), degree)).reshape(hubs, degree)
    back = weights(np.repeat(np.arange(neighbors), classes), homes.ravel().astype(np.int64)).reshape(-1, classes)
    cumulative = np.concatenate([np.cumsum(there, axis=1).ravel(), np.cumsum(back, axis=1).ravel()])
    return Graph(indptr, np.concatenate([(ends + hubs).astype(np.int32), homes.ravel()]), cumulative, False)


def weights(ends: NDArray[np.int64], hubs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return an edge's weight, the same from either end."""
    bits = randomness.mix_arrays(ends, hubs).view(np.uint64) >> np.uint64(11)
    return -np.log((bits + np.uint64(1)) / 2.0**53) + 1e-9


def show(costs: Costs, degrees: Sequence[int]) -> None:
    """Print nanoseconds per step as a table."""
    print(f"{'degree':>10}" + "".join(f"{name:>22}" for name in costs))
    for degree in degrees:
        print(f"{degree:>10}" + "".join(f"{by_degree[degree]:>22.1f}" for by_degree in costs.values()), flush=True)


def compare(costs: Costs) -> dict[str, float]:
    """Return the cost at the least degree over that where it is greatest."""
    return {name: by_degree[min(by_degree)] / max(by_degree.values()) for name, by_degree in costs.items()}


if __name__ == "__main__":
    main()
