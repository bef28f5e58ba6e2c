"""Refinement of P and Q by a contrastive loss, from the closed form on; kept only where validation improves."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field

from embedall_spark.config import MOVABLE, Section
from embedall_spark.errors import ConfigError, TrainingDiverged
from embedall_spark.randomness import permutation

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Vectors = NDArray[np.float32]

log = logging.getLogger(__name__)

# As in CLIP: above it the loss is one of rounding.
_SHARPEST = math.log(100.0)


class ContrastiveConfig(Section):
    """How P and Q are refined."""

    epochs: int = Field(20, ge=1, le=10_000, description="how often all pairs are gone through")
    batch: int = Field(512, ge=2, le=65_536, description="pairs of a step; each one's negatives are the others")
    rate: float = Field(1e-3, gt=0, description="step size of Adam at the beginning; it falls to 0 along a cosine")
    decay: float = Field(0.0, ge=0, description="pull of both matrices towards the closed form, per step and rate")
    temperature: float = Field(0.07, gt=0, description="of the loss at the beginning; it is learnt")
    seed: int = Field(1, description="of the order of the pairs")
    gpu: bool = Field(False, description="on a GPU", json_schema_extra=MOVABLE)


class Pairs(NamedTuple):
    """Pairs of latent vectors, row by row, before they are brought to length 1."""

    left: Vectors
    """float32 [n, k]."""
    right: Vectors
    """float32 [n, k]."""
    left_ids: NDArray[np.int64]
    """Which item of the left side a row is, int64 [n]; rows of the same item are no negatives of each other."""
    right_ids: NDArray[np.int64]
    """Which item of the right side, int64 [n]; of equal vectors the same."""
    weights: NDArray[np.float64]
    """float64 [n]."""


class Refined(NamedTuple):
    """What the refinement has made: P becomes P left, Q becomes Q right."""

    left: Float
    """float64 [k, k]; the identity where nothing was better than the closed form."""
    right: Float
    temperature: float
    epoch: int
    """The epoch whose matrices these are; 0: the closed form's."""
    scores: list[float]
    """Of the closed form and after each epoch, by the function given."""


def refine(
    pairs: Pairs, config: ContrastiveConfig, score: Callable[[Float, Float], float], device: str = "cpu"
) -> Refined:
    """Return the matrices that score best, among those of the closed form and of each epoch.

    The loss is symmetric InfoNCE with a learned temperature (Radford et al. 2021, "Learning Transferable Visual Models
    From Natural Language Supervision", figure 3): of each row of a batch its partner is to be told from the others'.
    Where several rows of a batch share an item, all of its partners are right. The same pairs give the same result on
    the same kind of device; nothing depends on torch's own random numbers.

    Args:
        pairs: of the training items.
        config: how.
        score: what the matrices [k, k] are worth on validation items; more is better.
        device: of torch.

    Raises:
        ConfigError: fewer than two pairs.
        TrainingDiverged: the loss is not finite.
    """
    import torch

    if len(pairs.left) < 2:
        raise ConfigError(f"{len(pairs.left)} pair(s) to refine by; a pair's negatives are others, so need 2 or more")
    size = pairs.left.shape[1]
    identity = torch.eye(size, device=device)
    left, right = (identity.clone().requires_grad_() for _ in range(2))
    scale = torch.tensor(-math.log(config.temperature), device=device).requires_grad_()
    tensors = [torch.from_numpy(np.require(part, requirements=["C", "W"])).to(device) for part in pairs]
    adam = torch.optim.Adam([left, right, scale], lr=config.rate)
    best = Refined(np.eye(size), np.eye(size), config.temperature, 0, [score(np.eye(size), np.eye(size))])
    scores = list(best.scores)
    steps = max(1, len(pairs.left) // config.batch)
    for epoch in range(1, config.epochs + 1):
        total = 0.0
        for step, rows in enumerate(np.array_split(permutation(len(pairs.left), config.seed, epoch), steps)):
            done = (epoch - 1 + step / steps) / config.epochs
            adam.param_groups[0]["lr"] = config.rate * (1 + math.cos(math.pi * done)) / 2
            at = torch.from_numpy(rows).to(device)
            found = loss([tensor[at] for tensor in tensors], left, right, scale)
            pull = ((left - identity) ** 2).sum() + ((right - identity) ** 2).sum()
            adam.zero_grad()
            (found + config.decay * pull).backward()  # type: ignore[no-untyped-call]
            adam.step()
            with torch.no_grad():
                scale.clamp_(0, _SHARPEST)
            total += float(found.detach())
        if not math.isfinite(total):
            raise TrainingDiverged(f"the contrastive loss is not finite in epoch {epoch}; lower the rate {config.rate}")
        ends = [matrix.detach().cpu().numpy().astype(np.float64) for matrix in (left, right)]
        scores.append(score(*ends))
        log.info("contrastive epoch %d: loss %.4f, score %.4f", epoch, total / steps, scores[-1])
        if scores[-1] > max(scores[:-1]):
            best = Refined(ends[0], ends[1], math.exp(-float(scale.detach())), epoch, [])
    return best._replace(scores=scores)


def loss(batch: list[torch.Tensor], left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of both ways' cross entropies.

    Args:
        batch: rows of the five parts of Pairs.
        left: [k, k].
        right: [k, k].
        scale: the logarithm of 1 / temperature.
    """
    import torch
    from torch.nn import functional as F

    x, y, left_ids, right_ids, weights = batch
    logits = F.normalize(x @ left, dim=1) @ F.normalize(y @ right, dim=1).T * scale.exp()
    same = (left_ids[:, None] == left_ids) | (right_ids[:, None] == right_ids)
    targets = same.to(logits.dtype)
    targets = targets / targets.sum(dim=1, keepdim=True)
    each: Any = [-(targets * torch.log_softmax(way, dim=1)).sum(dim=1) for way in (logits, logits.T)]
    share = (weights / weights.sum()).to(logits.dtype)
    total: torch.Tensor = ((each[0] + each[1]) / 2 * share).sum()
    return total
