"""Places of all ids: those that t-SNE places are where it puts them, the others near those that they are nearest to."""

import numpy as np
import pyarrow as pa
from vector_tables import table

from embedall_spark.vectors import to_column, unit
from embedall_spark.visualize import map_places, scatter_map

RANDOM = np.random.default_rng(6)
CLUSTERS, D, COUNT, LANDMARKS = 5, 12, 200, 60


def test_clusters_stay_together(spark):
    centers = RANDOM.normal(size=(CLUSTERS, D)) * 3
    cluster = np.arange(COUNT) % CLUSTERS
    matrix = centers[cluster] + RANDOM.normal(size=(COUNT, D)) * 0.5
    vectors = table(spark, [f"w{row}" for row in range(COUNT)], matrix, range(COUNT, 0, -1))
    rows = {row.id: (row.x, row.y) for row in map_places.places(vectors, LANDMARKS).collect()}
    assert len(rows) == COUNT
    places = np.array([rows[f"w{row}"] for row in range(COUNT)])
    ids, units = scatter_map.most_frequent(vectors, LANDMARKS)
    expected = scatter_map.project(units, "tsne", 1)
    spread = np.ptp(expected, axis=0).max()
    np.testing.assert_allclose([rows[name] for name in ids], expected, atol=0.01 * spread)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (cluster[apart.argmin(axis=1)] == cluster).mean() > 0.98


def test_a_place_is_the_weighted_mean_of_the_nearest():
    units = unit(RANDOM.normal(size=(9, D)))
    known = RANDOM.normal(size=(9, 2)).astype(np.float32)
    rows = np.concatenate([units[:1] * 7, RANDOM.normal(size=(3, D))]).astype(np.float32)
    batch = pa.RecordBatch.from_arrays([pa.array(list("abcd")), to_column(rows)], ["id", "vector"])
    actual = map_places._place(units.astype(np.float32), known, batch)
    np.testing.assert_allclose([actual["x"][0].as_py(), actual["y"][0].as_py()], known[0], atol=1e-3)
    for row in range(1, 4):
        squares = ((unit(rows[row : row + 1]) - units) ** 2).sum(axis=1)
        best = np.argsort(squares)[:5]
        mean = np.average(known[best], axis=0, weights=1 / squares[best])
        np.testing.assert_allclose([actual["x"][row].as_py(), actual["y"][row].as_py()], mean, rtol=1e-3, atol=1e-4)
