"""Retrieval in the latent space: does each side of held-out pairs find the other?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark import randomness
from embedall_spark.errors import ConfigError
from embedall_spark.schemas import from_arrow
from embedall_spark.vectors import dimension, to_matrix, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Float = NDArray[np.float64]
    Vectors = NDArray[np.float32]

log = logging.getLogger(__name__)

MAX_ITEMS = 10_000  # of the left side
MAX_PAIRS = 1_000_000
_MAX_BYTES = 256 << 20  # of both sides' vectors on the driver
_MAX_CELLS = 1 << 21  # scores in memory at once, in float64
_CUTS = (1, 5, 10)
_SAME = 1e-5  # unit vectors whose values differ by less are equal
_TIE = 1e-7  # cosines of float32 vectors that differ by less are equal
WAYS = ("left_to_right", "right_to_left")


class Ranks(NamedTuple):
    """The rank of each query's best partner, ties apart; float64 [n] each."""

    above: Float
    """How many candidates have a higher score."""
    level: Float
    """How many have the same score, the partner included."""
    partners: Float
    """How many of these are partners."""

    @property
    def rank(self) -> Float:
        """The rank, 1 for the first; of equal scores the mean over all their orders."""
        return self.above + (self.level + 1) / (self.partners + 1)

    def within(self, cut: int) -> Float:
        """Return each query's probability of a partner among its first ``cut`` candidates, ties in any order."""
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

    Candidates are the items of these pairs' other side, equal vectors being one item. If an item has several partners,
    the one that is found first counts; equal scores count as half found.

    Args:
        left: VECTORS of the latent space.
        right: VECTORS likewise.
        pairs: PAIRS that were not trained on; those without both vectors are left out.
        csls: rank by CSLS over so many neighbors, see ranks(); 0: by cosine.
        seed: of the sample of items.
        limit: at most so many items of the left side, chosen by a hash, with all their partners.

    Returns:
        ``left_to_right/recall_1``, ``_5``, ``_10``, ``mrr``, ``median_rank``, ``candidates`` and ``chance_recall_1``,
        ``_5``, ``_10``, ``chance_mrr``; the same for ``right_to_left``. Nothing if no pair is left.

    Raises:
        ConfigError: ``limit`` is out of range, the items have over MAX_PAIRS pairs, or their vectors take too much.
    """
    if not 1 <= limit <= MAX_ITEMS:
        raise ConfigError(f"limit {limit:,}: need 1 to {MAX_ITEMS:,} items")
    sides = [(left, "left"), (right, "right")]
    for side, name in sides:
        pairs = pairs.join(side.select(F.col("id").alias(name)), name, "left_semi")
    sample = pairs.select("left").distinct().orderBy(F.xxhash64(F.lit(seed), "left"), "left").limit(limit)
    sampled = pairs.join(sample, "left", "left_semi").select("left", "right").distinct()
    table = sampled.limit(MAX_PAIRS + 1).toArrow()
    if len(table) > MAX_PAIRS:
        raise ConfigError(f"{limit:,} items have over {MAX_PAIRS:,} pairs to measure by; lower the limit")
    if not len(table):
        log.warning("no held-out pair has vectors on both sides, so that retrieval cannot be judged")
        return {}
    table = table.sort_by([("left", "ascending"), ("right", "ascending")])
    names = [sorted(set(table[name].to_pylist())) for _, name in sides]
    places = [{name: place for place, name in enumerate(ids)} for ids in names]
    rows = [
        [place[name] for name in table[column].to_pylist()] for place, (_, column) in zip(places, sides, strict=True)
    ]
    lefts, rights = (_fetch(side, ids) for (side, _), ids in zip(sides, names, strict=True))
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
        best = ranks(queries, candidates, pairs, csls=csls)
        partners = np.bincount(pairs[:, 0], minlength=len(queries))
        values = {f"recall_{cut}": float(best.within(cut).mean()) for cut in _CUTS}
        values |= {"mrr": float((1 / best.rank).mean()), "median_rank": float(np.median(best.rank))}
        values |= {f"chance_{name}": value for name, value in _chance(partners, len(candidates)).items()}
        figures |= {f"{way}/{name}": value for name, value in values.items()} | {f"{way}/candidates": len(candidates)}
    return figures


def ranks(queries: Vectors, candidates: Vectors, links: NDArray[np.int64], *, csls: int = 0) -> Ranks:
    """Return the rank of each query's best partner among the candidates.

    CSLS (Conneau et al. 2018, "Word Translation Without Parallel Data", section 2.3) subtracts from a candidate's
    cosine its mean cosine to its nearest queries, which lowers hubs; the term of the query alone changes no rank and is
    left out.

    Args:
        queries: float32 [n, k].
        candidates: float32 [m, k].
        links: (query, candidate) of each pair, int64 [pairs, 2]; each query is in one at least.
        csls: over how many of a candidate's nearest queries; 0: ranks by cosine.
    """
    query_units, candidate_units = unit(queries).astype(np.float64), unit(candidates).astype(np.float64)
    with threadpool_limits(1):
        hubness = _hubness(candidate_units, query_units, csls) if csls else np.zeros(len(candidate_units))
        result = np.empty((3, len(query_units)))
        links = links[np.argsort(links[:, 0], kind="stable")]
        step = max(1, _MAX_CELLS // len(candidate_units))
        for start in range(0, len(query_units), step):
            scores = 2 * query_units[start : start + step] @ candidate_units.T - hubness
            first, last = np.searchsorted(links[:, 0], [start, start + len(scores)])
            row, column = (links[first:last] - [start, 0]).T
            best = np.full(len(scores), -np.inf)
            np.maximum.at(best, row, scores[row, column])
            above = (scores > best[:, None] + 2 * _TIE).sum(axis=1)
            level = (np.abs(scores - best[:, None]) <= 2 * _TIE).sum(axis=1)
            partners = np.zeros(len(scores))
            np.add.at(partners, row, np.abs(scores[row, column] - best[row]) <= 2 * _TIE)
            result[:, start : start + len(scores)] = above, level, partners
    return Ranks(*result)


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


def _hubness(candidates: Float, queries: Float, k: int) -> Float:
    """Return the mean cosine of each candidate to its ``k`` nearest queries, float64 [m]."""
    k = min(k, len(queries))
    means = np.empty(len(candidates))
    step = max(1, _MAX_CELLS // len(queries))
    for start in range(0, len(candidates), step):
        scores = candidates[start : start + step] @ queries.T
        means[start : start + step] = np.partition(scores, len(queries) - k, axis=1)[:, -k:].mean(axis=1)
    return means


def _chance(partners: NDArray[np.int64], candidates: int) -> dict[str, float]:
    """Return recall and MRR of candidates in a random order."""
    recall: dict[str, float] = {}
    # The first partner comes after place r with probability (m - r choose p) / (m choose p).
    last = int(candidates - partners.min()) + 1
    after = np.ones(len(partners))
    mrr = np.zeros(len(partners))
    for place in range(1, last + 1):
        here = after * partners / (candidates - place + 1)
        mrr += here / place
        after = after - here
        if place in _CUTS:
            recall[f"recall_{place}"] = float(1 - after.mean())
    return {**{f"recall_{cut}": recall.get(f"recall_{cut}", 1.0) for cut in _CUTS}, "mrr": float(mrr.mean())}


def _fetch(side: DataFrame, names: list[str]) -> Vectors:
    """Return the vectors of ids, in the ids' order."""
    d = dimension(side) or 0
    if 4 * d * len(names) > _MAX_BYTES // 2:
        raise ConfigError(
            f"{len(names):,} vectors of {d:,} dimensions take over {_MAX_BYTES >> 21} MiB; lower the limit"
        )
    wanted = from_arrow(side.sparkSession, pa.table({"id": pa.array(names, pa.string())}))
    table = side.select("id", "vector").join(wanted, "id", "left_semi").toArrow().sort_by("id")
    return to_matrix(table["vector"])
