"""Vectors of either side into the latent space, in tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark.errors import ConfigError
from embedall_spark.latent.preprocessing import PLAIN, Preparation, prepare
from embedall_spark.search import exact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

MAX_MATRIX_BYTES = 64 << 20  # a matrix travels to the tasks
_BLOCK_BYTES = 32 << 20
NO_DIRECTION = "no direction in the latent space: the vector is the mean, or one that the map takes to it"
NOT_FINITE = "a number is not finite"


class Side(NamedTuple):
    """How one side's vectors get into the latent space."""

    matrix: NDArray[np.float32]
    """P or Q, float32 [d, k]."""
    mean: NDArray[np.float64]
    """Of the training vectors as they were prepared, float64 [d]."""
    preparation: Preparation = PLAIN

    def latent(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return unit rows, float32 [n, k], of vectors [n, d], and their lengths before, float64 [n].

        What has no direction becomes zeros, with length 0; what is not finite becomes zeros, with a length of NaN.
        """
        rows = (prepare(vectors, self.preparation) - self.mean) @ self.matrix.astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1)
        usable = np.isfinite(lengths) & (lengths > 0)
        units = np.divide(rows, lengths[:, None], out=np.zeros_like(rows), where=usable[:, None])
        return units.astype(np.float32), np.where(np.isfinite(lengths), lengths, np.nan)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the side as named arrays, from which from_arrays() makes it again."""
        how = np.array([self.preparation.power, float(self.preparation.unit)])
        return {"matrix": self.matrix, "mean": self.mean, "preparation": how}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Side:
        """Return the side that to_arrays() gave."""
        power, unit = (float(value) for value in arrays["preparation"])
        matrix, mean = arrays["matrix"].astype(np.float32), arrays["mean"].astype(np.float64)
        return cls(matrix, mean, Preparation(power, bool(unit)))


def project(vectors: DataFrame, side: Side) -> DataFrame:
    """Return the vectors in the latent space: the columns of the input, ``origin`` and ``problem``.

    ``vector`` has length 1, ``norm`` is its length before that, ``context`` is null, other columns stay as they are.
    Where a vector cannot be mapped it is null, and ``problem`` says why.

    Args:
        vectors: VECTORS.
        side: from the fit.

    Raises:
        ConfigError: the vectors are not of the length that the matrix takes, or it is over MAX_MATRIX_BYTES.
    """
    if side.matrix.nbytes > MAX_MATRIX_BYTES:
        raise ConfigError(
            f"a matrix of {side.matrix.nbytes >> 20} MiB, at most {MAX_MATRIX_BYTES >> 20} MiB travel with a task; "
            "ask for a smaller k"
        )
    row = vectors.select(F.size("vector").alias("numbers")).first()
    if row is not None and row["numbers"] != len(side.matrix):
        raise ConfigError(
            f"vectors of {row['numbers']:,} numbers, the matrix maps those of {len(side.matrix):,}; is this another "
            "table?"
        )
    kept = [name for name in vectors.columns if name not in ("vector", "context", "norm")]
    mapped = vectors.select(*kept, "vector").mapInArrow(_mapper(side, kept), _schema(vectors, kept))
    empty = F.lit(None).cast("array<float>").alias("context")
    places = {"context": empty, "origin": F.col("id").alias("origin")}
    names = [*vectors.columns, *(name for name in ("origin", "problem") if name not in vectors.columns)]
    return mapped.select(*[places.get(name, F.col(name)) for name in names])


def _schema(vectors: DataFrame, kept: list[str]) -> str:
    types = dict(vectors.dtypes)
    return ", ".join(
        [*(f"`{name}` {types[name]}" for name in kept), "vector array<float>, norm double, problem string"]
    )


def _mapper(side: Side, kept: list[str]) -> Callable[[Batches], Batches]:
    """Build the task's function."""
    step = max(1, _BLOCK_BYTES // (8 * sum(side.matrix.shape)))

    def mapper(batches: Batches) -> Iterator[pa.RecordBatch]:
        with threadpool_limits(1):
            for batch in batches:
                for start in range(0, batch.num_rows, step):
                    yield one(batch.slice(start, step))

    def one(batch: pa.RecordBatch) -> pa.RecordBatch:
        units, lengths = side.latent(exact.to_matrix(batch["vector"]))
        none = ~(lengths > 0)
        problem = np.where(np.isnan(lengths), NOT_FINITE, np.where(none, NO_DIRECTION, ""))
        ends = np.arange(len(units) + 1, dtype=np.int32) * units.shape[1]
        vector = pa.ListArray.from_arrays(pa.array(ends), pa.array(units.ravel()), mask=pa.array(none))
        columns = [*(batch[name] for name in kept), vector, pa.array(np.where(none, 0.0, lengths))]
        columns.append(pa.array(problem, pa.string(), mask=~none))
        return pa.RecordBatch.from_arrays(columns, [*kept, "vector", "norm", "problem"])

    return mapper
