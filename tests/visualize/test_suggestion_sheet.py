"""Suggestions: a row for each picture."""

import io

import numpy as np
from PIL import Image

from embedall_spark.visualize import suggestion_sheet
from embedall_spark.visualize.suggestion_sheet import SuggestionRow


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_texts_are_beside_their_picture_and_end_in_time():
    picture = Image.new("RGB", (40, 40), (255, 0, 0))
    rows = [
        SuggestionRow(picture, "own", {"titles": ["a"], "words": ["b"]}),
        SuggestionRow(None, "n" * 500, {"titles": ["many words"] * 100, "words": []}),
    ]
    actual = opened(suggestion_sheet.draw(rows, "What"))
    ys, xs = np.nonzero((actual == (255, 0, 0)).all(axis=2))
    assert (np.ptp(xs) + 1, np.ptp(ys) + 1) == (96, 96)
    assert (actual[ys.min() : ys.max(), xs.max() + 5 :].min(axis=2) < 128).any()
    # The second row's texts: two full lines, and nothing over the right edge or the picture.
    assert (actual[:, -10:] == 255).all()
    gray = (actual == (228, 228, 231)).all(axis=2)
    assert gray.sum() == 96 * 96
    assert suggestion_sheet.draw(rows[:1], "What") != suggestion_sheet.draw(rows[:1], "Else")
