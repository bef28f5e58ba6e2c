"""Options of stories: where a key's events are cut into sequences."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from embedall_spark.config import Section


class StoriesConfig(Section):
    """How a key's events become sequences."""

    session_gap: float | None = Field(
        None,
        gt=0,
        le=1e12,
        description="a longer pause ends a session: in seconds where input.order is a time, else in units of "
        "input.order; unset: a key has one session",
    )
    drop_repeats: bool = Field(False, description="of equal items in a row only the first counts")
    min_length: int = Field(2, ge=1, description="shorter stories are left out; in events")
    max_length: int = Field(
        1000, ge=2, le=100_000, description="longer sessions are cut into windows of so many events; see too_long"
    )
    too_long: Literal["sample", "split"] = Field(
        "sample",
        description="sample: one window, chosen uniformly by a hash, represents a longer session, so that no key "
        "dominates. The last window is aligned to the session's end; each of n windows is chosen with chance 1/n, and "
        "so is each event, or with 2/n where the last two windows overlap. split: each window is a sequence of its "
        "own; fewer than min_length events at the end join the window before",
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length must not be above max_length, got {self.min_length} > {self.max_length}")
        return self
