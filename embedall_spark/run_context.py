"""What a kind needs of the outside while it runs. Jobs, the command and pyspark.ml supply it; tests a plain one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


class Trial(NamedTuple):
    """One try of a sweep: the options that it was made with, and what they were worth."""

    name: str
    """Within the run; a rerun has the same."""
    options: Mapping[str, float]
    figures: Mapping[str, float]


class ServableModel(NamedTuple):
    """A fitted model that can be loaded without this package."""

    script: str
    """Path of a Python file that stands alone; it makes the model of the arrays."""
    arrays: bytes
    """Content of an .npz file."""
    example: Mapping[str, Sequence[Any]]
    """Rows that it can be asked, by column; a number, a text, a list of numbers, or a map from text to such a list."""
    width: int
    """Numbers of each row that it returns."""
    requirements: Sequence[str]
    """Distributions that the script imports."""
    name: str | None
    """Of the registered model of which it becomes a version once the result is good; None: of none."""


class Run(Protocol):
    """One run of one kind: its session, its folder, and where its results and figures go."""

    @property
    def spark(self) -> SparkSession:
        """The session."""

    @property
    def id(self) -> str:
        """Name of the run; goes into every row that it makes."""

    @property
    def folder(self) -> str:
        """The run's folder (path or URI), on storage that all hosts share, without a trailing slash."""

    @property
    def model_uri(self) -> str | None:
        """The model that the rows come from, where it is tracked."""

    def stage(self, name: str, make: Callable[[], DataFrame]) -> DataFrame:
        """Return a finished stage's table: made and written once, read back at every later call and rerun."""

    def read_stage(self, name: str) -> DataFrame:
        """Return a finished stage's table."""

    def stage_path(self, name: str) -> str:
        """Return the folder (path or URI) of a finished stage's parquet files."""

    def previous_output(self) -> DataFrame | None:
        """Return the output table, VECTORS, as it was when the run began; None where there was none."""

    def producer_of(self, table: str) -> tuple[str, dict[str, Any]] | None:
        """Return the kind and the configuration of the run that made a table; None where none of ours did."""

    def reject(self, df: DataFrame) -> None:
        """Keep rows of REJECTS; they reach the rejects table together with the result."""

    def check_reject_share(self, rejected: int, seen: int) -> None:
        """Log how many rows were refused; raise BadData where the share is above what the run allows.

        Where rows are refused at several places, each call adds ``rejected`` to those before, of the same ``seen``.
        """

    def write_table(self, name: str, df: DataFrame, schema: StructType, comment: str) -> None:
        """Replace a further table that the configuration asks for, in one commit."""

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a figure."""

    def artifact(self, name: str, content: bytes) -> None:
        """Record a file, such as a picture."""

    def log_trials(self, tried: Sequence[Trial]) -> None:
        """Record a sweep, each try as a run under this one; tries that are recorded already stay as they are."""

    def log_model(self, model: ServableModel) -> None:
        """Record a model; ``model_uri`` names it from then on, where it is tracked."""

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Tell how far a stage is."""

    def check_ownership(self) -> None:
        """Raise Superseded where another driver has taken over the run; call it before each commit."""
