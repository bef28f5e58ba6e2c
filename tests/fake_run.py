"""A Run for tests: stages as parquet in a folder, everything else kept in lists."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from embedall_spark.run_context import Progress, ServableModel, Trial


class FakeRun:
    """Implements run_context.Run; what a run records is in ``metrics``, ``artifacts``, ``rejects``, ..."""

    def __init__(self, spark: SparkSession, folder: Path | str, max_reject_share: float = 0.01) -> None:
        self.spark = spark
        self.id = "fake"
        self.folder = str(folder)
        self.model_uri: str | None = None
        self.max_reject_share = max_reject_share
        self.made: list[str] = []  # stages that were computed, not only read back
        self.schemas: dict[str, StructType] = {}  # of these
        self.rejects: list[DataFrame] = []
        self.facts: dict[str, Any] = {}
        self.metrics: list[tuple[str, float, int | None]] = []
        self.artifacts: dict[str, bytes] = {}
        self.tried: list[Trial] = []
        self.models: list[ServableModel] = []
        self.tables: dict[str, DataFrame] = {}
        self.steps: list[tuple[str, float, float, str]] = []
        self.watched: list[Callable[[], Progress | None]] = []
        self.guards = 0
        self.table_before: DataFrame | None = None
        self.rejected = 0

    def stage(self, name: str, make: Callable[[], DataFrame]) -> DataFrame:
        path = self.stage_path(name)
        if not (Path(path) / "_SUCCESS").exists():
            rows = make()
            rows.write.mode("overwrite").parquet(path)
            self.schemas[name] = rows.schema
            self.made.append(name)
        return self.read_stage(name)

    def read_stage(self, name: str) -> DataFrame:
        reader = self.spark.read
        if name in self.schemas:
            # Else Spark starts a job to read it from a file's footer.
            reader = reader.schema(self.schemas[name])
        return reader.parquet(self.stage_path(name))

    def stage_path(self, name: str) -> str:
        return f"{self.folder}/stages/{name}"

    def previous_output(self) -> DataFrame | None:
        return self.table_before

    def producer_of(self, table: str) -> tuple[str, dict[str, Any]] | None:
        return None

    def reject(self, df: DataFrame) -> None:
        self.rejects.append(df)

    def check_reject_share(self, rejected: int, seen: int) -> None:
        self.rejected += rejected
        if self.rejected > self.max_reject_share * seen:
            raise BadData(f"{self.rejected} of {seen} rows refused; allowed is a share of {self.max_reject_share}")

    def write_table(self, name: str, df: DataFrame, schema: StructType, comment: str) -> None:
        self.tables[name] = df

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self.metrics.append((name, value, step))

    def artifact(self, name: str, content: bytes) -> None:
        self.artifacts[name] = content

    def log_trials(self, tried: Sequence[Trial]) -> None:
        self.tried += tried

    def log_model(self, model: ServableModel) -> None:
        self.models.append(model)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.steps.append((stage, done, total, note))

    @contextmanager
    def watch(self, measure: Callable[[], Progress | None]) -> Iterator[None]:
        yield
        self.watched.append(measure)

    def check_ownership(self) -> None:
        self.guards += 1
