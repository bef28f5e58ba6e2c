"""What all drawn pictures share: the font, texts that fit, pictures on white, figures and sheets as PNG."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

INK, GRAY, EMPTY = "#18181b", "#71717a", "#e4e4e7"
"""Colors of texts, of secondary texts, and of a missing picture."""


@cache
def font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font of all texts, ``size`` in pixels; it comes with matplotlib, and has Greek and Cyrillic too."""
    import matplotlib

    file = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", file)), size)


def on_white(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, white where it is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def one_line(text: str) -> str:
    """Return a text on one line, without control characters."""
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()


def wrap(text: str, width: float, lines: int, size: float) -> list[str]:
    """Return a text in at most so many lines that fit, broken between words where that is possible.

    Args:
        text: the text; white space and control characters in it become blanks.
        width: in pixels; the last line ends in an ellipsis where the text is longer.
        lines: how many at most.
        size: of the font, in pixels.
    """
    wrapped: list[str] = []
    rest = one_line(text)
    while rest and len(wrapped) < lines - 1:
        fits = _fitting(rest, width, size)
        if fits < len(rest):
            fits = rest.rfind(" ", 1, fits + 1) if " " in rest[1 : fits + 1] else fits
        wrapped.append(rest[:fits].strip())
        rest = rest[fits:].strip()
    if rest:
        is_whole = _fitting(rest, width, size) == len(rest)
        wrapped.append(rest if is_whole else f"{rest[: _fitting(rest, width, size, '…')].strip()}…")
    return wrapped


def _fitting(text: str, width: float, size: float, end: str = "") -> int:
    """Return how many letters of a text fit, followed by ``end``; at least one."""
    low, high = 1, min(len(text), int(width))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font(size).getlength(text[:middle] + end) <= width else (low, middle - 1)
    return low


def sheet_png(sheet: Image.Image) -> bytes:
    """Return a picture as a PNG."""
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    return content.getvalue()


@contextmanager
def ignore_missing_glyphs() -> Iterator[None]:
    """Silence matplotlib about letters that the font lacks; they are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figure_png(figure: Figure) -> bytes:
    """Return a figure of matplotlib as a PNG."""
    content = io.BytesIO()
    with ignore_missing_glyphs():
        figure.savefig(content, format="png", dpi=figure.dpi)
    return content.getvalue()
