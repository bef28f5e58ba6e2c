"""Results of several runs on one sheet: maps, searches and neighbors, legible at half its size."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from scipy.optimize import linear_sum_assignment

from embedall_spark.visualize import label_layout
from embedall_spark.visualize.drawing import font, on_white
from embedall_spark.visualize.scatter_map import COLORS, OTHER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from embedall_spark.visualize.montage import Tile

_WIDTH, _HEIGHT = 760, 570  # of a panel's content, in pixels
_GAP, _HEAD, _FOOT = 36, 66, 48
_INK, _QUIET, _RULE = "#18181b", "#52525b", "#d4d4d8"
_TITLE, _TEXT, _LABEL = 29, 23, 20  # font sizes
_TILE, _DOT = 57, 3
_SPACE = 20  # between a name and what stands beside it
_COLORS = 255  # of the file's palette
# Where a name may stand at its dot: shares of its size from its left upper corner to the dot.
_ANCHORS = ((-0.03, 0.5), (1.03, 0.5), (0.5, 1.3), (0.5, -0.3), (0, 1.2), (1, 1.2))


class Map(NamedTuple):
    """Names at places; a name that would cover another is only a dot."""

    title: str
    places: NDArray[np.float32]
    """float32 [n, 2], of any scale."""
    names: Sequence[str]
    groups: Sequence[str]
    """Of each name; the most frequent ones have a color each."""


class Mosaic(NamedTuple):
    """Pictures side by side, each near its place; the first ones, as many as there is room for."""

    title: str
    places: NDArray[np.float32]
    """float32 [n, 2], of any scale."""
    pictures: Sequence[Image.Image]


class Grid(NamedTuple):
    """Rows of pictures, each beside its query."""

    title: str
    rows: Sequence[tuple[str, Sequence[Tile]]]


class Lines(NamedTuple):
    """Lines of text, each beside its query."""

    title: str
    rows: Sequence[tuple[str, Sequence[str]]]


Panel = Map | Mosaic | Grid | Lines


def draw(panels: Sequence[Panel], credit: str) -> bytes:
    """Return a PNG of panels, two beside each other, with a line of credit below them.

    The colors are reduced to 256, so that a page that shows the sheet stays small.
    """
    across, down = min(2, max(1, len(panels))), -(-len(panels) // 2)
    size = (across * (_WIDTH + _GAP) + _GAP, down * (_HEAD + _HEIGHT) + (_FOOT if credit else _GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for index, panel in enumerate(panels):
        left, top = _GAP + index % 2 * (_WIDTH + _GAP), index // 2 * (_HEAD + _HEIGHT)
        pen.text((left, top + 22), panel.title, fill=_INK, font=font(_TITLE, bold=True))
        sheet.paste(_content(panel), (left, top + _HEAD))
    pen.text((_GAP, size[1] - _FOOT + 12), credit, fill=_QUIET, font=font(_LABEL))
    content = io.BytesIO()
    sheet.quantize(_COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        content, format="PNG", optimize=True
    )
    return content.getvalue()


def _content(panel: Panel) -> Image.Image:
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    if isinstance(panel, Map):
        _map(pen, panel)
    elif isinstance(panel, Mosaic):
        _mosaic(image, panel)
    elif isinstance(panel, Grid):
        _grid(image, pen, panel)
    else:
        _lines(pen, panel)
    return image


def _map(pen: ImageDraw.ImageDraw, panel: Map) -> None:
    pen.rectangle((0, 0, _WIDTH - 1, _HEIGHT - 1), outline=_RULE)
    colors = _colors(panel.groups)
    dots = _spread(panel.places) * np.array([_WIDTH - 60, _HEIGHT - 60]) + 30
    sizes = np.array([(font(_LABEL).getlength(name) + 6, _LABEL + 6) for name in panel.names])
    corners = np.stack([dots - sizes * np.array(anchor) for anchor in _ANCHORS], axis=1)
    boxes = np.concatenate([corners, corners + sizes[:, None]], axis=2)
    for (x, y), color in zip(dots, colors, strict=True):
        pen.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=color)
    chosen = label_layout.place(boxes, dots, (_WIDTH, _HEIGHT))
    for name, box, choice, color in zip(panel.names, boxes, chosen, colors, strict=True):
        if choice >= 0:
            corner = (box[choice, 0] + 3, box[choice, 1])
            pen.text(corner, name, fill=color, font=font(_LABEL), stroke_width=2, stroke_fill="white")


def _mosaic(image: Image.Image, panel: Mosaic) -> None:
    across, down = _WIDTH // _TILE, _HEIGHT // _TILE
    count = min(across * down, len(panel.pictures))
    if not count:
        return
    cells = np.stack(np.unravel_index(np.arange(across * down), (down, across)), axis=1)[:, ::-1]
    wanted = _spread(panel.places[:count]) * np.array([across - 1, down - 1])
    costs = ((wanted[:, None] - cells[None]) ** 2).sum(axis=2)
    for picture, cell in zip(panel.pictures, linear_sum_assignment(costs)[1], strict=False):
        column, row = cells[cell].tolist()
        image.paste(_fit(picture, _TILE - 7), (column * _TILE, row * _TILE))


def _grid(image: Image.Image, pen: ImageDraw.ImageDraw, panel: Grid) -> None:
    step, left = _HEIGHT / max(1, len(panel.rows)), _beside(panel.rows)
    for index, (name, tiles) in enumerate(panel.rows):
        middle = int((index + 0.5) * step)
        pen.text((left - _SPACE, middle), name, fill=_INK, font=font(_TEXT, bold=True), anchor="rm")
        for place, tile in enumerate(tiles[: (_WIDTH - left) // (_TILE + 12)]):
            if tile.picture is not None:
                image.paste(_fit(tile.picture, _TILE), (left + place * (_TILE + 12), middle - _TILE // 2))


def _lines(pen: ImageDraw.ImageDraw, panel: Lines) -> None:
    step, left = _HEIGHT / max(1, len(panel.rows)), _beside(panel.rows)
    for index, (name, others) in enumerate(panel.rows):
        middle = (index + 0.5) * step
        pen.text((left - _SPACE, middle), name, fill=_INK, font=font(_TEXT, bold=True), anchor="rm")
        pen.text((left, middle), _fitting(others, _WIDTH - left), fill=_QUIET, font=font(_TEXT), anchor="lm")


def _beside(rows: Sequence[tuple[str, object]]) -> int:
    """Return where what stands beside the names begins."""
    return int(max((font(_TEXT, bold=True).getlength(name) for name, _ in rows), default=0)) + _SPACE


def _spread(places: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return places from 0 to 1, up being up; dense regions are given half of the room that sparse ones leave."""
    span = np.maximum(np.ptp(places, axis=0), 1e-12)
    linear = (places - places.min(axis=0)) / span
    ranks = places.argsort(axis=0).argsort(axis=0) / max(1, len(places) - 1)
    spread = (linear + ranks) / 2
    return np.stack([spread[:, 0], 1 - spread[:, 1]], axis=1).astype(np.float64)


def _colors(groups: Sequence[str]) -> list[str]:
    """Return a color for each group: of its own for the most frequent ones."""
    ranked = dict(zip((group for group, _ in Counter(groups).most_common()), COLORS, strict=False))
    return [ranked.get(group, OTHER) for group in groups]


def _fit(picture: Image.Image, edge: int) -> Image.Image:
    return on_white(ImageOps.contain(picture, (edge, edge), Image.Resampling.LANCZOS))


def _fitting(texts: Sequence[str], width: float) -> str:
    """Return as many texts as fit, without cutting one."""
    line = ""
    for text in texts:
        longer = f"{line}, {text}" if line else text
        if font(_TEXT).getlength(longer) > width:
            break
        line = longer
    return line
