"""What a kind needs of the outside while it runs. Jobs and the command supply it; tests have a simple one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


class Trial(NamedTuple):
    """One trial of a search for hyperparameters: its options and the figures that they reached."""

    name: str
    """Unique within the run; a rerun uses the same name."""
    options: Mapping[str, float]
    figures: Mapping[str, float]


class ServableModel(NamedTuple):
    """A fitted model that MLflow can load without this package."""

    script: str
    """Path of a Python file that imports nothing of this package and builds the model from the arrays."""
    arrays: bytes
    """Content of an .npz file."""
    example: Mapping[str, Sequence[Any]]
    """Example input rows, by column; numbers, texts, lists of numbers, or maps from texts to such lists."""
    width: int
    """Output dimension."""
    requirements: Sequence[str]
    """Python distributions that the script imports."""
    name: str | None
    """Registered model that gets a new version once the quality gates have passed; None: not registered."""


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
        """Id of the run, written into every row of its result."""

    @property
    def folder(self) -> str:
        """The run's folder (path or URI), on storage that all hosts share, without a trailing slash."""

    @property
    def model_uri(self) -> str | None:
        """URI of the logged model that produced the rows; None if no model is logged."""

    @property
    def facts(self) -> dict[str, Any]:
        """Further entries of the run's summary, to be added to."""

    def stage(self, name: str, make: Callable[[], DataFrame]) -> DataFrame:
        """Return a stage's table: computed and written once, read back at every later call and rerun."""

    def read_stage(self, name: str) -> DataFrame:
        """Return a finished stage's table."""

    def stage_path(self, name: str) -> str:
        """Return the folder (path or URI) of a finished stage's parquet files."""

    def previous_output(self) -> DataFrame | None:
        """Return the output table, VECTORS, as it was when the run began; None if there was none."""

    def producer_of(self, table: str) -> tuple[str, dict[str, Any]] | None:
        """Return kind and configuration of the run that wrote a table; None if no run of this package did."""

    def reject(self, df: DataFrame) -> None:
        """Add rows of REJECTS; they are written to the rejects table together with the result."""

    def check_reject_share(self, rejected: int, seen: int) -> None:
        """Log how many rows were refused; raise BadData if their share is above the run's limit.

        If rows are refused at several places, the calls add up: ``rejected`` is what is new, ``seen`` stays the same.
        """

    def write_table(self, name: str, df: DataFrame, schema: StructType, comment: str) -> None:
        """Replace another table that the configuration asks for, in one commit."""

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a figure."""

    def artifact(self, name: str, content: bytes) -> None:
        """Record a file, such as a picture."""

    def log_trials(self, tried: Sequence[Trial]) -> None:
        """Record trials as nested runs; those that are recorded already are left as they are."""

    def log_model(self, model: ServableModel) -> None:
        """Record a model; from then on ``model_uri`` names it."""

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Report the progress of a stage."""

    def watch(self, measure: Callable[[], Progress | None]) -> AbstractContextManager[None]:
        """Show what ``measure`` returns, every few seconds while the block runs; it is called in another thread."""

    def check_ownership(self) -> None:
        """Raise Superseded if another driver has taken over the run; to be called before each commit."""
