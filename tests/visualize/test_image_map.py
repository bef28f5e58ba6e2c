"""Maps of pictures: which are drawn, how, and where."""

import io

import numpy as np
from PIL import Image, ImageDraw

from embedall_spark.visualize import image_map, label_layout

RED, BLUE = "#ff0000", "#0000ff"


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def digit(ground=0):
    picture = Image.new("L", (28, 28), ground)
    ImageDraw.Draw(picture).rectangle((10, 6, 17, 21), fill=255 - ground)
    return picture.convert("RGB")


def photo(color):
    return Image.new("RGB", (40, 40), color)


def center(picture, color):
    ys, xs = np.nonzero(np.abs(picture - np.array(color)).max(axis=2) < 40)
    return xs.mean(), ys.mean()


def test_digits_are_ink_of_their_color_where_they_belong():
    places = np.array([[0, 0], [1, 1]], dtype=np.float32)
    actual = opened(image_map.draw(places, [digit(), digit(255)], [RED, BLUE], "", {}))
    (left, low), (right, high) = center(actual, (255, 0, 0)), center(actual, (0, 0, 255))
    assert left < 100 and low > actual.shape[0] - 100
    assert right > actual.shape[1] - 100 and high < 150
    # Nothing but ink: no black or white square around it.
    assert not (actual.max(axis=2) < 100).any()


def test_what_is_ink():
    for ground in (0, 255):
        mask = np.asarray(image_map.ink(digit(ground)))
        assert mask[0, 0] == 0 and mask[14, 14] == 255
    assert image_map.ink(photo("red")) is None
    assert image_map.ink(photo((128, 128, 128))) is None


def test_photographs_have_frames_and_cover_no_other():
    places = np.array([[0, 0], [0.001, 0], [1, 1]], dtype=np.float32)
    colors = [RED, BLUE, BLUE]
    pictures = [photo("#00ff00"), photo("#ffff00"), None]
    actual = opened(image_map.draw(places, pictures, colors, "", {"a": RED, "b": BLUE}))[:, : image_map._WIDTH]
    assert (actual == (0, 255, 0)).all(axis=2).any() and not (actual == (255, 255, 0)).all(axis=2).any()
    assert (actual == (255, 0, 0)).all(axis=2).any()
    # The one without a picture, and the one that has no room, are dots; the latter is beside the picture and whole.
    dots = (actual == (0, 0, 255)).all(axis=2)
    one = image_map.draw(np.array([[0, 0], [1, 1]], np.float32), [pictures[0], None], [RED, BLUE], "", {"a": RED})
    assert dots.sum() == 2 * (opened(one)[:, : image_map._WIDTH] == (0, 0, 255)).all(axis=2).sum() > 50


def test_dots_are_explained_only_where_there_are_some():
    places = np.array([[0, 0], [1, 1]], dtype=np.float32)
    none, some = (opened(image_map.draw(places, [photo(RED), two], [RED] * 2, "", {})) for two in (photo(BLUE), None))
    note = slice(40, 70)
    assert (none[note, :400] == 255).all() and (some[note, :400].min(axis=2) < 160).any()


def test_dots_under_a_box_move_to_its_nearest_free_side():
    boxes = np.array([[10, 10, 20, 20], [20, 8, 30, 22]], dtype=float)
    dots = np.array([[11, 15], [19, 12], [5, 5], [25, 15]], dtype=float)
    moved = label_layout.move_out(dots, boxes, 1)
    # The second is nearest to the other box, and goes up instead.
    assert moved.tolist() == [[9, 15], [19, 9], [5, 5], [31, 15]] or moved.tolist()[3] in ([25, 7], [25, 23])


def test_all_at_one_place_is_a_map():
    actual = opened(image_map.draw(np.zeros((3, 2), np.float32), [digit(), None, None], [RED] * 3, "one place", {}))
    assert (actual[:50].min(axis=2) < 128).any()


def test_texts_are_written_where_there_is_room_for_them():
    places = np.array([[0, 0], [1, 1], [1, 1], [1, 1], [1, 1], [1, 1]], dtype=np.float32)
    pictures = [photo("#00ff00"), *[None] * 5]

    def drawn(texts):
        return opened(image_map.draw(places, pictures, [RED] * 6, "", {}, texts))

    dots, one, five = drawn([None] * 6), drawn([None, "heart", *[None] * 4]), drawn([None, *["heart"] * 5])
    # All five are at one place: at it, above and below it is room for three.
    ink = [int((actual[:300].max(axis=2) < 100).sum()) for actual in (dots, one, five)]
    assert ink[0] == 0 and ink[1] > 50 and 2.5 * ink[1] < ink[2] < 3.5 * ink[1]
    assert (one == (255, 0, 0)).all(axis=2).any()
    # A text of something that has a picture is not written.
    assert (drawn(["heart", *[None] * 5]) == dots).all()


def test_a_text_at_the_edge_is_whole():
    places = np.array([[0, 0], [1, 0]], dtype=np.float32)
    actual = opened(image_map.draw(places, [None] * 2, [RED] * 2, "", {}, ["a long text"] * 2))
    halves = [(half.max(axis=2) < 100).sum() for half in np.split(actual, 2, axis=1)]
    assert halves[0] == halves[1] > 100
