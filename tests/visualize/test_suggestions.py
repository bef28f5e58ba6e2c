"""Suggestions: a row for each picture."""

import io

import numpy as np
from PIL import Image

from embedall_spark.visualize import suggestions
from embedall_spark.visualize.suggestions import Suggested


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_texts_are_beside_their_picture_and_end_in_time():
    picture = Image.new("RGB", (40, 40), (255, 0, 0))
    rows = [
        Suggested(picture, "own", {"titles": ["a"], "words": ["b"]}),
        Suggested(None, "n" * 500, {"titles": ["many words"] * 100, "words": []}),
    ]
    found = opened(suggestions.draw(rows, "What"))
    ys, xs = np.nonzero((found == (255, 0, 0)).all(axis=2))
    assert (np.ptp(xs) + 1, np.ptp(ys) + 1) == (96, 96)
    assert (found[ys.min() : ys.max(), xs.max() + 5 :].min(axis=2) < 128).any()
    # The second row's texts: two full lines, and nothing over the right edge or the picture.
    assert (found[:, -10:] == 255).all()
    grey = (found == (228, 228, 231)).all(axis=2)
    assert grey.sum() == 96 * 96
    assert suggestions.draw(rows[:1], "What") != suggestions.draw(rows[:1], "Else")
