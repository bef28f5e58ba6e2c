"""P and Q with the options that find most on validation items."""

from __future__ import annotations

import logging
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, field_validator

from embedall_spark.align import closed_form, moments, project, refining
from embedall_spark.align.contrastive import ContrastiveConfig
from embedall_spark.align.prepare import Preparation, prepare
from embedall_spark.align.project import Side
from embedall_spark.config import Section
from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from embedall_spark.align.closed_form import Maps
    from embedall_spark.align.contrastive import Pairs
    from embedall_spark.align.moments import Moments
    from embedall_spark.run import Run

log = logging.getLogger(__name__)

_HELD = 5_000  # validation pairs by which options are chosen


class FitConfig(Section):
    """How P and Q are fitted."""

    k: int = Field(
        64, ge=1, le=moments.MAX_SIZE, description="numbers of a latent vector; not swept, since it is the table's"
    )
    left_power: float = Field(
        1.0, gt=0, le=1,
        description="each number x of a left vector becomes sign(x) |x|^this first; below 1 it evens out large ones",
    )  # fmt: skip
    regularisation: tuple[tuple[float, float], ...] = Field(
        ((0.1, 0.1), (0.3, 0.3), (0.1, 1.0), (1.0, 1.0)),
        description="of the left and the right side, as a share of the mean variance; the best is taken",
    )
    power: tuple[float, ...] = Field(
        (0.0, 1.0, 2.0),
        description="each direction weighs its correlation to this power; the best is taken",
    )
    refine: ContrastiveConfig | None = Field(
        None, description="refine by a contrastive loss, kept where validation improves; unset: not. Keys:"
    )

    @property
    def left_preparation(self) -> Preparation:
        """What is done to the left side's vectors first."""
        return Preparation(self.left_power, unit=True)

    @field_validator("regularisation", "power")
    @classmethod
    def _some(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        if not value:
            raise ValueError("need one value at least")
        if np.min(np.array(value, float)) < 0:
            raise ValueError("need 0 or above")
        return value


def fit(
    run: Run, left: DataFrame, right: DataFrame, pairs: DataFrame, config: FitConfig, right_preparation: Preparation
) -> tuple[Side, Side, Maps, Moments]:
    """Return how both sides get into the latent space, by the options that are best on validation pairs.

    Args:
        run: where each try's figure goes.
        left: VECTORS.
        right: VECTORS, or id and vector.
        pairs: PAIRS and ``part``, as split() gives it.
        config: what is tried.
        right_preparation: of the right side.

    Returns:
        Both sides; P, Q and the correlations; and the moments of the training pairs.

    Raises:
        BadData: no training pair, or no validation pair where there is something to choose.
        ConfigError: k is more than the sides have in common, or a size is over its limit.
    """
    prepared = (config.left_preparation, right_preparation)
    train, validation = (pairs.where(f"part = '{part}'") for part in ("train", "validation"))
    if train.isEmpty():
        raise BadData("no pair of a training item can be used; need more pairs, or a smaller split.test")
    found = moments.of_pairs(left, right, train, prepared)
    log.info("moments of %s training pairs", f"{found.rows:,}")
    choice = len(config.regularisation) * len(config.power) > 1 or config.refine is not None
    held = None
    if choice:
        if validation.isEmpty():
            raise BadData(
                "no validation pair to choose options by: give more pairs, a larger split.validation, or one value of "
                "fit.regularisation and of fit.power and no fit.refine"
            )
        held = refining.sample(left, right, validation, seed=1, limit=_HELD)
    maps = choose(run, found, held, config, prepared)
    if config.refine is not None:
        maps = _refine(run, (left, right), (train, validation), _sides(maps, prepared), maps, config.refine)
    return *_sides(maps, prepared), maps, found


def choose(
    run: Run, found: Moments, held: Pairs | None, config: FitConfig, prepared: tuple[Preparation, Preparation]
) -> Maps:
    """Return the maps of the first of the best tries, by the mean recall@10 of both ways on validation pairs.

    Args:
        run: where each try's figure goes.
        found: of the training pairs.
        held: validation pairs, vectors as they are in their tables; None: there is one try only.
        config: what is tried.
        prepared: of the left and the right side.
    """
    best, most = None, -1.0
    sides = None if held is None else (prepare(held.left, prepared[0]), prepare(held.right, prepared[1]))
    same = np.eye(config.k)
    for number, (regularisation, power) in enumerate(product(config.regularisation, config.power)):
        if number % len(config.power) == 0:
            plain = closed_form.cca(found, config.k, regularisation, 0.0)
        maps = plain.first(config.k, power)
        if held is None or sides is None:
            return maps
        x, y = (sides[0] - maps.mean_left) @ maps.p, (sides[1] - maps.mean_right) @ maps.q
        mapped = held._replace(left=x.astype(np.float32), right=y.astype(np.float32))
        score = refining.scorer(mapped)(same, same)
        run.metric("validation/recall_10", score, number)
        log.info("try %d: regularisation %s, power %g: recall@10 %.4f", number, list(regularisation), power, score)
        if score > most:
            best, most = maps, score
            chosen = (number, *regularisation, power)
    assert best is not None
    for name, value in zip(("try", "regularisation_left", "regularisation_right", "power"), chosen, strict=True):
        run.metric(f"chosen/{name}", value)
    return best


def _refine(
    run: Run,
    tables: tuple[DataFrame, DataFrame],
    pairs: tuple[DataFrame, DataFrame],
    sides: tuple[Side, Side],
    maps: Maps,
    config: ContrastiveConfig,
) -> Maps:
    """Return the maps after the contrastive refinement; the same where validation did not improve."""
    left, right = (
        project.project(table.select("id", "vector", "norm"), side).where("vector IS NOT NULL")
        for table, side in zip(tables, sides, strict=True)
    )
    train, validation = (refining.sample(left, right, some, seed=config.seed) for some in pairs)
    found = refining.refine(run.spark, run.folder, train, validation, config)
    for epoch, score in enumerate(found.scores):
        run.metric("refine/recall_10", score, epoch)
    run.metric("refine/epoch", found.epoch)
    return maps._replace(p=maps.p @ found.left, q=maps.q @ found.right)


def _sides(maps: Maps, prepared: tuple[Preparation, Preparation]) -> tuple[Side, Side]:
    left = Side(maps.p.astype(np.float32), maps.mean_left, prepared[0])
    return left, Side(maps.q.astype(np.float32), maps.mean_right, prepared[1])
