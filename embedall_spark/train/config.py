"""Options of skip-gram training, with gensim's names and defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from embedall_spark.config import MOVABLE, Section


class Until(Section):
    """When to stop before the last epoch."""

    metric: Literal["loss", "analogy", "similarity"] = Field(
        "loss", description="figure computed after each epoch; a lower loss is better, of the others a higher value"
    )
    min_gain: float = Field(0.0, ge=0, description="an epoch that gains no more than this has no gain")
    patience: int = Field(1, ge=1, description="stop after so many epochs without gain")


class SkipGram(Section):
    """Skip-gram with negative sampling (Mikolov et al. 2013, "Distributed Representations", sections 2.2 and 2.3)."""

    vector_size: int = Field(100, ge=1, le=4096, description="dimensions of a vector")
    window: int = Field(5, ge=1, le=512, description="greatest distance between a center and its context")
    shrink_windows: bool = Field(True, description="draw each window's size uniformly from 1 to window")
    negative: int = Field(5, ge=1, le=64, description="negative samples per center")
    batch_size: int | None = Field(
        None,
        ge=1,
        le=32,
        description="contexts of a window that are trained on together and share their negatives; 1: each has its own, "
        "as in gensim, at about half the speed; unset: 32, and 1 for a graph of at most 32,768 vertices",
    )
    ns_exponent: float = Field(
        0.75, ge=-2, le=2, description="negatives are drawn in proportion to count to this power"
    )
    sample: float = Field(
        1e-3, ge=0, le=1, description="threshold above which frequent tokens are subsampled; 0: no subsampling"
    )
    alpha: float = Field(0.025, gt=0, le=1, description="learning rate at the start")
    min_alpha: float = Field(
        0.0001, ge=0, le=1, description="learning rate at the end; it falls linearly with the trained tokens"
    )
    epochs: int = Field(5, ge=1, le=1000, description="passes over the sequences; each draws new windows")
    seed: int = Field(1, ge=0, lt=2**63, description="seed of all random choices")
    workers: int = Field(
        1,
        ge=1,
        le=128,
        description="barrier tasks that share the model; each has a part of it",
        json_schema_extra=MOVABLE,
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="threads per worker; 1: every run gives the same bits; unset: the worker's share of cores",
        json_schema_extra=MOVABLE,
    )
    episodes: int | None = Field(
        None, ge=1, le=1024, description="rotations of the model per epoch; unset: 4 to 16, by the pairs per token"
    )
    spool_bytes: int = Field(
        8 << 30,
        ge=1 << 20,
        description="bytes of windows that a worker may store on local disk",
        json_schema_extra=MOVABLE,
    )
    slice_tokens: int = Field(
        250_000_000,
        ge=1000,
        description="tokens between two checkpoints; a killed run repeats at most so many",
        json_schema_extra=MOVABLE,
    )
    timeout: int = Field(
        900,
        ge=5,
        description="seconds that a worker waits for another before the run fails",
        json_schema_extra=MOVABLE,
    )
    context: bool = Field(False, description="also write the output (context) vectors")
    until: Until | None = Field(None, description="stop before the last epoch; unset: never. Keys:")

    @model_validator(mode="after")
    def _rates(self) -> SkipGram:
        if self.min_alpha > self.alpha:
            raise ValueError(f"min_alpha must not be above alpha, got {self.min_alpha} > {self.alpha}")
        return self
