"""Results of several runs on one sheet: maps, searches and neighbors, legible at half its size."""

from __future__ import annotations

import io
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from embedall_spark.visualize import label_layout
from embedall_spark.visualize.montage import on_white
from embedall_spark.visualize.scatter_map import COLORS, OTHER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from embedall_spark.visualize.montage import Tile

_WIDTH, _HEIGHT = 880, 620  # of a panel's content, in pixels
_GAP, _HEAD, _FOOT = 40, 64, 48
_INK, _QUIET, _RULE = "#18181b", "#71717a", "#e4e4e7"
_TITLE, _TEXT, _LABEL = 28, 22, 19  # font sizes
_TILE, _DOT = 66, 3
_NAMES = 250  # width of the names beside tiles and lines
_COLORS = 255  # of the file's palette


class Map(NamedTuple):
    """Names, or their pictures, at places: what does not fit is a dot."""

    title: str
    places: NDArray[np.float32]
    """float32 [n, 2], of any scale."""
    names: Sequence[str]
    groups: Sequence[str] | None
    """Of each name; the most frequent ones have a color each. None: all are gray."""
    pictures: Mapping[str, Image.Image] | None = None
    """By name, to draw in place of the name."""


class Grid(NamedTuple):
    """Rows of pictures, each beside its query."""

    title: str
    rows: Sequence[tuple[str, Sequence[Tile]]]


class Lines(NamedTuple):
    """Lines of text, each beside its query."""

    title: str
    rows: Sequence[tuple[str, Sequence[str]]]


Panel = Map | Grid | Lines


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
        pen.text((left, top + 22), panel.title, fill=_INK, font=_font(_TITLE, bold=True))
        sheet.paste(_content(panel), (left, top + _HEAD))
    pen.text((_GAP, size[1] - _FOOT + 12), credit, fill=_QUIET, font=_font(_LABEL))
    content = io.BytesIO()
    sheet.quantize(_COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        content, format="PNG", optimize=True
    )
    return content.getvalue()


def _content(panel: Panel) -> Image.Image:
    if isinstance(panel, Map):
        return _map(panel)
    return _grid(panel) if isinstance(panel, Grid) else _lines(panel)


def _map(panel: Map) -> Image.Image:
    image, pen = _blank()
    pen.rectangle((0, 0, _WIDTH - 1, _HEIGHT - 1), outline=_RULE)
    colors = _colors(panel.groups) if panel.groups else [OTHER] * len(panel.names)
    pictures = {name: _fit(picture) for name, picture in (panel.pictures or {}).items()}
    sizes = np.array([pictures[name].size if name in pictures else _extent(name) for name in panel.names], np.float64)
    margin = _TILE / 2 + 8
    low, span = panel.places.min(axis=0), np.maximum(np.ptp(panel.places, axis=0), 1e-12)
    dots = margin + (panel.places - low) / span * (np.array([_WIDTH, _HEIGHT]) - 2 * margin)
    dots[:, 1] = _HEIGHT - dots[:, 1]  # up is up
    corners = np.stack(
        [dots - sizes * share for share in ((0.5, 0.5), (0, 1.2), (1, 1.2), (0.5, 1.3), (0.5, -0.3))], axis=1
    )
    corners = corners[:, :1] if panel.pictures else corners[:, 1:]
    boxes = np.concatenate([corners, corners + sizes[:, None]], axis=2)
    chosen = label_layout.place(boxes, dots, (_WIDTH, _HEIGHT))
    for (x, y), color in zip(dots, colors, strict=True):
        pen.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=color)
    for name, box, choice, color in zip(panel.names, boxes, chosen, colors, strict=True):
        if choice < 0:
            continue
        corner = (int(box[choice, 0]), int(box[choice, 1]))
        if name in pictures:
            image.paste(pictures[name], corner)
        else:
            pen.text(corner, name, fill=color, font=_font(_LABEL), stroke_width=2, stroke_fill="white")
    return image


def _grid(panel: Grid) -> Image.Image:
    image, pen = _blank()
    step = _HEIGHT / max(1, len(panel.rows))
    across = (_WIDTH - _NAMES // 2) // (_TILE + 16)
    for index, (name, tiles) in enumerate(panel.rows):
        middle = int((index + 0.5) * step)
        pen.text((0, middle), name, fill=_INK, font=_font(_TEXT, bold=True), anchor="lm")
        for place, tile in enumerate(tiles[:across]):
            if tile.picture is not None:
                image.paste(_fit(tile.picture), (_NAMES // 2 + place * (_TILE + 16), middle - _TILE // 2))
    return image


def _lines(panel: Lines) -> Image.Image:
    image, pen = _blank()
    step = _HEIGHT / max(1, len(panel.rows))
    left = max((_font(_TEXT, bold=True).getlength(name) for name, _ in panel.rows), default=0) + 24
    for index, (name, others) in enumerate(panel.rows):
        middle = (index + 0.5) * step
        pen.text((left - 24, middle), name, fill=_INK, font=_font(_TEXT, bold=True), anchor="rm")
        pen.text((left, middle), _fitting(others, _WIDTH - left), fill=_QUIET, font=_font(_TEXT), anchor="lm")
    return image


def _blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    return image, ImageDraw.Draw(image)


def _colors(groups: Sequence[str]) -> list[str]:
    """Return a color for each group: of its own for the most frequent ones."""
    ranked = dict(zip((group for group, _ in Counter(groups).most_common()), COLORS, strict=False))
    return [ranked.get(group, OTHER) for group in groups]


def _fit(picture: Image.Image) -> Image.Image:
    return on_white(ImageOps.contain(picture, (_TILE, _TILE), Image.Resampling.LANCZOS))


def _fitting(texts: Sequence[str], width: float) -> str:
    """Return as many texts as fit, without cutting one."""
    line = ""
    for text in texts:
        longer = f"{line}, {text}" if line else text
        if _font(_TEXT).getlength(longer) > width:
            break
        line = longer
    return line


def _extent(name: str) -> tuple[float, float]:
    return _font(_LABEL).getlength(name) + 6, _LABEL + 5


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # The font comes with matplotlib.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)
