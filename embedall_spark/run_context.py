"""What a kind needs from outside while it runs; the launcher provides it, and tests a simple one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


class Trial(NamedTuple):
    """A trial of a sweep: its options and their figures."""

    name: str
    """Unique within the run; the same in a rerun."""
    options: Mapping[str, float]
    figures: Mapping[str, float]


class ServableModel(NamedTuple):
    """A fitted model that can be loaded without this package."""

    script: str
    """Path of a self-contained Python file that builds the model from the arrays."""
    arrays: bytes
    """Content of an .npz file."""
    example: Mapping[str, Sequence[Any]]
    """Example input rows, by column: numbers, texts, lists of numbers, or maps from texts to such lists."""
    width: int
    """Output dimension."""
    requirements: Sequence[str]
    """Distributions that the script imports."""
    name: str | None
    """Name of the registered model of which it becomes a version when the run succeeds; None: it is not registered."""


class Progress(NamedTuple):
    """How far a stage is: ``done`` of ``total``."""

    stage: str
    done: float
    total: float
    note: str = ""


class Run(Protocol):
    """One run of one kind: its session, its folder, and where its results and figures go."""

    @property
    def spark(self) -> SparkSession:
        """The session."""

    @property
    def id(self) -> str:
        """Name of the run; every row that it makes has it."""

    @property
    def folder(self) -> str:
        """The run's folder (path or URI), on storage that all hosts share, without a trailing slash."""

    @property
    def model_uri(self) -> str | None:
        """The model that made the rows, where it is tracked."""

    def stage(self, name: str, make: Callable[[], DataFrame]) -> DataFrame:
        """Return a stage's table: computed and written once, read back at every later call and rerun."""

    def stage_path(self, name: str) -> str:
        """Return the folder (path or URI) of a finished stage's parquet files."""

    def previous_output(self) -> DataFrame | None:
        """Return the output table, VECTORS, as it was when the run began; None if it did not exist."""

    def producer_of(self, table: str) -> tuple[str, dict[str, Any]] | None:
        """Return the kind and the configuration of the run that made a table; None if no run did."""

    def reject(self, df: DataFrame) -> None:
        """Add rows of REJECTS, which are written to the rejects table together with the result."""

    def check_reject_share(self, rejected: int, seen: int) -> None:
        """Log the number of refused rows; raise BadData if their share is above the run's limit.

        Further calls add ``rejected`` to the rows refused before, of the same ``seen``.
        """

    def write_table(self, name: str, df: DataFrame, schema: StructType, comment: str) -> None:
        """Replace an additional table of the configuration, in one commit."""

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a figure."""

    def artifact(self, name: str, content: bytes) -> None:
        """Record a file, such as a picture."""

    def log_trials(self, tried: Sequence[Trial]) -> None:
        """Record a sweep, each trial as a run under this one; trials that are recorded already stay as they are."""

    def log_model(self, model: ServableModel) -> None:
        """Record a model; ``model_uri`` names it from then on, where it is tracked."""

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Show how far a stage is."""

    def watch(self, measure: Callable[[], Progress | None]) -> AbstractContextManager[None]:
        """Show what ``measure`` returns, every few seconds while the block runs; it is called in another thread."""

    def check_ownership(self) -> None:
        """Raise Superseded if another driver has taken over the run; call it before each commit."""
