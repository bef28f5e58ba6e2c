"""Means and covariances of pairs of vectors, in one distributed pass: all that a closed form needs of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.preprocessing import PLAIN, prepare
from embedall_spark.vectors import dimension, mixed_dimensions, slices, to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.latent.preprocessing import Preparation

    Batches = Iterable[pa.RecordBatch]
    Float = NDArray[np.float64]

MAX_SIZE = 4096  # dimensions of a side: a task and the driver hold a matrix of (left + right) squared
_BLOCK_BYTES = 32 << 20  # rows that are multiplied at once, in float64
_PANEL_BYTES = 8 << 20  # part of a matrix in one row of Spark
_BRANCHES = 16
_PARTIAL = "panel int, rows long, skipped long, weight double, mean binary, part binary"


class Moments(NamedTuple):
    """Weighted mean and scatter of the rows [left vector, right vector]."""

    rows: int
    """How many pairs were used."""
    skipped: int
    """How many pairs were left out because a value was not finite, or the weight not above 0 and finite."""
    weight: float
    """Sum of the weights."""
    mean: Float
    """float64 [left + right]."""
    scatter: Float
    """Sum of w (z - mean)(z - mean)', float64 [left + right, left + right]."""
    left: int
    """Dimension of the left side."""

    @property
    def means(self) -> tuple[Float, Float]:
        """The means of the left and of the right side."""
        return self.mean[: self.left], self.mean[self.left :]

    @property
    def covariances(self) -> tuple[Float, Float, Float]:
        """Covariances left with left [l, l], right with right [r, r] and left with right [l, r]."""
        both, left = self.scatter / self.weight, self.left
        return both[:left, :left], both[left:, left:], both[:left, left:]


def of_pairs(
    left: DataFrame, right: DataFrame, pairs: DataFrame, preparations: tuple[Preparation, Preparation] = (PLAIN, PLAIN)
) -> Moments:
    """Return the moments of the pairs that have both vectors.

    Each task computes blocks of rows about their own mean and merges them (Chan, Golub and LeVeque 1983, "Algorithms
    for Computing the Sample Variance", section 2), so that vectors far from 0 lose no digits. The tasks' results are
    merged in Spark; the driver gets one matrix. Neither its memory nor a task's grows with the rows. The order and
    partitioning of the rows change only the last digits.

    Args:
        left: VECTORS; ``id`` and ``vector`` are read.
        right: VECTORS, likewise.
        pairs: PAIRS; a pair that occurs twice counts twice.
        preparations: how the left and the right vectors are transformed first.

    Raises:
        ConfigError: a side's vectors have more than MAX_SIZE dimensions.
        BadData: a side is empty, its vectors differ in dimension, or no pair can be used.
    """
    sizes = (side_dimension(left, "the left side"), side_dimension(right, "the right side"))
    weight = F.coalesce("weight", F.lit(1.0)).alias("weight")
    joined = (
        pairs.select("left", "right", weight)
        .join(left.select(F.col("id").alias("left"), F.col("vector").alias("x")), "left")
        .join(right.select(F.col("id").alias("right"), F.col("vector").alias("y")), "right")
    )
    return _not_empty(gather(joined.select("weight", "x", "y"), sizes, preparations))


def of_vectors(vectors: DataFrame, preparation: Preparation = PLAIN) -> Moments:
    """Return the moments of one side alone, each vector once; raises what of_pairs() raises."""
    weighted = vectors.select(F.lit(1.0).alias("weight"), F.col("vector").alias("x"))
    return _not_empty(gather(weighted, (side_dimension(vectors, "the left side"),), (preparation,)))


def of_arrays(z: Float, left: int, weights: Float | None = None) -> Moments:
    """Return the moments of the rows of a matrix, float64 [n, left + right], as of_pairs() does."""
    weights = np.ones(len(z)) if weights is None else weights
    usable = (weights > 0) & np.isfinite(weights)
    # A sum is finite if all of its terms are, and costs less than a test of each value.
    if not usable.all() or not np.isfinite(z.sum(axis=0)).all():
        usable &= np.isfinite(z).all(axis=1)
    skipped, width = int((~usable).sum()), z.shape[1]
    if skipped:
        z, weights = z[usable], weights[usable]
    if not len(z):
        return Moments(0, skipped, 0.0, np.zeros(width), np.zeros((width, width)), left)
    total = float(weights.sum())
    mean = weights @ z / total
    centered = z - mean
    if (weights != 1).any():
        centered *= np.sqrt(weights)[:, None]
    return Moments(len(z), skipped, total, mean, centered.T @ centered, left)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of the rows of both."""
    total = a.weight + b.weight
    rows, skipped = a.rows + b.rows, a.skipped + b.skipped
    if not a.weight or not b.weight:
        return (b if b.weight else a)._replace(rows=rows, skipped=skipped)
    shift = b.mean - a.mean
    # A panel is some rows of the matrix from its diagonal on; only the means of its columns count.
    height, width = a.scatter.shape
    panel_shift = shift[len(shift) - width :]
    scatter = a.scatter + b.scatter + np.outer(panel_shift[:height], panel_shift) * (a.weight * b.weight / total)
    return Moments(rows, skipped, total, a.mean + shift * (b.weight / total), scatter, a.left)


def side_dimension(vectors: DataFrame, name: str) -> int:
    """Return the dimension of a side's vectors; ``name``, such as 'the left side', begins the errors.

    Raises:
        BadData: the table has no rows.
        ConfigError: the dimension is above MAX_SIZE.
    """
    size = dimension(vectors)
    if size is None:
        raise BadData(f"{name} has no vectors; need a table with rows")
    if size > MAX_SIZE:
        raise ConfigError(
            f"the vectors of {name} have {size:,} dimensions, and the closed form takes at most {MAX_SIZE:,}, because "
            "it holds a matrix of their square; reduce the dimension first"
        )
    return size


def gather(rows: DataFrame, sizes: tuple[int, ...], preparations: tuple[Preparation, ...]) -> Moments:
    """Return the moments of rows of weight, x and y, or of weight and x alone; of no row their ``rows`` are 0.

    Args:
        rows: weights, and the vectors of one side or of two.
        sizes: dimensions of the sides.
        preparations: how the sides' vectors are transformed first.

    Raises:
        BadData: the vectors of a side differ in dimension.
    """
    width = sum(sizes)
    partial = rows.mapInArrow(_accumulator(sizes, preparations), _PARTIAL)
    branch = F.pmod(F.spark_partition_id(), F.lit(_BRANCHES)).alias("branch")
    numbered = partial.select("*", branch, F.spark_partition_id().alias("task"))
    first = numbered.repartition("panel", "branch").sortWithinPartitions("panel", "branch", "task")
    merged = first.mapInArrow(_merger(width, sizes[0], ("panel", "branch")), f"{_PARTIAL}, branch int")
    last = merged.repartition("panel").sortWithinPartitions("panel", "branch")
    table = last.mapInArrow(_merger(width, sizes[0], ("panel",)), _PARTIAL).toArrow()
    scatter = np.zeros((width, width))
    panel = Moments(0, 0, 0.0, np.zeros(width), scatter, sizes[0])
    for row in range(len(table)):
        panel = _from_row(table, row, width, sizes[0])
        top = table["panel"][row].as_py()
        scatter[top : top + len(panel.scatter), top:] = panel.scatter
    lower = np.tril_indices(width, -1)
    scatter[lower] = scatter.T[lower]
    return panel._replace(scatter=scatter)


def _not_empty(moments: Moments) -> Moments:
    """Return the moments; raise BadData if no row could be used."""
    if not moments.rows:
        left_out = f"; {moments.skipped:,} were left out" if moments.skipped else ""
        raise BadData(
            f"no pair can be used: need ids that both sides have, finite values and weights above 0{left_out}"
        )
    return moments


def _accumulator(sizes: tuple[int, ...], preparations: tuple[Preparation, ...]) -> Callable[[Batches], Batches]:
    """Build the task's function: the moments of all its rows, as panels."""
    step = max(1, _BLOCK_BYTES // (8 * sum(sizes)))

    def accumulate(batches: Batches) -> Iterator[pa.RecordBatch]:
        moments: Moments | None = None
        with threadpool_limits(1):
            for batch in slices(batches, step):
                block = _block_moments(batch, sizes, preparations)
                moments = block if moments is None else merge(moments, block)
        if moments is not None:
            yield from _panels(moments)

    return accumulate


def _block_moments(batch: pa.RecordBatch, sizes: tuple[int, ...], preparations: tuple[Preparation, ...]) -> Moments:
    block = np.empty((batch.num_rows, sum(sizes)))
    start = 0
    for name, size, preparation in zip("xy", sizes, preparations, strict=False):
        matrix = to_matrix(batch[name])
        if matrix.shape[1] != size:
            raise mixed_dimensions(size, matrix.shape[1])
        block[:, start : start + size] = matrix if preparation == PLAIN else prepare(matrix, preparation)
        start += size
    return of_arrays(block, sizes[0], batch["weight"].to_numpy(zero_copy_only=False))


def _panels(moments: Moments) -> Iterator[pa.RecordBatch]:
    """Yield the upper half of the matrix, some rows of it at a time, each with the means that merging needs."""
    width = len(moments.mean)
    height = max(1, _PANEL_BYTES // (8 * width))
    for top in range(0, width, height):
        yield _to_row(moments._replace(scatter=moments.scatter[top : top + height, top:]), {"panel": top})


def _to_row(panel: Moments, keys: dict[str, int]) -> pa.RecordBatch:
    columns = {
        "panel": pa.array([keys["panel"]], pa.int32()),
        "rows": pa.array([panel.rows], pa.int64()),
        "skipped": pa.array([panel.skipped], pa.int64()),
        "weight": pa.array([panel.weight]),
        "mean": pa.array([panel.mean.tobytes()]),
        "part": pa.array([panel.scatter.tobytes()]),
    }
    if "branch" in keys:
        columns["branch"] = pa.array([keys["branch"]], pa.int32())
    return pa.RecordBatch.from_pydict(columns)


def _from_row(table: pa.Table | pa.RecordBatch, index: int, width: int, left: int) -> Moments:
    row = {name: table[name][index].as_py() for name in ("panel", "rows", "skipped", "weight", "mean", "part")}
    part = np.frombuffer(row["part"]).reshape(-1, width - row["panel"])
    return Moments(row["rows"], row["skipped"], row["weight"], np.frombuffer(row["mean"]), part, left)


def _merger(width: int, left: int, keys: tuple[str, ...]) -> Callable[[Batches], Batches]:
    """Build the task's function that merges contiguous rows of equal keys."""

    def merge_rows(batches: Batches) -> Iterator[pa.RecordBatch]:
        merged: Moments | None = None
        merged_key: dict[str, int] = {}
        for batch in batches:
            for row in range(batch.num_rows):
                key = {name: batch[name][row].as_py() for name in keys}
                panel = _from_row(batch, row, width, left)
                if merged is not None and key != merged_key:
                    yield _to_row(merged, merged_key)
                    merged = None
                merged = panel if merged is None else merge(merged, panel)
                merged_key = key
        if merged is not None:
            yield _to_row(merged, merged_key)

    return merge_rows
