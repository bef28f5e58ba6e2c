"""Means and scatter of pairs of vectors, in one distributed pass: all that a closed form needs of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.preprocessing import PLAIN, prepare
from embedall_spark.search import exact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.latent.preprocessing import Preparation

    Batches = Iterable[pa.RecordBatch]
    Float = NDArray[np.float64]

MAX_SIZE = 4096  # numbers of a vector: a task and the driver hold a matrix of (left + right) squared
_BLOCK_BYTES = 32 << 20  # rows that are multiplied at once, in float64
_PANEL_BYTES = 8 << 20  # of a matrix, in one row of Spark
_BRANCHES = 16
_PARTIAL = "panel int, rows long, skipped long, weight double, mean binary, part binary"


class Moments(NamedTuple):
    """Weighted mean and scatter of the rows [left vector, right vector]."""

    rows: int
    """How many pairs were used."""
    skipped: int
    """Pairs that were left out: a number was not finite, or the weight not above 0 and finite."""
    weight: float
    """Sum of the weights."""
    mean: Float
    """float64 [left + right]."""
    scatter: Float
    """Sum of w (z - mean)(z - mean)', float64 [left + right, left + right]."""
    left: int
    """How many of the numbers are the left side's."""

    @property
    def means(self) -> tuple[Float, Float]:
        """The means of the left and of the right side."""
        return self.mean[: self.left], self.mean[self.left :]

    @property
    def covariances(self) -> tuple[Float, Float, Float]:
        """Covariances left with left [l, l], right with right [r, r] and left with right [l, r]."""
        whole, at = self.scatter / self.weight, self.left
        return whole[:at, :at], whole[at:, at:], whole[:at, at:]


def of_pairs(
    left: DataFrame, right: DataFrame, pairs: DataFrame, prepared: tuple[Preparation, Preparation] = (PLAIN, PLAIN)
) -> Moments:
    """Return the moments of the pairs whose two vectors are there.

    Each task takes blocks of rows about their own mean and merges them as it goes (Chan, Golub and LeVeque 1983,
    "Algorithms for Computing the Sample Variance", section 2), so that vectors far from 0 lose no digits. Tasks'
    results are merged in Spark; the driver gets one matrix. Neither its memory nor a task's grows with the rows. The
    rows' order and partitioning change the last digits only.

    Args:
        left: VECTORS; ``id`` and ``vector`` are read.
        right: VECTORS, likewise.
        pairs: PAIRS; a pair that is there twice counts twice.
        prepared: what is done to the left and to the right vectors first.

    Raises:
        ConfigError: a side's vectors have more than MAX_SIZE numbers.
        BadData: a side is empty, its vectors differ in length, or no pair can be used.
    """
    sizes = (size(left, "left"), size(right, "right"))
    weight = F.coalesce("weight", F.lit(1.0)).alias("weight")
    joined = (
        pairs.select("left", "right", weight)
        .join(left.select(F.col("id").alias("left"), F.col("vector").alias("x")), "left")
        .join(right.select(F.col("id").alias("right"), F.col("vector").alias("y")), "right")
    )
    return _gather(joined.select("weight", "x", "y"), sizes, prepared)


def of_vectors(vectors: DataFrame, prepared: Preparation = PLAIN) -> Moments:
    """Return the moments of one side alone, each vector once; raises what of_pairs() raises."""
    one = vectors.select(F.lit(1.0).alias("weight"), F.col("vector").alias("x"))
    return _gather(one, (size(vectors, "left"),), (prepared,))


def of_arrays(z: Float, left: int, weights: Float | None = None) -> Moments:
    """Return the moments of the rows of a matrix, float64 [n, left + right], as of_pairs() does."""
    weights = np.ones(len(z)) if weights is None else weights
    good = (weights > 0) & np.isfinite(weights)
    # A sum is finite where all of its parts are, and is needed anyway.
    if not good.all() or not np.isfinite(z.sum(axis=0)).all():
        good &= np.isfinite(z).all(axis=1)
    skipped, width = int((~good).sum()), z.shape[1]
    if skipped:
        z, weights = z[good], weights[good]
    if not len(z):
        return Moments(0, skipped, 0.0, np.zeros(width), np.zeros((width, width)), left)
    total = float(weights.sum())
    mean = weights @ z / total
    about = z - mean
    if (weights != 1).any():
        about *= np.sqrt(weights)[:, None]
    return Moments(len(z), skipped, total, mean, about.T @ about, left)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of the rows of both."""
    total = a.weight + b.weight
    rows, skipped = a.rows + b.rows, a.skipped + b.skipped
    if not a.weight or not b.weight:
        return (b if b.weight else a)._replace(rows=rows, skipped=skipped)
    away = b.mean - a.mean
    # Of a panel, which is some rows of the matrix from its diagonal on, only these numbers' means count.
    high, wide = a.scatter.shape
    from_ = away[len(away) - wide :]
    scatter = a.scatter + b.scatter + np.outer(from_[:high], from_) * (a.weight * b.weight / total)
    return Moments(rows, skipped, total, a.mean + away * (b.weight / total), scatter, a.left)


def size(vectors: DataFrame, side: str) -> int:
    """Return how long a side's vectors are.

    Raises:
        BadData: there are none.
        ConfigError: longer than MAX_SIZE.
    """
    row = vectors.select(F.size("vector").alias("numbers")).first()
    if row is None:
        raise BadData(f"the {side} side has no vectors; need a table of VECTORS with rows")
    found = int(row["numbers"])
    if found > MAX_SIZE:
        raise ConfigError(
            f"the {side} side's vectors have {found:,} numbers, the closed form takes at most {MAX_SIZE:,}: it holds a "
            "matrix of their square; reduce them first"
        )
    return found


def _gather(rows: DataFrame, sizes: tuple[int, ...], prepared: tuple[Preparation, ...]) -> Moments:
    """Return the moments of rows of weight, x and y, or of weight and x alone."""
    width = sum(sizes)
    partial = rows.mapInArrow(_accumulator(sizes, prepared), _PARTIAL)
    branch = F.pmod(F.spark_partition_id(), F.lit(_BRANCHES)).alias("branch")
    numbered = partial.select("*", branch, F.spark_partition_id().alias("task"))
    first = numbered.repartition("panel", "branch").sortWithinPartitions("panel", "branch", "task")
    merged = first.mapInArrow(_adder(width, sizes[0], ("panel", "branch")), f"{_PARTIAL}, branch int")
    last = merged.repartition("panel").sortWithinPartitions("panel", "branch")
    table = last.mapInArrow(_adder(width, sizes[0], ("panel",)), _PARTIAL).toArrow()
    scatter = np.zeros((width, width))
    found = None
    for number in range(len(table)):
        found = _read(table, number, width, sizes[0])
        top = table["panel"][number].as_py()
        scatter[top : top + len(found.scatter), top:] = found.scatter
    if found is None or not found.rows:
        left_out = f"; {found.skipped:,} were left out" if found is not None and found.skipped else ""
        raise BadData(f"no pair can be used: need ids that both sides know, finite numbers, weights above 0{left_out}")
    lower = np.tril_indices(width, -1)
    scatter[lower] = scatter.T[lower]
    return found._replace(scatter=scatter)


def _accumulator(sizes: tuple[int, ...], prepared: tuple[Preparation, ...]) -> Callable[[Batches], Batches]:
    """Build the task's function: the moments of all its rows."""
    width = sum(sizes)
    step = max(1, _BLOCK_BYTES // (8 * width))

    def accumulate(batches: Batches) -> Iterator[pa.RecordBatch]:
        held: Moments | None = None
        with threadpool_limits(1):
            for batch in batches:
                for start in range(0, batch.num_rows, step):
                    block = _block(batch.slice(start, step), sizes, prepared)
                    held = block if held is None else merge(held, block)
        if held is not None:
            yield from _panels(held)

    return accumulate


def _block(batch: pa.RecordBatch, sizes: tuple[int, ...], prepared: tuple[Preparation, ...]) -> Moments:
    block = np.empty((batch.num_rows, sum(sizes)))
    first = 0
    for name, length, how in zip("xy", sizes, prepared, strict=False):
        matrix = exact.to_matrix(batch[name])
        if matrix.shape[1] != length:
            raise BadData(f"vectors of {length} and of {matrix.shape[1]} numbers; one length per table is needed")
        block[:, first : first + length] = matrix if how == PLAIN else prepare(matrix, how)
        first += length
    return of_arrays(block, sizes[0], batch["weight"].to_numpy(zero_copy_only=False))


def _panels(found: Moments) -> Iterator[pa.RecordBatch]:
    """Yield the upper half of the matrix, some rows of it at a time, each with the means that merging needs."""
    width = len(found.mean)
    high = max(1, _PANEL_BYTES // (8 * width))
    for top in range(0, width, high):
        yield _batch(found._replace(scatter=found.scatter[top : top + high, top:]), {"panel": top})


def _batch(found: Moments, keys: dict[str, int]) -> pa.RecordBatch:
    columns = {
        "panel": pa.array([keys["panel"]], pa.int32()),
        "rows": pa.array([found.rows], pa.int64()),
        "skipped": pa.array([found.skipped], pa.int64()),
        "weight": pa.array([found.weight]),
        "mean": pa.array([found.mean.tobytes()]),
        "part": pa.array([found.scatter.tobytes()]),
    }
    if "branch" in keys:
        columns["branch"] = pa.array([keys["branch"]], pa.int32())
    return pa.RecordBatch.from_pydict(columns)


def _read(table: pa.Table | pa.RecordBatch, number: int, width: int, left: int) -> Moments:
    row = {name: table[name][number].as_py() for name in ("panel", "rows", "skipped", "weight", "mean", "part")}
    part = np.frombuffer(row["part"]).reshape(-1, width - row["panel"])
    return Moments(row["rows"], row["skipped"], row["weight"], np.frombuffer(row["mean"]), part, left)


def _adder(width: int, left: int, keys: tuple[str, ...]) -> Callable[[Batches], Batches]:
    """Build the task's function that merges rows of equal keys, which follow each other."""

    def add(batches: Batches) -> Iterator[pa.RecordBatch]:
        held: Moments | None = None
        key: dict[str, int] = {}
        for batch in batches:
            for number in range(batch.num_rows):
                here = {name: batch[name][number].as_py() for name in keys}
                part = _read(batch, number, width, left)
                if held is not None and here != key:
                    yield _batch(held, key)
                    held = None
                held = part if held is None else merge(held, part)
                key = here
        if held is not None:
            yield _batch(held, key)

    return add
