"""A sheet of small pictures, one for each point of the projector; no Spark."""

from __future__ import annotations

import io
import math
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_SIDE = 8192  # pixels; of a larger sheet the projector shows nothing
MAX_TILE = 64
_QUALITY = 90  # of 2,500 photographs, JPEG takes a third of the bytes of PNG and a twentieth of its time
_PAPER, _INK = "#e4e4e7", "#18181b"
_LETTERS, _LINES = 11, 3  # of a text in a tile
_LARGEST, _SMALLEST = 18, 7  # font sizes


def side(count: int) -> int:
    """Return how many tiles stand beside each other, and below each other: the sheet is a square."""
    return math.isqrt(max(count, 1) - 1) + 1


def tile(count: int) -> int:
    """Return the edge of a tile, in pixels: MAX_TILE, less where so many would not fit in MAX_SIDE."""
    return min(MAX_TILE, MAX_SIDE // side(count))


def sheet(names: Sequence[str], pictures: Mapping[str, Image.Image], texts: Sequence[str]) -> bytes:
    """Return a JPEG of square tiles of tile() pixels, row by row, the last ones left white.

    A picture keeps its proportions in its tile. Where there is none, its text stands there.

    Args:
        names: whose pictures, in their order.
        pictures: RGB, by name; no larger than the tile.
        texts: for those without a picture.
    """
    across, edge = side(len(names)), tile(len(names))
    drawn = Image.new("RGB", (across * edge, across * edge), "white")
    pen = ImageDraw.Draw(drawn)
    for place, (name, text) in enumerate(zip(names, texts, strict=True)):
        left, top = place % across * edge, place // across * edge
        found = pictures.get(name)
        if found is None:
            _write(pen, text, left, top, edge)
        else:
            drawn.paste(found, (left + (edge - found.width) // 2, top + (edge - found.height) // 2))
    content = io.BytesIO()
    drawn.save(content, format="JPEG", quality=_QUALITY, subsampling=0)
    return content.getvalue()


def _write(pen: ImageDraw.ImageDraw, text: str, left: int, top: int, edge: int) -> None:
    """Write a text into a tile, as large as it fits."""
    pen.rectangle((left, top, left + edge - 1, top + edge - 1), fill=_PAPER)
    lines = textwrap.wrap(text, _LETTERS, max_lines=_LINES, placeholder="…") or [""]
    widest = max(_font(_LARGEST).getlength(line) for line in lines)
    size = max(_SMALLEST, min(_LARGEST, int(_LARGEST * (edge - 4) / max(widest, 1)), edge // (len(lines) + 1)))
    font, step = _font(size), size + 2
    first = top + (edge - step * len(lines)) / 2
    for line, written in enumerate(lines):
        while len(written) > 1 and font.getlength(written) > edge:
            written = f"{written[:-2]}…" if len(written) > 2 else written[:1]
        pen.text((left + (edge - font.getlength(written)) / 2, first + line * step), written, fill=_INK, font=font)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    # It comes with matplotlib, and has Greek and Cyrillic letters too.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
