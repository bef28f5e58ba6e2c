"""The rotation that brings one table of vectors onto another: orthogonal Procrustes over the ids that both have."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.fit import covariance
from embedall_spark.latent.preprocessing import Preparation
from embedall_spark.vectors import in_batches, to_column, to_matrix, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

_UNIT = Preparation(unit=True)
_TRIMMED = 0.1  # of the anchors, those that fit worst: words whose meaning has moved must not turn all others
ROWS = 8192  # that are rotated at once
SHARED = "x IS NOT NULL AND y IS NOT NULL"
COSINES = "id string, count bigint, cosine double"


class Rotation(NamedTuple):
    """An orthogonal matrix, and how well it fits."""

    matrix: NDArray[np.float64]
    """float64 [d, d]; a row vector of the candidate times it lies in the published space."""
    anchors: int
    """How many ids both tables have."""
    fit: float
    """Mean cosine of the anchors that were not trimmed, weighted by their counts."""


def pair(candidate: DataFrame, published: DataFrame) -> DataFrame:
    """Return id, count, x and y of the ids of either table: x is its vector in the candidate, y in the published table.

    One of them is null where only the other table has the id. All that is measured of two tables is computed from
    this join.

    Args:
        candidate: VECTORS.
        published: VECTORS.
    """
    left = candidate.select("id", F.col("count").alias("after"), F.col("vector").alias("x"))
    right = published.select("id", F.col("count").alias("before"), F.col("vector").alias("y"))
    return left.join(right, "id", "full").select("id", F.coalesce("after", "before").alias("count"), "x", "y")


def same_dimension(candidate: DataFrame, published: DataFrame) -> int:
    """Return the dimension of two tables of VECTORS.

    Raises:
        ConfigError: they differ, or are more than covariance.MAX_SIZE.
        BadData: a table is empty.
    """
    sides = {"the candidate": candidate, "the published table": published}
    sizes = [covariance.side_dimension(vectors, name) for name, vectors in sides.items()]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"the candidate's vectors have {sizes[0]} dimensions, those of the published table {sizes[1]}: train with "
            "the same vector_size, or publish under another name"
        )
    return sizes[0]


def fit(pairs: DataFrame, size: int) -> Rotation:
    """Return the rotation (or reflection) of a candidate that brings it closest to the published table.

    The closest in squared distance of unit vectors, each anchor weighted by its count, is U V' of the singular value
    decomposition U S V' of the sum of w a b' (Schönemann 1966, "A generalized solution of the orthogonal Procrustes
    problem"). The tenth of the anchors that fits worst is then left out: its sum is subtracted. The driver holds
    matrices of size x size.

    Args:
        pairs: as pair() returns them.
        size: dimensions of both tables.

    Raises:
        BadData: the tables share fewer than ``size`` ids, which cannot hold a rotation.
    """
    weight = F.greatest(F.coalesce("count", F.lit(1)), F.lit(1)).cast("double").alias("weight")
    shared = pairs.where(SHARED).select("id", "count", weight, "x", "y")
    products, total, anchors = _products(shared, size)
    if anchors < size:
        raise BadData(
            f"the tables share {anchors:,} ids, and a rotation in {size} dimensions needs at least as many: "
            "publish under another name, or with --new-space, where nothing need be comparable"
        )
    first, _ = _solve(products)
    worst = cosines(shared, first).agg(F.percentile_approx("cosine", _TRIMMED, 10_000)).first()
    assert worst is not None
    trimmed = shared.mapInArrow(in_batches(partial(_below, first, float(worst[0])), ROWS), shared.schema)
    less, weight_less, _ = _products(trimmed, size)
    matrix, fitted = _solve(products - less)
    return Rotation(matrix, anchors, fitted / (total - weight_less))


def _products(shared: DataFrame, size: int) -> tuple[NDArray[np.float64], float, int]:
    """Return the sum of w a b' over unit vectors, float64 [size, size], the sum of w, and the number of rows."""
    moments = covariance.gather(shared.select("weight", "x", "y"), (size, size), (_UNIT, _UNIT))
    left, right = moments.means
    return moments.scatter[:size, size:] + moments.weight * np.outer(left, right), moments.weight, moments.rows


def _solve(products: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the orthogonal matrix that fits best, and the sum of the weighted cosines that it gives."""
    u, s, vt = np.linalg.svd(products)
    return u @ vt, float(s.sum())


def rotate(vectors: DataFrame, matrix: NDArray[np.float64]) -> DataFrame:
    """Return VECTORS or NGRAMS with vectors and context vectors times an orthogonal matrix, computed in float64.

    Dot products of any two of them, and so norms, neighbors and analogies, stay as they are, up to rounding.
    """
    return vectors.mapInArrow(in_batches(partial(_rotate, matrix), ROWS), vectors.schema)


def _rotate(matrix: NDArray[np.float64], batch: pa.RecordBatch) -> pa.RecordBatch:
    for name in {"vector", "context"} & set(batch.schema.names):
        column = batch.column(name)
        if len(column) == column.null_count:
            continue
        missing = column.is_null().to_numpy(zero_copy_only=False)
        rows = np.zeros((len(column), len(matrix)), np.float32)
        rows[~missing] = to_matrix(column.drop_null()).astype(np.float64) @ matrix
        index = batch.schema.get_field_index(name)
        batch = batch.set_column(index, batch.schema.field(index), to_column(rows, missing).cast(column.type))
    return batch


def cosines(pairs: DataFrame, matrix: NDArray[np.float64] | None) -> DataFrame:
    """Return id, count and cosine of x, rotated, to y; null where one of them is missing.

    Args:
        pairs: as pair() returns them.
        matrix: the rotation; None: none.
    """
    rows = pairs.select("id", "count", "x", "y")
    return rows.mapInArrow(in_batches(partial(with_cosines, matrix), ROWS), COSINES)


def cosine(x: NDArray[np.float32], y: NDArray[np.float32], matrix: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the cosines of rows of x, rotated, to those of y, float64 [n]."""
    left, right = (unit(rows.astype(np.float64)) for rows in (x, y))
    products: NDArray[np.float64] = np.einsum("ij,ij->i", left if matrix is None else left @ matrix, right)
    return np.minimum(products, 1.0)


def with_cosines(matrix: NDArray[np.float64] | None, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return id, count and cosine of a batch of pairs."""
    missing = pc.or_(pc.is_null(batch["x"]), pc.is_null(batch["y"])).to_numpy(zero_copy_only=False)
    values = np.zeros(len(missing))
    both = batch.filter(pa.array(~missing))
    if both.num_rows:
        values[~missing] = cosine(to_matrix(both["x"]), to_matrix(both["y"]), matrix)
    columns = [batch["id"], batch["count"], pa.array(values, mask=missing)]
    return pa.RecordBatch.from_arrays(columns, ["id", "count", "cosine"])


def _below(matrix: NDArray[np.float64], limit: float, batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(pa.array(cosine(to_matrix(batch["x"]), to_matrix(batch["y"]), matrix) < limit))
