"""Refinement of P and Q by a contrastive loss, starting from the closed form; kept only if validation improves."""

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

# As in CLIP: above it the loss is dominated by rounding.
_MAX_SCALE = math.log(100.0)


class ContrastiveConfig(Section):
    """Options of the contrastive refinement of P and Q."""

    epochs: int = Field(20, ge=1, le=10_000, description="passes over all pairs")
    batch: int = Field(
        512, ge=2, le=65_536, description="pairs per step; the other pairs of the step are a pair's negatives"
    )
    rate: float = Field(1e-3, gt=0, description="learning rate of Adam at the start; it decays to 0 along a cosine")
    decay: float = Field(0.0, ge=0, description="weight of the penalty that pulls both matrices toward the closed form")
    temperature: float = Field(0.07, gt=0, description="temperature of the loss at the start; it is learned")
    seed: int = Field(1, description="of the order of the pairs")
    gpu: bool = Field(False, description="train on a GPU", json_schema_extra=MOVABLE)


class Pairs(NamedTuple):
    """Pairs of latent vectors, row by row, before they are scaled to length 1."""

    left: Vectors
    """float32 [n, k]."""
    right: Vectors
    """float32 [n, k]."""
    left_ids: NDArray[np.int64]
    """The left side's item of each row, int64 [n]; rows of one item are not negatives of each other."""
    right_ids: NDArray[np.int64]
    """The right side's item of each row, int64 [n]; equal vectors are one item."""
    weights: NDArray[np.float64]
    """float64 [n]."""


class Refined(NamedTuple):
    """Result of the refinement: P becomes P left, Q becomes Q right."""

    left: Float
    """float64 [k, k]; the identity if nothing was better than the closed form."""
    right: Float
    """float64 [k, k], likewise."""
    temperature: float
    epoch: int
    """The epoch whose matrices these are; 0: the closed form's."""
    scores: list[float]
    """Score of the closed form, then after each epoch."""


def refine(
    pairs: Pairs, config: ContrastiveConfig, score: Callable[[Float, Float], float], device: str = "cpu"
) -> Refined:
    """Return the matrices of the best score, of the closed form's and each epoch's.

    The loss is symmetric InfoNCE with a learned temperature (Radford et al. 2021, "Learning Transferable Visual Models
    From Natural Language Supervision", figure 3): each row of a batch has to be matched with its partner among the
    other rows' partners. If several rows of a batch share an item, all of their partners are right. The same pairs give
    the same result on the same kind of device; nothing depends on torch's own random numbers.

    Args:
        pairs: of the training items.
        config: options of the refinement.
        score: the score on validation items of two matrices [k, k]; higher is better.
        device: of torch.

    Raises:
        ConfigError: fewer than two pairs.
        TrainingDiverged: the loss is not finite.
    """
    import torch

    if len(pairs.left) < 2:
        raise ConfigError(f"{len(pairs.left)} pair(s) to refine by; need 2 or more, because each needs a negative")
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
            progress = (epoch - 1 + step / steps) / config.epochs
            adam.param_groups[0]["lr"] = config.rate * (1 + math.cos(math.pi * progress)) / 2
            index = torch.from_numpy(rows).to(device)
            batch_loss = loss([tensor[index] for tensor in tensors], left, right, scale)
            penalty = ((left - identity) ** 2).sum() + ((right - identity) ** 2).sum()
            adam.zero_grad()
            (batch_loss + config.decay * penalty).backward()  # type: ignore[no-untyped-call]
            adam.step()
            with torch.no_grad():
                scale.clamp_(0, _MAX_SCALE)
            total += float(batch_loss.detach())
        if not math.isfinite(total):
            raise TrainingDiverged(
                f"the contrastive loss is not finite in epoch {epoch}; lower fit.refine.rate, now {config.rate}"
            )
        matrices = [matrix.detach().cpu().numpy().astype(np.float64) for matrix in (left, right)]
        scores.append(score(*matrices))
        log.info("contrastive epoch %d: loss %.4f, score %.4f", epoch, total / steps, scores[-1])
        if scores[-1] > max(scores[:-1]):
            best = Refined(matrices[0], matrices[1], math.exp(-float(scale.detach())), epoch, [])
    return best._replace(scores=scores)


def loss(batch: list[torch.Tensor], left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of the cross entropies of both directions.

    Args:
        batch: rows of the five fields of Pairs.
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
    entropies: Any = [-(targets * torch.log_softmax(way, dim=1)).sum(dim=1) for way in (logits, logits.T)]
    share = (weights / weights.sum()).to(logits.dtype)
    total: torch.Tensor = ((entropies[0] + entropies[1]) / 2 * share).sum()
    return total
