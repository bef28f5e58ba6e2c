"""A montage: rows of pictures with captions, as one PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageOps

from embedall_spark.errors import ConfigError
from embedall_spark.visualize.drawing import EMPTY, GRAY, INK, font, on_white, one_line, sheet_png, wrap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PER_LINE = 16  # tiles side by side; a longer row continues below
MAX_PIXELS = 100_000_000
_GAP, _MARGIN = 8, 14
_HEAD = "#3f3f46"
_CAPTION, _HEADING = 10.5, 14  # font sizes
_LINES, _LINE, _HEADED = 2, 13, 24  # lines of a caption, the height of a line and of a heading, in pixels


class Tile(NamedTuple):
    """One picture of a montage; None where it is missing."""

    picture: Image.Image | None
    caption: str
    note: str = ""
    """A line in gray above the caption, such as a score."""


def draw(rows: Sequence[tuple[str, Sequence[Tile]]], *, size: int = 96) -> bytes:
    """Return a PNG of rows of pictures, each row below its heading.

    A picture keeps its proportions in a square of ``size`` pixels, smaller ones are enlarged; transparent parts are
    white. A caption has two lines, and ends in an ellipsis where it is longer; a missing picture is a gray square.

    Raises:
        ConfigError: the montage would have more than MAX_PIXELS.
    """
    lines = list(_lines(rows))
    across = max([len(tiles) for _, tiles in lines], default=1) or 1
    below = (_LINES + any(tile.note for _, tiles in rows for tile in tiles)) * _LINE + 6
    width = 2 * _MARGIN + across * (size + _GAP) - _GAP
    headings = [font(_HEADING).getlength(one_line(heading)) for heading, _ in rows]
    width = max(width, 2 * _MARGIN + int(max(headings, default=0)))
    heights = [(_HEADED if heading else 0) + (size + below if tiles else 0) + _GAP for heading, tiles in lines]
    height = 2 * _MARGIN + sum(heights)
    if width * height > MAX_PIXELS:
        count = f"{sum(len(tiles) for _, tiles in rows):,}"
        raise ConfigError(
            f"a montage of {count} pictures of {size} pixels would have over {MAX_PIXELS:,} pixels; show fewer or "
            "smaller ones"
        )
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for (heading, tiles), line_height in zip(lines, heights, strict=True):
        if heading:
            pen.text((_MARGIN, top), one_line(heading), fill=_HEAD, font=font(_HEADING))
        for column, tile in enumerate(tiles):
            corner = (_MARGIN + column * (size + _GAP), top + (_HEADED if heading else 0))
            _draw_tile(sheet, pen, tile, corner, size)
        top += line_height
    return sheet_png(sheet)


def _lines(rows: Sequence[tuple[str, Sequence[Tile]]]) -> Iterator[tuple[str, Sequence[Tile]]]:
    """Yield rows of at most PER_LINE tiles; those that continue another have no heading."""
    for heading, tiles in rows:
        yield heading, tiles[:PER_LINE]
        for start in range(PER_LINE, len(tiles), PER_LINE):
            yield "", tiles[start : start + PER_LINE]


def _draw_tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], size: int) -> None:
    left, top = corner
    if tile.picture is None:
        pen.rectangle((left, top, left + size - 1, top + size - 1), fill=EMPTY)
    else:
        # Scaled first, so that transparent margins of a large picture cost nothing.
        small = on_white(ImageOps.contain(tile.picture, (size, size), Image.Resampling.LANCZOS))
        sheet.paste(small, (left + (size - small.width) // 2, top + (size - small.height) // 2))
    texts = [(text, GRAY) for text in wrap(tile.note, size, 1, _CAPTION)]
    texts += [(text, INK) for text in wrap(tile.caption, size, _LINES, _CAPTION)]
    for line, (text, color) in enumerate(texts):
        width = font(_CAPTION).getlength(text)
        pen.text((left + (size - width) / 2, top + size + 4 + line * _LINE), text, fill=color, font=font(_CAPTION))
