"""Projection of either side's vectors into the latent space, in Spark tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark.errors import ConfigError
from embedall_spark.latent.preprocessing import PLAIN, Preparation, prepare
from embedall_spark.vectors import dimension, in_batches, to_column, to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

MAX_MATRIX_BYTES = 64 << 20  # the matrix is sent to every task
_BLOCK_BYTES = 32 << 20
NO_DIRECTION = "no direction in the latent space: the vector is the mean, or one that the map takes to it"
NOT_FINITE = "a value of the vector is not finite"


class Side(NamedTuple):
    """The projection of one side's vectors into the latent space."""

    matrix: NDArray[np.float32]
    """P or Q, float32 [d, k]."""
    mean: NDArray[np.float64]
    """Mean of the prepared training vectors, float64 [d]."""
    preparation: Preparation = PLAIN

    def latent(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return unit rows, float32 [n, k], of vectors [n, d], and their lengths before scaling, float64 [n].

        A row without a direction becomes zeros, with length 0; one that is not finite, zeros with length NaN.
        """
        rows = (prepare(vectors, self.preparation) - self.mean) @ self.matrix.astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1)
        usable = np.isfinite(lengths) & (lengths > 0)
        units = np.divide(rows, lengths[:, None], out=np.zeros_like(rows), where=usable[:, None])
        return units.astype(np.float32), np.where(np.isfinite(lengths), lengths, np.nan)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the side as named arrays, which from_arrays() reads."""
        preparation = np.array([self.preparation.power, float(self.preparation.unit)])
        return {"matrix": self.matrix, "mean": self.mean, "preparation": preparation}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Side:
        """Return the side that to_arrays() gave."""
        power, unit = (float(value) for value in arrays["preparation"])
        matrix, mean = arrays["matrix"].astype(np.float32), arrays["mean"].astype(np.float64)
        return cls(matrix, mean, Preparation(power, bool(unit)))


def project(vectors: DataFrame, side: Side) -> DataFrame:
    """Return the vectors in the latent space: the columns of the input, ``origin`` and ``problem``.

    ``vector`` has length 1, ``norm`` is its length before scaling, ``context`` is null, other columns are unchanged.
    If a vector cannot be mapped, ``vector`` is null and ``problem`` says why.

    Args:
        vectors: VECTORS.
        side: from the fit.

    Raises:
        ConfigError: the vectors do not have the matrix's dimension, or the matrix is larger than MAX_MATRIX_BYTES.
    """
    if side.matrix.nbytes > MAX_MATRIX_BYTES:
        raise ConfigError(
            f"the matrix has {side.matrix.nbytes >> 20} MiB, and at most {MAX_MATRIX_BYTES >> 20} MiB are sent to a "
            "task; choose a smaller k"
        )
    size = dimension(vectors)
    if size is not None and size != len(side.matrix):
        raise ConfigError(
            f"the vectors have {size:,} dimensions and the matrix maps vectors of {len(side.matrix):,}; is this "
            "another table?"
        )
    unchanged = [name for name in vectors.columns if name not in ("vector", "context", "norm")]
    mapped = vectors.select(*unchanged, "vector").mapInArrow(_mapper(side, unchanged), _schema(vectors, unchanged))
    empty = F.lit(None).cast("array<float>").alias("context")
    new_columns = {"context": empty, "origin": F.col("id").alias("origin")}
    names = [*vectors.columns, *(name for name in ("origin", "problem") if name not in vectors.columns)]
    return mapped.select(*[new_columns.get(name, F.col(name)) for name in names])


def _schema(vectors: DataFrame, unchanged: list[str]) -> str:
    types = dict(vectors.dtypes)
    return ", ".join(
        [*(f"`{name}` {types[name]}" for name in unchanged), "vector array<float>, norm double, problem string"]
    )


def _mapper(side: Side, unchanged: list[str]) -> Callable[[Batches], Batches]:
    """Build the task's function."""

    def convert(batch: pa.RecordBatch) -> pa.RecordBatch:
        units, lengths = side.latent(to_matrix(batch["vector"]))
        missing = ~(lengths > 0)
        problem = np.where(np.isnan(lengths), NOT_FINITE, np.where(missing, NO_DIRECTION, ""))
        columns = [*(batch[name] for name in unchanged), to_column(units, missing)]
        columns += [pa.array(np.where(missing, 0.0, lengths)), pa.array(problem, pa.string(), mask=~missing)]
        return pa.RecordBatch.from_arrays(columns, [*unchanged, "vector", "norm", "problem"])

    return in_batches(convert, max(1, _BLOCK_BYTES // (8 * sum(side.matrix.shape))))
