"""A montage: rows of pictures with captions, as one PNG."""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PER_LINE = 16  # tiles beside each other; a longer row goes on below
MAX_PIXELS = 100_000_000
_GAP, _EDGE = 8, 14
_INK, _GREY, _HEAD = "#18181b", "#e4e4e7", "#3f3f46"
_CAPTION, _HEADING = 10.5, 14  # font sizes
_LINES, _STEP, _HEADED = 2, 13, 24  # lines of a caption, their distance and a heading's height, in pixels


class Tile(NamedTuple):
    """One picture of a montage; None where it could not be had."""

    picture: Image.Image | None
    caption: str


def draw(rows: Sequence[tuple[str, Sequence[Tile]]], *, size: int = 96) -> bytes:
    """Return a PNG of rows of pictures, each row below its heading.

    A picture keeps its proportions in a square of ``size`` pixels, smaller ones are enlarged; what is transparent is
    white. A caption has two lines, and ends in an ellipsis where it is longer; one without a picture stands below a
    grey square.

    Raises:
        ConfigError: the montage would have more than MAX_PIXELS.
    """
    lines = list(_lines(rows))
    across = max([len(tiles) for _, tiles in lines], default=1) or 1
    below = _LINES * _STEP + 6
    width = 2 * _EDGE + across * (size + _GAP) - _GAP
    width = max(width, 2 * _EDGE + int(max([font(_HEADING).getlength(plain(head)) for head, _ in rows], default=0)))
    heights = [(_HEADED if head else 0) + (size + below if tiles else 0) + _GAP for head, tiles in lines]
    height = 2 * _EDGE + sum(heights)
    if width * height > MAX_PIXELS:
        found = f"{sum(len(tiles) for _, tiles in rows):,} tiles of {size} pixels"
        raise ConfigError(f"a montage of {found} would have over {MAX_PIXELS:,} pixels; ask for fewer or smaller ones")
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    top = _EDGE
    for (head, tiles), tall in zip(lines, heights, strict=True):
        if head:
            pen.text((_EDGE, top), plain(head), fill=_HEAD, font=font(_HEADING))
        for place, tile in enumerate(tiles):
            _tile(sheet, pen, tile, (_EDGE + place * (size + _GAP), top + (_HEADED if head else 0)), size)
        top += tall
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    return content.getvalue()


def on_white(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, white where it is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    clear = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


@cache
def font(size: float) -> ImageFont.FreeTypeFont:
    """Return the font of captions; it comes with matplotlib, and has Greek and Cyrillic letters too."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _lines(rows: Sequence[tuple[str, Sequence[Tile]]]) -> Iterator[tuple[str, Sequence[Tile]]]:
    """Yield rows of at most PER_LINE tiles; those that continue another have no heading."""
    for head, tiles in rows:
        yield head, tiles[:PER_LINE]
        for start in range(PER_LINE, len(tiles), PER_LINE):
            yield "", tiles[start : start + PER_LINE]


def _tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], size: int) -> None:
    left, top = corner
    if tile.picture is None:
        pen.rectangle((left, top, left + size - 1, top + size - 1), fill=_GREY)
    else:
        # Reduced first, so that transparent margins of a large picture cost nothing.
        small = on_white(ImageOps.contain(tile.picture, (size, size), Image.Resampling.LANCZOS))
        sheet.paste(small, (left + (size - small.width) // 2, top + (size - small.height) // 2))
    for line, text in enumerate(cut(tile.caption, size)):
        wide = font(_CAPTION).getlength(text)
        pen.text((left + (size - wide) / 2, top + size + 4 + line * _STEP), text, fill=_INK, font=font(_CAPTION))


def cut(text: str, width: int, most: int = _LINES, size: float = _CAPTION) -> list[str]:
    """Return a text in at most so many lines that fit, broken between words where that is possible.

    Args:
        text: what is white space or a control character in it becomes a space.
        width: in pixels; the last line ends in an ellipsis where the text goes on.
        most: lines.
        size: of the font.
    """
    lines: list[str] = []
    left = plain(text)
    while left and len(lines) < most - 1:
        fits = _fitting(left, width, size)
        if fits < len(left):
            fits = left.rfind(" ", 1, fits + 1) if " " in left[1 : fits + 1] else fits
        lines.append(left[:fits].strip())
        left = left[fits:].strip()
    if left:
        whole = _fitting(left, width, size) == len(left)
        lines.append(left if whole else f"{left[: _fitting(left, width, size, '…')].strip()}…")
    return lines


def _fitting(text: str, width: int, size: float, end: str = "") -> int:
    """Return how many letters of a text fit, followed by ``end``; at least one."""
    low, high = 1, min(len(text), width)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font(size).getlength(text[:middle] + end) <= width else (low, middle - 1)
    return low


def plain(text: str) -> str:
    """Return a text on one line, without control characters."""
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()
