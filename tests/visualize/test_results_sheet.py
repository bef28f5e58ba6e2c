"""The sheet of results: its size, its panels, its credit; maps draw what fits."""

import io

import numpy as np
import pytest
from PIL import Image

from embedall_spark.visualize import results_sheet
from embedall_spark.visualize.montage import Tile
from embedall_spark.visualize.results_sheet import Grid, Lines, Map, Mosaic

RED = Image.new("RGB", (40, 40), "#ff0000")
PLACES = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
NAMES = [f"name{i}" for i in range(30)]
PANELS = {
    "names": Map("A map", PLACES, NAMES, ["a", "b", "c"] * 10),
    "pictures": Mosaic("Pictures", PLACES, [RED] * 30),
    "grid": Grid("Searches", [("word", [Tile(RED, "x"), Tile(None, "y")])]),
    "lines": Lines("Neighbors", [("word", ["near", "other"]), ("long", ["w" * 500])]),
}


def _image(panels, credit=""):
    content = results_sheet.draw(panels, credit)
    assert len(content) < 400_000
    return Image.open(io.BytesIO(content)).convert("RGB")


def _reds(image):
    return (np.asarray(image) == (255, 0, 0)).all(axis=2).sum()


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_alone(name):
    image = _image([PANELS[name]])
    assert image.width < 1000
    assert (np.asarray(image) < 128).any()
    assert bool(_reds(image)) == (name in ("pictures", "grid"))


def test_panels_stand_in_two_columns_above_the_credit():
    image, credited = _image(list(PANELS.values())), _image(list(PANELS.values()), "By somebody")
    assert image.width > 1500
    assert _reds(image.crop((0, 0, image.width // 2, image.height))) > 0
    foot = np.asarray(credited)[-30:]
    assert (foot < 200).any()
    assert not (np.asarray(image)[-30:] < 200).any()


def test_pictures_of_a_mosaic_lie_apart_and_near_their_places():
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    image = _image([Mosaic("Pictures", corners, [RED] * 4)])
    assert _reds(image) == 4 * 50 * 50
    assert _reds(image.crop((0, 0, image.width // 2, image.height // 2))) == 50 * 50
    crowded = _image([Mosaic("Pictures", np.zeros((30, 2), np.float32), [RED] * 30)])
    assert _reds(crowded) == 30 * 50 * 50


def test_nothing_to_show_is_an_empty_sheet():
    assert _image([]).size
    assert not _reds(_image([Mosaic("Empty", PLACES[:0], [])]))
