"""Places of all ids of a table on a map: t-SNE of the most frequent ones, and every other id near these."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedall_spark.schemas import MAP
from embedall_spark.vectors import in_batches, to_matrix, unit
from embedall_spark.visualize import scatter_map

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

LANDMARKS = 3000
_NEAREST, _ROWS = 5, 2048


def places(vectors: DataFrame, landmarks: int = LANDMARKS, seed: int = 1) -> DataFrame:
    """Return MAP of a table of VECTORS, of any size.

    The most frequent ids are placed by t-SNE. Any id lies at the mean of the five of these that its vector is nearest
    to, weighted by the inverse of their squared distances, so that one of these lies at its own place.

    Args:
        vectors: VECTORS.
        landmarks: how many ids t-SNE places.
        seed: of t-SNE.

    Raises:
        TooFewIds: the table has fewer than two ids.
    """
    _, units = scatter_map.most_frequent(vectors, landmarks)
    known = scatter_map.project(units, "tsne", seed)
    return vectors.select("id", "vector").mapInArrow(in_batches(partial(_place, units, known), _ROWS), MAP)


def _place(units: NDArray[np.float32], known: NDArray[np.float32], batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return id, x and y of a batch of id and vector."""
    cosines = unit(to_matrix(batch["vector"])) @ units.T
    nearest = min(_NEAREST, len(units))
    best = np.argpartition(-cosines, nearest - 1, axis=1)[:, :nearest]
    squares = 2 - 2 * np.take_along_axis(cosines, best, axis=1).astype(np.float64)
    # What rounding leaves of the distance of a vector to itself is far below this.
    weights = 1 / np.maximum(squares, 1e-5)
    means = np.einsum("ij,ijk->ik", weights / weights.sum(axis=1, keepdims=True), known[best].astype(np.float64))
    x, y = (pa.array(np.ascontiguousarray(column)) for column in means.astype(np.float32).T)
    return pa.RecordBatch.from_arrays([batch["id"], x, y], ["id", "x", "y"])
