"""The heat map of pairs: which cell has which colour, and what is told."""

import io

import numpy as np
import pytest
from PIL import Image

from embedall_spark.visualize import heat_map

CELL = heat_map._CELL


def drawn(*arguments):
    return np.asarray(Image.open(io.BytesIO(heat_map.draw(*arguments))).convert("RGB")).astype(int)


def outlined(found):
    """Return left and top of the outlined cells."""
    ys, xs = np.nonzero((found == (214, 64, 58)).all(axis=2))
    return xs.min(), ys.min()


def test_partners_stand_on_the_diagonal_and_alike_ones_together():
    right = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 2]] + np.arange(5, dtype=np.float32)[:, None] / 100
    left = right.copy()
    left[4] = [0, 1, 0]  # nearer to another's partner than to its own
    names = [f"row {i}" for i in range(5)], [f"column {i}" for i in range(5)]
    found = drawn(left, right, names, [None] * 5, "Cosines")
    left_edge, top = outlined(found)
    assert found.shape[0] == top + 5 * CELL + 16
    middle = found[top + 6 :: CELL, left_edge + 6 :: CELL][:5, :5]
    bright = middle.sum(axis=2) > 400
    # Two that point one way, two the other, and what is nearer to these than to its own partner.
    assert bright.sum() == 10 and np.diag(bright).sum() == 4
    assert (np.diag(bright, 1) & np.diag(bright, -1)).sum() == 2


def test_what_is_told_counts_the_highest():
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.4], [0.1, 0.2, 0.7]])
    assert heat_map._told(scores).endswith("of their row: 2 of 3, of their column: 3")


@pytest.mark.parametrize("pairs", [1, 2])
def test_few_pairs_pictures_and_any_names(pairs):
    picture = Image.new("RGB", (50, 20), (0, 255, 0))
    names = ["x" * 300, "\n"][:pairs], ["\u0416\u0436", ""][:pairs]
    vectors = np.eye(2, dtype=np.float32)[:pairs]
    found = drawn(vectors, vectors, names, [picture, None][:pairs], "t" * 200)
    assert (found == (0, 255, 0)).all(axis=2).sum() > 200
