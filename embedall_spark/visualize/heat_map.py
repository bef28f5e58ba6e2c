"""A heat map of cosines: things of one kind against things of another, each beside its partner."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from embedall_spark.search.exact_kernel import unit
from embedall_spark.visualize.montage import cut, font, on_white, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CELL, _EDGE, _NAME = 44, 16, 190  # pixels: a cell, the margin, the longest name
_HEAD, _LETTERS, _NUMBERS, _STEP = 16, 13, 11.5, 17  # font sizes, and the distance of lines
_INK, _TRUE = "#18181b", "#d6403a"


def draw(
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    names: tuple[Sequence[str], Sequence[str]],
    pictures: Sequence[Image.Image | None],
    title: str,
) -> bytes:
    """Return a PNG of the cosines of pairs, each left row against each right row.

    Rows and columns are in one order, in which right vectors that are alike stand together, so that the diagonal holds
    the true pairs, which are outlined; below the title stands how many are the highest of their row and column.

    Args:
        left: float32 [n, k].
        right: float32 [n, k], the partners.
        names: of the n on the left, and on the right.
        pictures: n small ones of the left rows, drawn before their names; None where there is none.
        title: above the heat map.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    units = unit(right)
    order = leaves_list(linkage(units.astype(np.float64), "average")) if len(units) > 1 else np.arange(len(units))
    scores = unit(left)[order].astype(np.float64) @ units[order].T.astype(np.float64)
    beside = 2 * _EDGE + _NAME + (_CELL if any(pictures) else 0)
    top = 5 * _EDGE + _NAME
    told = [title, _told(scores)]
    width = max(beside + _CELL * len(scores), *(int(font(_HEAD).getlength(line)) for line in told)) + 2 * _EDGE
    sheet = Image.new("RGB", (width, top + _CELL * len(scores) + _EDGE), "white")
    pen = ImageDraw.Draw(sheet)
    for line, size, down in zip(told, (_HEAD, _LETTERS), (_EDGE, _EDGE + 26), strict=True):
        pen.text((_EDGE, down), plain(line), fill=_INK, font=font(size))
    for place, at in enumerate(order):
        _row(sheet, pen, names[0][at], pictures[at], (beside, top + place * _CELL))
        _column(sheet, names[1][at], (beside + place * _CELL, top))
    _cells(pen, scores, beside, top)
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    return content.getvalue()


def _told(scores: NDArray[np.float64]) -> str:
    """Return how many partners are found first, both ways."""
    own = np.diag(scores)
    rows, columns = int((own >= scores.max(axis=1)).sum()), int((own >= scores.max(axis=0)).sum())
    return f"true pairs are outlined; the highest of their row: {rows} of {len(own)}, of their column: {columns}"


def _row(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, name: str, picture: Image.Image | None, end: tuple[int, int]
) -> None:
    """Write a name, and draw its picture, left of a row."""
    right, top = end[0] - 6, end[1]
    if picture is not None:
        small = on_white(ImageOps.contain(picture, (_CELL - 4, _CELL - 4), Image.Resampling.LANCZOS))
        sheet.paste(small, (right - (_CELL + small.width) // 2, top + (_CELL - small.height) // 2))
        right -= _CELL + 4
    lines = cut(name, _NAME, 2, _LETTERS)
    first = top + (_CELL - _STEP * len(lines)) / 2
    for line, text in enumerate(lines):
        place = (right - font(_LETTERS).getlength(text), first + line * _STEP)
        pen.text(place, text, fill=_INK, font=font(_LETTERS))


def _column(sheet: Image.Image, name: str, start: tuple[int, int]) -> None:
    """Write a name upwards above a column."""
    lines = cut(name, _NAME, 2, _LETTERS)
    ink = Image.new("L", (_NAME, _STEP * max(len(lines), 1)), 0)
    for line, text in enumerate(lines):
        ImageDraw.Draw(ink).text((0, line * _STEP), text, fill=255, font=font(_LETTERS))
    turned = ink.rotate(90, expand=True)
    sheet.paste(_INK, (start[0] + (_CELL - turned.width) // 2, start[1] - 6 - turned.height), turned)


def _cells(pen: ImageDraw.ImageDraw, scores: NDArray[np.float64], left: int, top: int) -> None:
    """Draw the cosines, with their two digits."""
    low, high = min(0.0, float(scores.min())), float(scores.max())
    import matplotlib

    colors = matplotlib.colormaps["viridis"]((scores - low) / max(high - low, 1e-12), bytes=True)[..., :3]
    for row, column in np.ndindex(*scores.shape):
        x, y = left + column * _CELL, top + row * _CELL
        red, green, blue = (int(value) for value in colors[row, column])
        pen.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), fill=(red, green, blue))
        number = f"{scores[row, column]:.2f}".replace("0.", ".").replace("-.00", ".00")
        place = (x + (_CELL - font(_NUMBERS).getlength(number)) / 2, y + 14)
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 140
        pen.text(place, number, fill=_INK if light else "white", font=font(_NUMBERS))
    for at in range(len(scores)):
        x, y = left + at * _CELL, top + at * _CELL
        pen.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), outline=_TRUE, width=3)
