"""P and Q with the options that find most on validation items."""

from __future__ import annotations

import logging
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from embedall_spark.config import Section
from embedall_spark.errors import BadData
from embedall_spark.latent import projection
from embedall_spark.latent.fit import cca, contrastive_job, covariance
from embedall_spark.latent.fit.contrastive import ContrastiveConfig
from embedall_spark.latent.preprocessing import Preparation, prepare
from embedall_spark.latent.projection import Side
from embedall_spark.run_context import Trial

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from embedall_spark.latent.fit.cca import Maps
    from embedall_spark.latent.fit.contrastive import Pairs
    from embedall_spark.latent.fit.contrastive_job import Score
    from embedall_spark.latent.fit.covariance import Moments
    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)

_HELD = 5_000  # validation pairs by which options are chosen


class FitConfig(Section):
    """How P and Q are fitted."""

    k: tuple[int, ...] = Field(
        (64,), description="numbers of a latent vector; of several the best that the sides have in common is taken"
    )
    left_power: float = Field(
        1.0, gt=0, le=1,
        description="each number x of a left vector becomes sign(x) |x|^this first; below 1 it evens out large ones",
    )  # fmt: skip
    regularisation: tuple[tuple[float, float], ...] = Field(
        ((0.1, 0.1), (0.1, 1.0), (0.3, 0.3), (0.3, 3.0), (1.0, 1.0), (1.0, 10.0), (3.0, 3.0)),
        description="of the left and the right side, as a share of the mean variance; the best is taken",
    )
    power: tuple[float, ...] = Field(
        (0.0, 1.0, 2.0),
        description="each direction weighs its correlation to this power; the best is taken",
    )
    refit: bool = Field(
        True,
        description="fit once more with what was chosen, to validation items too; a kept refinement stays as it is",
    )
    refine: ContrastiveConfig | None = Field(
        None, description="refine by a contrastive loss, kept where validation improves; unset: not. Keys:"
    )

    @field_validator("k", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @field_validator("k")
    @classmethod
    def _sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not all(1 <= k <= covariance.MAX_SIZE for k in value):
            raise ValueError(f"need 1 to {covariance.MAX_SIZE:,}, one number or several")
        return value

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


class Hyperparameters(NamedTuple):
    """Options of one fit."""

    regularisation: tuple[float, float]
    power: float
    k: int

    def fit(self, found: Moments) -> Maps:
        """Return the maps of moments."""
        return cca.cca(found, self.k, self.regularisation, self.power)

    def named(self) -> dict[str, float]:
        """Return the options by the names under which they are recorded."""
        left, right = self.regularisation
        return {"regularisation_left": left, "regularisation_right": right, "power": self.power, "k": self.k}


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

    Options are chosen by maps of the training pairs alone. The maps that come back are then fitted to training and
    validation pairs with these options, as scikit-learn's ``refit`` does, unless a refinement was kept: that was learnt
    in the coordinates of the first maps, and would have no validation pair left to be stopped by.

    Returns:
        Both sides; P, Q and the correlations; and the moments of the pairs that they are fitted to.

    Raises:
        BadData: no training pair, or no validation pair where there is something to choose.
        ConfigError: k is more than the sides have in common, or a size is over its limit.
    """
    prepared = (config.left_preparation, right_preparation)
    train, validation = (pairs.where(f"part = '{part}'") for part in ("train", "validation"))
    if train.isEmpty():
        raise BadData("no pair of a training item can be used; need more pairs, or a smaller split.test")
    found = covariance.of_pairs(left, right, train, prepared)
    log.info("moments of %s training pairs", f"{found.rows:,}")
    choice = len(config.regularisation) * len(config.power) * len(config.k) > 1 or config.refine is not None
    held = None
    if choice:
        if validation.isEmpty():
            raise BadData(
                "no validation pair to choose options by: give more pairs, a larger split.validation, or one value of "
                "fit.regularisation, of fit.power and of fit.k and no fit.refine"
            )
        held = contrastive_job.sample(left, right, validation, seed=1, limit=_HELD)
    options = choose(run, found, held, config, prepared)
    if config.refine is not None:
        maps = options.fit(found)
        refined = _refine(run, (left, right), (train, validation), _sides(maps, prepared), maps, config.refine)
        if refined is not None:
            return *_sides(refined, prepared), refined, found
    if config.refit and not validation.isEmpty():
        found = covariance.merge(found, covariance.of_pairs(left, right, validation, prepared))
        log.info("fitted once more, to %s pairs of training and validation", f"{found.rows:,}")
    maps = options.fit(found)
    return *_sides(maps, prepared), maps, found


def choose(
    run: Run, found: Moments, held: Pairs | None, config: FitConfig, prepared: tuple[Preparation, Preparation]
) -> Hyperparameters:
    """Return the best options by the mean reciprocal rank of both ways on validation pairs.

    Equal vectors of a side are one answer, see retrieval.measure(). Ties go to the greater recall@1, then to the
    smaller model.

    Args:
        run: where each try and its figure go.
        found: of the training pairs.
        held: validation pairs, vectors as they are in their tables; None: there is one try only.
        config: what is tried.
        prepared: of the left and the right side.
    """
    if held is None:
        return Hyperparameters(config.regularisation[0], config.power[0], config.k[0])
    sides = prepare(held.left, prepared[0]), prepare(held.right, prepared[1])
    tried: list[tuple[Score, Hyperparameters]] = []
    for regularisation in config.regularisation:
        # One fit serves all sizes and powers.
        plain = cca.cca(found, None, regularisation, 0.0)
        sizes = [k for k in config.k if k <= len(plain.strengths)]
        if left_out := set(config.k) - set(sizes):
            log.warning(
                "fit.k %s: left out, the sides relate along %d directions", sorted(left_out), len(plain.strengths)
            )
        plain = plain.truncated(max(sizes, default=min(config.k)))
        x, y = (sides[0] - plain.mean_left) @ plain.p, (sides[1] - plain.mean_right) @ plain.q
        for power, k in product(config.power, sizes):
            scale = plain.strengths[:k] ** power
            left, right = ((side[:, :k] * scale).astype(np.float32) for side in (x, y))
            score = contrastive_job.scorer(held._replace(left=left, right=right))(np.eye(k), np.eye(k))
            log.info("try %d: regularisation %s, power %g, k %d: MRR %.4f, recall@1 %.4f",
                     len(tried), list(regularisation), power, k, score.mrr, score.recall_1)  # fmt: skip
            for name, value in score._asdict().items():
                run.metric(f"validation/{name}", value, len(tried))
            tried.append((score, Hyperparameters(regularisation, power, k)))
    run.log_trials([Trial(f"try-{i}", one.named(), score._asdict()) for i, (score, one) in enumerate(tried)])
    best = max(range(len(tried)), key=lambda i: (round(tried[i][0].mrr, 6), tried[i][0].recall_1, -tried[i][1].k))
    for name, value in {"try": best, **tried[best][1].named()}.items():
        run.metric(f"chosen/{name}", value)
    return tried[best][1]


def _refine(
    run: Run,
    tables: tuple[DataFrame, DataFrame],
    pairs: tuple[DataFrame, DataFrame],
    sides: tuple[Side, Side],
    maps: Maps,
    config: ContrastiveConfig,
) -> Maps | None:
    """Return the maps after the contrastive refinement; None where validation did not improve."""
    left, right = (
        projection.project(table.select("id", "vector", "norm"), side).where("vector IS NOT NULL")
        for table, side in zip(tables, sides, strict=True)
    )
    train, validation = (contrastive_job.sample(left, right, some, seed=config.seed) for some in pairs)
    found = contrastive_job.refine(run.spark, run.folder, train, validation, config)
    for epoch, score in enumerate(found.scores):
        run.metric("refine/mrr", score, epoch)
    run.metric("refine/epoch", found.epoch)
    if found.epoch == 0:
        return None
    return maps._replace(p=maps.p @ found.left, q=maps.q @ found.right)


def _sides(maps: Maps, prepared: tuple[Preparation, Preparation]) -> tuple[Side, Side]:
    left = Side(maps.p.astype(np.float32), maps.mean_left, prepared[0])
    return left, Side(maps.q.astype(np.float32), maps.mean_right, prepared[1])
