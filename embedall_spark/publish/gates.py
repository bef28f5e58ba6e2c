"""What a candidate must keep of the published table, and the sentences about what it does not keep."""

from __future__ import annotations

import re
from math import isnan
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from embedall_spark.config import InputPath, OutputPath, Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedall_spark.publish.drift import Drift


class Gates(Section):
    """When a candidate is held back."""

    max_drop: float = Field(
        0.01, ge=0, description="how much lower than the published version's a figure of the same evaluation may be"
    )
    floors: dict[str, float] = Field(
        {}, description="least values of figures by name, such as analogy/total, whatever the published version has"
    )
    min_overlap: float | None = Field(
        None, ge=0, le=1,
        description="least mean share of the 10 nearest neighbors that stay; unset: that of embedall baseline less "
        "three standard errors, and any where there is no baseline",
    )  # fmt: skip
    max_lost: float = Field(0.1, ge=0, le=1, description="largest share of the published ids that may vanish")
    max_new: float | None = Field(
        None, ge=0, description="largest number of new ids, as a share of the published ids; unset: any"
    )


class Evaluation(Section):
    """Files on which both versions are measured."""

    analogies: InputPath | None = Field(None, description="file in questions-words format")
    similarity: list[InputPath] = Field([], description="files of word pairs with human scores")
    restrict_vocab: int = Field(300_000, ge=1, description="analogies: only the so many most frequent ids")


class Publication(Section):
    """How a candidate becomes the published version."""

    gates: Gates = Field(Gates(), description="when it is held back. Keys:")
    evaluate: Evaluation = Field(
        Evaluation(), description="what is measured on both versions, beside the figures of their runs. Keys:"
    )
    vanished: Literal["remove", "keep", "mark"] = Field(
        "remove",
        description="rows of published ids that the candidate lacks: leave them out, keep them, or mark them "
        "by count 0, after which they do not count as lost again",
    )
    stands_on: list[OutputPath] = Field(
        [],
        description="of a latent space: published tables of those that it was fitted to. Its model is composed with "
        "their rotations, so that it maps their vectors; unset: it maps those of the tables that it was fitted to",
    )
    registered_model: str | None = Field(
        None,
        description="registered model in MLflow whose alias 'published' follows the published version; unset: none",
    )


# Figures of runs by which no quality is judged: how much could be measured, and what they are to be compared with.
_NO_QUALITY = re.compile(r"coverage/|links/pairs|purity/chance|popularity|cooccurrence|majority|chance")


def quality(figures: Mapping[str, float]) -> dict[str, float]:
    """Return those of a run's figures that a new version should not fall below."""
    return {name: value for name, value in figures.items() if not _NO_QUALITY.search(name)}


def below(figures: Mapping[str, float], least: Mapping[str, float]) -> list[str]:
    """Return a sentence for each figure that is missing, NaN or below its least value."""
    nan = float("nan")
    return [
        f"{name} is {figures.get(name, nan):.4f}, need {value}"
        for name, value in least.items()
        if not figures.get(name, nan) >= value
    ]


def failures(
    gates: Gates,
    drift: Drift | None,
    candidate: Mapping[str, float],
    published: Mapping[str, float],
    baseline: float | None = None,
) -> list[str]:
    """Return a sentence for each gate that a candidate fails.

    Args:
        gates: the gates.
        drift: from the published version; None for a first publication, or a new space.
        candidate: figures of the candidate by name.
        published: figures of the published version.
        baseline: least overlap where ``gates.min_overlap`` is unset.
    """
    sentences = [f"{text} (gates.floors)" for text in below(candidate, gates.floors)]
    for name, before in published.items():
        after = candidate.get(name, float("nan"))
        if not isnan(before) and not after >= before - gates.max_drop:
            sentences.append(
                f"{name} falls from {before:.4f} to {after:.4f}, more than {gates.max_drop} (gates.max_drop)"
            )
    if drift is None:
        return sentences
    least = gates.min_overlap if gates.min_overlap is not None else baseline
    if least is not None and not drift.overlap >= least:
        why = "gates.min_overlap" if gates.min_overlap is not None else "embedall baseline, less three standard errors"
        sentences.append(f"the neighbors' overlap is {drift.overlap:.3f}, need {least:.4g} ({why})")
    if drift.lost_share > gates.max_lost:
        sentences.append(
            f"{drift.lost:,} published ids are not in it, {drift.lost_share:.1%}, more than {gates.max_lost:.1%} "
            "(gates.max_lost)"
        )
    before = drift.shared + drift.lost
    if gates.max_new is not None and drift.new > gates.max_new * before:
        sentences.append(
            f"{drift.new:,} ids are new beside {before:,} published ones, more than {gates.max_new:.1%} (gates.max_new)"
        )
    return sentences
