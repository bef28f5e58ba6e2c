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
        description="a longer pause ends a session: seconds where input.order is a time, else in its own numbers; "
        "unset: a key has one session",
    )
    drop_repeats: bool = Field(False, description="of equal items one after the other only the first counts")
    min_length: int = Field(2, ge=1, description="shorter stories are left out; in events")
    max_length: int = Field(
        1000, ge=2, le=100_000, description="longer sessions are cut into stretches of so many events; see too_long"
    )
    too_long: Literal["sample", "split"] = Field(
        "sample",
        description="sample: one stretch of the full length, drawn by hash, stands for a longer session, so that no "
        "key dominates. The last stretch is filled up with events before it; each of n stretches is drawn with chance "
        "1/n, and so is each event, or 2/n where the last two stretches overlap. split: each stretch is a sequence of "
        "its own",
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length must not be above max_length, got {self.min_length} > {self.max_length}")
        return self
