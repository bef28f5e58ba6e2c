"""Is the other side of a pair found in the latent space? Both ways, on pairs that were not learnt from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark import randomness
from embedall_spark.errors import ConfigError
from embedall_spark.search import exact
from embedall_spark.search.exact_kernel import unit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Float = NDArray[np.float64]
    Vectors = NDArray[np.float32]

log = logging.getLogger(__name__)

MAX_ITEMS = 10_000  # of the left side that are asked for, and asked
MAX_PAIRS = 1_000_000
_MAX_BYTES = 256 << 20  # of both sides' vectors on the driver
_CELLS = 1 << 21  # scores held at once, in float64
_CUTS = (1, 5, 10)
_SAME = 1e-5  # unit vectors whose values differ by less are equal
_TIE = 1e-7  # cosines of float32 vectors that are this near are the same
WAYS = ("left_to_right", "right_to_left")


class Ranks(NamedTuple):
    """Where the best partner of each query stands; float64 [n] each."""

    above: Float
    """Candidates of a higher score."""
    level: Float
    """Candidates of the same score, the partner included."""
    partners: Float
    """How many of these are partners."""

    @property
    def rank(self) -> Float:
        """The rank, 1 for the first; where scores are equal the mean over the orders that they may be in."""
        return self.above + (self.level + 1) / (self.partners + 1)

    def within(self, cut: int) -> Float:
        """Return the chance of each query to find a partner among its first candidates, equal ones in any order."""
        missed = np.ones(len(self.above))
        for taken in range(cut):
            left = np.maximum(self.level - taken, 1)
            drawn = taken < cut - self.above
            missed = np.where(drawn, missed * np.maximum(left - self.partners, 0) / left, missed)
        return 1 - missed


def evaluate(
    left: DataFrame, right: DataFrame, pairs: DataFrame, *, csls: int = 0, seed: int = 1, limit: int = MAX_ITEMS
) -> dict[str, float]:
    """Return how well each side of held-out pairs finds the other, beside chance.

    Candidates are the items of these pairs' other side, equal vectors being one item. Where an item has several
    partners, the one that is found first counts; equal scores count as half found.

    Args:
        left: VECTORS of the latent space.
        right: VECTORS likewise.
        pairs: PAIRS that were not learnt from; those without both vectors are left out.
        csls: compare by CSLS over so many neighbours, see ranks(); 0: by cosine.
        seed: of the choice of items.
        limit: at most so many items of the left side, chosen by a hash, with all their partners.

    Returns:
        ``left_to_right/recall_1``, ``_5``, ``_10``, ``mrr``, ``median_rank``, ``candidates`` and ``chance_recall_1``,
        ``_5``, ``_10``, ``chance_mrr``; the same for ``right_to_left``. Nothing where no pair is left.

    Raises:
        ConfigError: ``limit`` is out of range, the items have over MAX_PAIRS pairs, or their vectors take too much.
    """
    if not 1 <= limit <= MAX_ITEMS:
        raise ConfigError(f"limit {limit:,}: need 1 to {MAX_ITEMS:,} items")
    sides = [(left, "left"), (right, "right")]
    for side, name in sides:
        pairs = pairs.join(side.select(F.col("id").alias(name)), name, "left_semi")
    few = pairs.select("left").distinct().orderBy(F.xxhash64(F.lit(seed), "left"), "left").limit(limit)
    some = pairs.join(few, "left", "left_semi").select("left", "right").distinct().limit(MAX_PAIRS + 1).toArrow()
    if len(some) > MAX_PAIRS:
        raise ConfigError(f"{limit:,} items have over {MAX_PAIRS:,} pairs to measure by; lower the limit")
    if not len(some):
        log.warning("no held-out pair has vectors on both sides, so that retrieval cannot be judged")
        return {}
    some = some.sort_by([("left", "ascending"), ("right", "ascending")])
    names = [sorted(set(some[name].to_pylist())) for _, name in sides]
    places = [{name: at for at, name in enumerate(each)} for each in names]
    rows = [[place[name] for name in some[of].to_pylist()] for place, (_, of) in zip(places, sides, strict=True)]
    lefts, rights = (_fetch(side, each) for (side, _), each in zip(sides, names, strict=True))
    figures = measure(lefts, rights, np.array(rows).T, csls=csls)
    log.info("retrieval: %s", ", ".join(f"{way} recall@10 {figures[f'{way}/recall_10']:.3f}" for way in WAYS))
    return figures


def measure(left: Vectors, right: Vectors, links: NDArray[np.int64], *, csls: int = 0) -> dict[str, float]:
    """Return the figures of evaluate() for matrices.

    Equal vectors of a side are one item, whose partners are those of all of them: where many pictures have the same
    title, each of them is a right answer to it, and the title is one candidate.

    Args:
        left: float32 [n, k].
        right: float32 [m, k].
        links: (row of left, row of right) of each pair, int64 [pairs, 2]; each row of both sides is in one at least.
        csls: as in evaluate().
    """
    figures: dict[str, float] = {}
    (left, left_items), (right, right_items) = _distinct(left), _distinct(right)
    links = np.unique(np.stack([left_items[links[:, 0]], right_items[links[:, 1]]], axis=1), axis=0)
    for way, queries, candidates, pairs in (
        (WAYS[0], left, right, links),
        (WAYS[1], right, left, links[:, ::-1]),
    ):
        found = ranks(queries, candidates, pairs, csls=csls)
        partners = np.bincount(pairs[:, 0], minlength=len(queries))
        told = {f"recall_{cut}": float(found.within(cut).mean()) for cut in _CUTS}
        told |= {"mrr": float((1 / found.rank).mean()), "median_rank": float(np.median(found.rank))}
        told |= {f"chance_{name}": value for name, value in _chance(partners, len(candidates)).items()}
        figures |= {f"{way}/{name}": value for name, value in told.items()} | {f"{way}/candidates": len(candidates)}
    return figures


def ranks(queries: Vectors, candidates: Vectors, links: NDArray[np.int64], *, csls: int = 0) -> Ranks:
    """Return where each query's best partner stands among the candidates.

    CSLS (Conneau et al. 2018, "Word
    Translation Without Parallel Data", section 2.3) takes from a candidate's cosine what it has on average to its
    nearest queries, which takes hubs down; what depends on the query alone changes no rank and is left out.

    Args:
        queries: float32 [n, k].
        candidates: float32 [m, k].
        links: (query, candidate) of each pair, int64 [pairs, 2]; each query is in one at least.
        csls: how many queries near a candidate; 0: ranks by cosine.
    """
    asked, among = unit(queries).astype(np.float64), unit(candidates).astype(np.float64)
    with threadpool_limits(1):
        hubness = _hubness(among, asked, csls) if csls else np.zeros(len(among))
        found = np.empty((3, len(asked)))
        links = links[np.argsort(links[:, 0], kind="stable")]
        step = max(1, _CELLS // len(among))
        for start in range(0, len(asked), step):
            scores = 2 * asked[start : start + step] @ among.T - hubness
            first, last = np.searchsorted(links[:, 0], [start, start + len(scores)])
            row, column = (links[first:last] - [start, 0]).T
            own = np.full(len(scores), -np.inf)
            np.maximum.at(own, row, scores[row, column])
            above = (scores > own[:, None] + 2 * _TIE).sum(axis=1)
            level = (np.abs(scores - own[:, None]) <= 2 * _TIE).sum(axis=1)
            partners = np.zeros(len(scores))
            np.add.at(partners, row, np.abs(scores[row, column] - own[row]) <= 2 * _TIE)
            found[:, start : start + len(scores)] = above, level, partners
    return Ranks(*found)


def _distinct(rows: Vectors) -> tuple[Vectors, NDArray[np.int64]]:
    """Return the rows that differ by more than rounding, and for each row [n] the number of its equal among them."""
    units = unit(rows)
    # Equal rows follow each other in the order of their projections on one random direction.
    order = np.argsort(units @ randomness.generator(1, rows.shape[1]).standard_normal(rows.shape[1]), kind="stable")
    differs = np.abs(np.diff(units[order], axis=0)).max(axis=1, initial=0) > _SAME
    items = np.empty(len(rows), np.int64)
    items[order] = np.concatenate([[0], np.cumsum(differs)])
    _, first, items = np.unique(items, return_index=True, return_inverse=True)
    # In the order of their first rows, so that sides without equal rows stay as they are.
    place = np.argsort(np.argsort(first))
    return rows[np.sort(first)], place[items]


def _hubness(among: Float, asked: Float, near: int) -> Float:
    """Return the mean cosine of each candidate to its nearest queries, float64 [m]."""
    near = min(near, len(asked))
    means = np.empty(len(among))
    step = max(1, _CELLS // len(asked))
    for start in range(0, len(among), step):
        scores = among[start : start + step] @ asked.T
        means[start : start + step] = np.partition(scores, len(asked) - near, axis=1)[:, -near:].mean(axis=1)
    return means


def _chance(partners: NDArray[np.int64], candidates: int) -> dict[str, float]:
    """Return recall and MRR of candidates in a random order."""
    found: dict[str, float] = {}
    # The first partner comes after place r with probability (m - r choose p) / (m choose p).
    last = int(candidates - partners.min()) + 1
    after = np.ones(len(partners))
    mrr = np.zeros(len(partners))
    for place in range(1, last + 1):
        here = after * partners / (candidates - place + 1)
        mrr += here / place
        after = after - here
        if place in _CUTS:
            found[f"recall_{place}"] = float(1 - after.mean())
    return {**{f"recall_{cut}": found.get(f"recall_{cut}", 1.0) for cut in _CUTS}, "mrr": float(mrr.mean())}


def _fetch(side: DataFrame, names: list[str]) -> Vectors:
    """Return the vectors of ids, in the ids' order."""
    row = side.select(F.size("vector").alias("numbers")).first()
    if row is not None and 4 * row["numbers"] * len(names) > _MAX_BYTES // 2:
        raise ConfigError(
            f"{len(names):,} vectors of {row['numbers']:,} numbers take over {_MAX_BYTES >> 21} MiB; lower the limit"
        )
    wanted = side.sparkSession.createDataFrame(pa.table({"id": pa.array(names, pa.string())}))
    table = side.select("id", "vector").join(wanted, "id", "left_semi").toArrow().sort_by("id")
    return exact.to_matrix(table["vector"].combine_chunks())
