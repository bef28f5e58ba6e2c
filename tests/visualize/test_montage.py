"""Montages: what is drawn where."""

import io

import numpy as np
import pytest
from PIL import Image

from embedall_spark.errors import ConfigError
from embedall_spark.visualize import drawing, montage
from embedall_spark.visualize.montage import Tile


def opened(content):
    assert content.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def flat(color, size=(40, 40), mode="RGB"):
    return Image.new(mode, size, color)


def where(picture, color, within=8):
    """Return left, top, width and height of what has a color."""
    ys, xs = np.nonzero(np.abs(picture - np.array(color)).max(axis=2) <= within)
    return xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1


def test_rows_are_aligned_and_captions_are_below():
    red, blue, green = (255, 0, 0), (0, 0, 255), (0, 160, 0)
    rows = [("first", [Tile(flat(red), "red"), Tile(flat(blue), "blue")]), ("second", [Tile(flat(green), "")])]
    actual = opened(montage.draw(rows, size=50))
    assert (actual[[0, -1]] == 255).all() and (actual[:, [0, -1]] == 255).all()
    first, second, third = (where(actual, color) for color in (red, blue, green))
    assert first[2:] == second[2:] == third[2:] == (50, 50)
    assert first[1] == second[1] and second[0] >= first[0] + 50
    assert third[0] == first[0] and third[1] > first[1] + 50
    caption = actual[first[1] + 51 : first[1] + 51 + 26, first[0] : first[0] + 50]
    assert (caption.min(axis=2) < 100).any()
    heading = actual[: first[1]]
    assert (heading.min(axis=2) < 128).any()


def test_pictures_keep_their_proportions_and_transparency_is_white():
    wide = opened(montage.draw([("", [Tile(flat((255, 0, 0), (100, 20)), "")])], size=60))
    assert where(wide, (255, 0, 0))[2:] == (60, 12)
    clear = flat((255, 0, 0, 0), mode="RGBA")
    clear.paste((0, 0, 255, 255), (0, 0, 40, 20))
    half = opened(montage.draw([("", [Tile(clear, "")])], size=40))
    assert where(half, (0, 0, 255))[2:] == (40, 20) and not (half == (255, 0, 0)).all(axis=2).any()
    gray = opened(montage.draw([("", [Tile(flat(0, mode="L"), "")])], size=40))
    assert where(gray, (0, 0, 0))[2:] == (40, 40)


def test_a_missing_picture_is_gray():
    actual = opened(montage.draw([("", [Tile(None, "")])], size=40))
    assert where(actual, (228, 228, 231), 1)[2:] == (40, 40)


def test_captions_stay_below_their_own_picture():
    words = "Женские высокие сапоги with a name that never ends"
    long = opened(montage.draw([("", [Tile(flat((255, 0, 0)), words), Tile(flat((0, 0, 255)), "X" * 500)])], size=96))
    left, top, width, height = where(long, (255, 0, 0))
    below = long[top + height :].min(axis=2) < 128
    gap = below[:, left + width : where(long, (0, 0, 255))[0]]
    assert below.any() and not gap.any()


def test_captions_break_between_words_and_end_in_an_ellipsis():
    lines = drawing.wrap("Nike Men's Running Blue Shoes of Leather and More", 96, 2, 10.5)
    assert len(lines) == 2 and lines[1].endswith("…") and "Nike Men's Running".startswith(lines[0])
    assert drawing.wrap("two\nwords\x00", 96, 2, 10.5) == ["two words"]
    assert drawing.wrap("", 96, 2, 10.5) == []
    assert max(map(drawing.font(10.5).getlength, lines)) <= 96


def test_a_note_has_a_line_of_its_own_above_the_caption():
    plain, noted = (
        opened(montage.draw([("", [Tile(flat((255, 0, 0)), "title", note)])], size=96)) for note in ("", "9")
    )
    assert noted.shape[0] == plain.shape[0] + 13
    bottom = where(noted, (255, 0, 0))[1] + 96
    # The caption is as it was, a line further down.
    assert (noted[bottom + 4 + 13 : -2] == plain[bottom + 4 : -2]).all()


def test_long_rows_go_on_below():
    tiles = [Tile(flat((255, 0, 0)), "")] * (montage.PER_LINE + 1)
    picture = Image.open(io.BytesIO(montage.draw([("a", tiles)], size=20)))
    short = Image.open(io.BytesIO(montage.draw([("a", tiles[:-1])], size=20)))
    assert picture.width == short.width and picture.height > short.height + 20


def test_nothing_is_a_white_picture_and_too_much_is_refused():
    assert (opened(montage.draw([])) == 255).all()
    with pytest.raises(ConfigError, match="fewer or smaller"):
        montage.draw([("", [Tile(None, "")] * 20_000)], size=96)
