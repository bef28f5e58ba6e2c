"""The heat map of pairs: which cell has which color, and what the subtitle counts."""

import io

import numpy as np
import pytest
from PIL import Image

from embedall_spark.visualize import heat_map

CELL = heat_map._CELL


def pixels(*arguments):
    return np.asarray(Image.open(io.BytesIO(heat_map.draw(*arguments))).convert("RGB")).astype(int)


def outline(image):
    """Return left and top of the outlined cells."""
    ys, xs = np.nonzero(np.abs(image - (214, 64, 58)).max(axis=2) < 20)
    return xs.min() + 1, ys.min() + 1


def test_partners_stand_on_the_diagonal_and_similar_ones_are_adjacent():
    right = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 2]] + np.arange(5, dtype=np.float32)[:, None] / 100
    left = right.copy()
    left[4] = [0, 1, 0]  # nearer to another's partner than to its own
    names = [f"row {i}" for i in range(5)], [f"column {i}" for i in range(5)]
    image = pixels(left, right, names, [None] * 5, "Cosines")
    left_edge, top = outline(image)
    assert abs(image.shape[0] - (top + 5 * CELL + 16)) <= 2
    middle = image[top + 6 :: CELL, left_edge + 6 :: CELL][:5, :5]
    bright = middle.sum(axis=2) > 400
    # Two that point one way, two the other, and one that is nearer to these than to its own partner.
    assert bright.sum() == 10 and np.diag(bright).sum() == 4
    assert (np.diag(bright, 1) & np.diag(bright, -1)).sum() == 2


def test_the_subtitle_counts_the_highest():
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.4], [0.1, 0.2, 0.7]])
    assert heat_map._subtitle(scores).endswith("of their row: 2 of 3, of their column: 3")


@pytest.mark.parametrize("pairs", [1, 2])
def test_few_pairs_pictures_and_any_names(pairs):
    picture = Image.new("RGB", (50, 20), (0, 255, 0))
    names = ["x" * 300, "$\n"][:pairs], ["\u0416\u0436", ""][:pairs]
    vectors = np.eye(2, dtype=np.float32)[:pairs]
    image = pixels(vectors, vectors, names, [picture, None][:pairs], "t" * 200)
    assert (image == (0, 255, 0)).all(axis=2).sum() > 200
    # Nothing reaches the margin.
    assert (image[:, [0, 1, -2, -1]] == 255).all() and (image[[0, 1, -2, -1]] == 255).all()
