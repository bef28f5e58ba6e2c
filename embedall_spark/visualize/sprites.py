"""A sheet of small pictures, one for each point of the projector; no Spark."""

from __future__ import annotations

import io
import math
import textwrap
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from embedall_spark.visualize.drawing import EMPTY, INK, font

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_SIDE = 8192  # pixels; the projector shows nothing of a larger sheet
MAX_TILE = 64
_QUALITY = 90  # for 2,500 photographs, JPEG takes a third of the bytes of PNG and a twentieth of its time
_LETTERS, _LINES = 11, 3  # of a text in a tile
_MAX_FONT, _MIN_FONT = 18, 7


def side(count: int) -> int:
    """Return how many tiles a row, and a column, of the square sheet has."""
    return math.isqrt(max(count, 1) - 1) + 1


def tile(count: int) -> int:
    """Return the edge of a tile, in pixels: MAX_TILE, less where so many would not fit in MAX_SIDE."""
    return min(MAX_TILE, MAX_SIDE // side(count))


def sheet(names: Sequence[str], pictures: Mapping[str, Image.Image], texts: Sequence[str]) -> bytes:
    """Return a JPEG of square tiles of tile() pixels, row by row, the last ones left white.

    A picture keeps its proportions in its tile. Where there is none, its text is written instead.

    Args:
        names: the ids of the points, in their order.
        pictures: RGB, by id; no larger than the tile.
        texts: for the points without a picture.
    """
    across, edge = side(len(names)), tile(len(names))
    image = Image.new("RGB", (across * edge, across * edge), "white")
    pen = ImageDraw.Draw(image)
    for index, (name, text) in enumerate(zip(names, texts, strict=True)):
        left, top = index % across * edge, index // across * edge
        picture = pictures.get(name)
        if picture is None:
            _write(pen, text, left, top, edge)
        else:
            image.paste(picture, (left + (edge - picture.width) // 2, top + (edge - picture.height) // 2))
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=_QUALITY, subsampling=0)
    return content.getvalue()


def _write(pen: ImageDraw.ImageDraw, text: str, left: int, top: int, edge: int) -> None:
    """Write a text into a tile, as large as it fits."""
    pen.rectangle((left, top, left + edge - 1, top + edge - 1), fill=EMPTY)
    lines = textwrap.wrap(text, _LETTERS, max_lines=_LINES, placeholder="…") or [""]
    widest = max(font(_MAX_FONT).getlength(line) for line in lines)
    size = max(_MIN_FONT, min(_MAX_FONT, int(_MAX_FONT * (edge - 4) / max(widest, 1)), edge // (len(lines) + 1)))
    letters, step = font(size), size + 2
    first = top + (edge - step * len(lines)) / 2
    for number, line in enumerate(lines):
        while len(line) > 1 and letters.getlength(line) > edge:
            line = f"{line[:-2]}…" if len(line) > 2 else line[:1]
        pen.text((left + (edge - letters.getlength(line)) / 2, first + number * step), line, fill=INK, font=letters)
