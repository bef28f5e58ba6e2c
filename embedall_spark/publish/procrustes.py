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
_ROWS = 8192  # that are rotated at once
COSINES = "id string, count bigint, cosine double"


class Rotation(NamedTuple):
    """An orthogonal matrix, and how well it fits."""

    matrix: NDArray[np.float64]
    """float64 [d, d]; a row vector of the candidate times it lies in the published space."""
    anchors: int
    """How many ids both tables have."""
    fit: float
    """Mean cosine of the anchors that were not trimmed, weighted by their counts."""


def fit(candidate: DataFrame, published: DataFrame) -> Rotation:
    """Return the rotation (or reflection) of a candidate that brings it closest to the published table.

    The closest in squared distance of unit vectors, each anchor weighted by its count, is U V' of the singular value
    decomposition U S V' of the sum of w a b' (Schönemann 1966, "A generalized solution of the orthogonal Procrustes
    problem"). The tenth of the anchors that fits worst is then left out, and the rest fitted again. Each fit is one
    distributed pass; the driver holds matrices of d x d.

    Args:
        candidate: VECTORS.
        published: VECTORS of the same dimension d.

    Raises:
        ConfigError: the tables differ in dimension, or have more than covariance.MAX_SIZE dimensions.
        BadData: a table is empty, or they share fewer than d ids, which cannot hold a rotation.
    """
    sides = {"the candidate": candidate, "the published table": published}
    sizes = [covariance.side_dimension(vectors, name) for name, vectors in sides.items()]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"the candidate's vectors have {sizes[0]} dimensions, those of the published table {sizes[1]}: train with "
            "the same vector_size, or publish under another name"
        )
    weight = F.greatest(F.coalesce("count", F.lit(1)), F.lit(1)).cast("double").alias("weight")
    pairs = candidate.select(F.col("id").alias("left"), F.col("id").alias("right"), weight).join(
        published.select(F.col("id").alias("right")), "right", "left_semi"
    )
    anchors = pairs.count()
    if anchors < sizes[0]:
        raise BadData(
            f"the tables share {anchors:,} ids, and a rotation in {sizes[0]} dimensions needs at least as many: "
            "publish under another name, or with --new-space, where nothing need be comparable"
        )
    first = _solve(candidate, published, pairs)
    fits = cosines(candidate, published, first.matrix).select(F.col("id").alias("left"), "cosine").persist()
    try:
        worst = fits.agg(F.percentile_approx("cosine", _TRIMMED, 10_000)).first()
        assert worst is not None
        kept = pairs.join(fits.where(F.col("cosine") >= float(worst[0])), "left", "left_semi")
        return _solve(candidate, published, kept)._replace(anchors=anchors)
    finally:
        fits.unpersist()


def _solve(candidate: DataFrame, published: DataFrame, pairs: DataFrame) -> Rotation:
    """Return the rotation that fits the pairs best."""
    moments = covariance.of_pairs(candidate, published, pairs, (_UNIT, _UNIT))
    left, right = moments.means
    d = moments.left
    products = moments.scatter[:d, d:] + moments.weight * np.outer(left, right)
    u, s, vt = np.linalg.svd(products)
    return Rotation(u @ vt, moments.rows, float(s.sum() / moments.weight))


def rotate(vectors: DataFrame, matrix: NDArray[np.float64]) -> DataFrame:
    """Return VECTORS with vectors and context vectors times an orthogonal matrix, computed in float64.

    Dot products of any two of them, and so norms, neighbors and analogies, stay as they are, up to rounding.
    """
    return vectors.mapInArrow(in_batches(partial(_rotate, matrix), _ROWS), vectors.schema)


def _rotate(matrix: NDArray[np.float64], batch: pa.RecordBatch) -> pa.RecordBatch:
    for name in ("vector", "context"):
        column = batch.column(name)
        if len(column) == column.null_count:
            continue
        missing = column.is_null().to_numpy(zero_copy_only=False)
        rows = np.zeros((len(column), len(matrix)), np.float32)
        rows[~missing] = to_matrix(column.drop_null()).astype(np.float64) @ matrix
        index = batch.schema.get_field_index(name)
        batch = batch.set_column(index, batch.schema.field(index), to_column(rows, missing).cast(column.type))
    return batch


def cosines(candidate: DataFrame, published: DataFrame, matrix: NDArray[np.float64]) -> DataFrame:
    """Return id, count and cosine of each shared id's vector, rotated, to the published one."""
    joined = candidate.select("id", "count", F.col("vector").alias("x")).join(
        published.select("id", F.col("vector").alias("y")), "id"
    )
    return joined.mapInArrow(in_batches(partial(_cosines, matrix), _ROWS), COSINES)


def _cosines(matrix: NDArray[np.float64], batch: pa.RecordBatch) -> pa.RecordBatch:
    x, y = (unit(to_matrix(batch.column(name)).astype(np.float64)) for name in ("x", "y"))
    values = pc.min_element_wise(pa.array(np.einsum("ij,ij->i", x @ matrix, y)), 1.0)
    return pa.RecordBatch.from_arrays([batch.column("id"), batch.column("count"), values], ["id", "count", "cosine"])
