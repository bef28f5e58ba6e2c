"""P and Q, fitted with the hyperparameters that score best on the validation pairs."""

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

_MAX_VALIDATION_PAIRS = 5_000  # that trials are scored on


class FitConfig(Section):
    """How P and Q are fitted."""

    as_is: bool = Field(
        False,
        description="keep the vectors of both towers of one network as they are (input.text_tower); nothing is fitted",
    )
    k: tuple[int, ...] = Field(
        (64,), description="dimensions of the latent space; of several values the best on the validation pairs is taken"
    )
    left_power: float = Field(
        1.0, gt=0, le=1,
        description="each value x of a left vector first becomes sign(x) abs(x)^this; below 1 it dampens large values",
    )  # fmt: skip
    regularisation: tuple[tuple[float, float], ...] = Field(
        ((0.1, 0.1), (0.1, 1.0), (0.3, 0.3), (0.3, 3.0), (1.0, 1.0), (1.0, 10.0), (3.0, 3.0)),
        description="[left, right] pairs, as shares of each side's mean variance; the best pair is taken",
    )
    power: tuple[float, ...] = Field(
        (0.0, 1.0, 2.0),
        description="each direction is scaled by its correlation to this power; the best value is taken",
    )
    refit: bool = Field(
        True,
        description="fit again with the chosen values, on training and validation pairs; not after a refinement",
    )
    refine: ContrastiveConfig | None = Field(
        None, description="refine by a contrastive loss, if validation improves; unset: no refinement. Keys:"
    )

    @field_validator("k", mode="before")
    @classmethod
    def _as_tuple(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @field_validator("k")
    @classmethod
    def _check_k(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not all(1 <= k <= covariance.MAX_SIZE for k in value):
            raise ValueError(f"need 1 to {covariance.MAX_SIZE:,}, one value or a list")
        return value

    @property
    def left_preparation(self) -> Preparation:
        """How the left side's vectors are transformed before the fit."""
        return Preparation(self.left_power, unit=True)

    @field_validator("regularisation", "power")
    @classmethod
    def _check_values(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        if not value:
            raise ValueError("need at least one value")
        if np.min(np.array(value, float)) < 0:
            raise ValueError("need 0 or above")
        return value


class Hyperparameters(NamedTuple):
    """Hyperparameters of one fit."""

    regularisation: tuple[float, float]
    power: float
    k: int

    def fit(self, moments: Moments) -> Maps:
        """Return the maps fitted to the moments."""
        return cca.cca(moments, self.k, self.regularisation, self.power)

    def as_dict(self) -> dict[str, float]:
        """Return the values by the names under which MLflow records them."""
        left, right = self.regularisation
        return {"regularisation_left": left, "regularisation_right": right, "power": self.power, "k": self.k}


def fit(
    run: Run, left: DataFrame, right: DataFrame, pairs: DataFrame, config: FitConfig, right_preparation: Preparation
) -> tuple[Side, Side, Maps, Moments]:
    """Return both sides' projections into the latent space, with the hyperparameters that score best on validation.

    The hyperparameters are chosen by maps fitted to the training pairs alone. With these values the returned maps are
    then fitted to training and validation pairs, as scikit-learn's ``refit`` does, unless a refinement was accepted: it
    was learned in the coordinates of the first maps, and no validation pair would be left to stop it.

    Args:
        run: records each trial and its scores.
        left: VECTORS.
        right: VECTORS, or id and vector.
        pairs: PAIRS and ``part``, as split() returns them.
        config: the values to try.
        right_preparation: of the right side's vectors.

    Returns:
        Both sides; P, Q and the correlations; and the moments of the pairs that they are fitted to.

    Raises:
        BadData: there is no training pair, or no validation pair although there are values to choose from.
        ConfigError: the sides have fewer than k directions in common, or a dimension exceeds its limit.
    """
    preparations = (config.left_preparation, right_preparation)
    train, validation = (pairs.where(f"part = '{part}'") for part in ("train", "validation"))
    if train.isEmpty():
        raise BadData("no training item has a usable pair; give more pairs, or a smaller split.test")
    moments = covariance.of_pairs(left, right, train, preparations)
    log.info("computed the moments of %s training pairs", f"{moments.rows:,}")
    validation_pairs = None
    if len(config.regularisation) * len(config.power) * len(config.k) > 1 or config.refine is not None:
        if validation.isEmpty():
            raise BadData(
                "no validation pair to choose options by: give more pairs, a larger split.validation, or one value of "
                "fit.regularisation, of fit.power and of fit.k and no fit.refine"
            )
        validation_pairs = contrastive_job.sample(left, right, validation, seed=1, limit=_MAX_VALIDATION_PAIRS)
    best = choose(run, moments, validation_pairs, config, preparations)
    if config.refine is not None:
        maps = best.fit(moments)
        refined = _refine(run, (left, right), (train, validation), _sides(maps, preparations), maps, config.refine)
        if refined is not None:
            return *_sides(refined, preparations), refined, moments
    if config.refit and not validation.isEmpty():
        moments = covariance.merge(moments, covariance.of_pairs(left, right, validation, preparations))
        log.info("refitted to %s training and validation pairs", f"{moments.rows:,}")
    maps = best.fit(moments)
    return *_sides(maps, preparations), maps, moments


def choose(
    run: Run,
    moments: Moments,
    validation: Pairs | None,
    config: FitConfig,
    preparations: tuple[Preparation, Preparation],
) -> Hyperparameters:
    """Return the hyperparameters with the highest mean reciprocal rank, over both directions, on the validation pairs.

    Equal vectors of a side count as one answer, see retrieval.measure(). Ties go to the higher recall@1, then to the
    smaller k.

    Args:
        run: records each trial and its scores.
        moments: of the training pairs.
        validation: validation pairs, their vectors as in the tables; None: the first value of each list is returned.
        config: the values to try.
        preparations: of the left and the right side.
    """
    if validation is None:
        return Hyperparameters(config.regularisation[0], config.power[0], config.k[0])
    sides = prepare(validation.left, preparations[0]), prepare(validation.right, preparations[1])
    trials: list[tuple[Score, Hyperparameters]] = []
    axes = cca.PrincipalAxes.of(moments)
    for regularisation in config.regularisation:
        # One fit serves all k and powers.
        maps = cca.cca(axes, None, regularisation, 0.0)
        sizes = [k for k in config.k if k <= len(maps.strengths)]
        if skipped := set(config.k) - set(sizes):
            log.warning(
                "fit.k %s skipped: the sides have only %d directions in common", sorted(skipped), len(maps.strengths)
            )
        maps = maps.truncated(max(sizes, default=min(config.k)))
        x, y = (sides[0] - maps.mean_left) @ maps.p, (sides[1] - maps.mean_right) @ maps.q
        for power, k in product(config.power, sizes):
            scale = maps.strengths[:k] ** power
            left, right = ((side[:, :k] * scale).astype(np.float32) for side in (x, y))
            score = contrastive_job.scorer(validation._replace(left=left, right=right))(np.eye(k), np.eye(k))
            log.info("trial %d: regularisation %s, power %g, k %d: MRR %.4f, recall@1 %.4f",
                     len(trials), list(regularisation), power, k, score.mrr, score.recall_1)  # fmt: skip
            for name, value in score._asdict().items():
                run.metric(f"validation/{name}", value, len(trials))
            trials.append((score, Hyperparameters(regularisation, power, k)))
    run.log_trials([Trial(f"try-{i}", values.as_dict(), score._asdict()) for i, (score, values) in enumerate(trials)])
    best = max(range(len(trials)), key=lambda i: (round(trials[i][0].mrr, 6), trials[i][0].recall_1, -trials[i][1].k))
    for name, value in {"try": best, **trials[best][1].as_dict()}.items():
        run.metric(f"chosen/{name}", value)
    return trials[best][1]


def _refine(
    run: Run,
    tables: tuple[DataFrame, DataFrame],
    pairs: tuple[DataFrame, DataFrame],
    sides: tuple[Side, Side],
    maps: Maps,
    config: ContrastiveConfig,
) -> Maps | None:
    """Return the maps after the contrastive refinement; None if validation did not improve."""
    left, right = (
        projection.project(table.select("id", "vector", "norm"), side).where("vector IS NOT NULL")
        for table, side in zip(tables, sides, strict=True)
    )
    train, validation = (contrastive_job.sample(left, right, part, seed=config.seed) for part in pairs)
    refined = contrastive_job.refine(run.spark, run.folder, train, validation, config)
    for epoch, score in enumerate(refined.scores):
        run.metric("refine/mrr", score, epoch)
    run.metric("refine/epoch", refined.epoch)
    if refined.epoch == 0:
        return None
    return maps._replace(p=maps.p @ refined.left, q=maps.q @ refined.right)


def _sides(maps: Maps, preparations: tuple[Preparation, Preparation]) -> tuple[Side, Side]:
    left = Side(maps.p.astype(np.float32), maps.mean_left, preparations[0])
    return left, Side(maps.q.astype(np.float32), maps.mean_right, preparations[1])
