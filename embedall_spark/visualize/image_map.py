"""A map whose points are small pictures, and texts."""

from __future__ import annotations

import io
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from embedall_spark.visualize import label_layout
from embedall_spark.visualize.montage import font, on_white

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_WIDTH, _HEIGHT = 1820, 1400
_TOP, _EDGE = 56, 24
_FILLED, _INKED = 0.3, 0.8  # share of the sheet that pictures would cover if they lay apart
_CROSSING = 2.2  # size of ink, in distances to the nearest picture
_SMALLEST, _LARGEST = 20, 72
_DOT, _FRAME, _LETTERS, _TALL = 3, 2, 16, 21
_PLAIN = 12  # grey values that count as the same
_INK = "#18181b"


def draw(
    places: NDArray[np.float32],
    pictures: Sequence[Image.Image | None],
    colors: Sequence[str],
    title: str,
    legend: Mapping[str, str],
    texts: Sequence[str | None] = (),
) -> bytes:
    """Return a PNG of pictures and texts at their places.

    Where all are grey on plain black or white, as digits and letters are, each is drawn as ink of its colour on
    nothing. Otherwise each has a frame of its colour, and is drawn only where it covers no other one, the first ones
    first; what is not drawn is a dot.

    Args:
        places: float32 [n, 2], of any scale.
        pictures: n, None where there is none.
        colors: n, as ``#rrggbb``.
        title: above the map.
        legend: what a colour means; empty: there is no legend.
        texts: n, or none at all: what is written of those without a picture, at its place or just above or below it,
            where that covers nothing; else it is a dot.
    """
    masks = [None if picture is None else ink(picture) for picture in pictures]
    inked = all(mask is not None for mask, picture in zip(masks, pictures, strict=True) if picture is not None)
    edge = _edge(places, inked, bool(texts))
    beside = int(max([font(_LETTERS).getlength(label) + 60 for label in legend], default=0))
    sheet = Image.new("RGB", (_WIDTH + beside, _HEIGHT), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_EDGE, 16), title, fill=_INK, font=font(20))
    centres = _fitted(places, edge)
    written = [text if picture is None else None for picture, text in zip_longest(pictures, texts)]
    corners = _room(centres, [picture is not None and not inked for picture in pictures], written, edge)
    for (x, y), picture, corner, color in zip(centres, pictures, corners, colors, strict=True):
        if corner is None and (picture is None or not inked):
            pen.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=color)
    for (x, y), picture, mask, corner, color in zip(centres, pictures, masks, corners, colors, strict=True):
        if picture is None or (corner is None and not inked):
            continue
        if inked and mask is not None:
            small = ImageOps.contain(mask, (edge, edge), Image.Resampling.LANCZOS)
            sheet.paste(color, (x - small.width // 2, y - small.height // 2), small)
        else:
            small = _framed(picture, edge, color if legend else None)
            sheet.paste(small, (x - small.width // 2, y - small.height // 2))
    for text, corner in zip(written, corners, strict=True):
        if text is not None and corner is not None:
            # The white around its letters keeps them readable over dots.
            pen.text(corner, text, fill=_INK, font=font(_LETTERS), stroke_width=3, stroke_fill="white")
    _legend(pen, legend)
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    return content.getvalue()


def ink(picture: Image.Image) -> Image.Image | None:
    """Return how much ink each pixel has, mode L, of a grey picture on plain black or white; None for any other."""
    values = np.asarray(on_white(picture)).astype(np.int16)
    if np.ptp(values, axis=2).max() > _PLAIN:
        return None
    grey = values[..., 0]
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ground = float(np.median(border))
    # A stroke may leave the picture somewhere.
    plain = (np.abs(border - ground) <= _PLAIN).mean() > 0.75
    if not plain or min(ground, 255 - ground) > _PLAIN:
        return None
    return Image.fromarray(np.abs(grey - ground).clip(0, 255).astype(np.uint8))


def _edge(places: NDArray[np.float32], inked: bool, among_texts: bool) -> int:
    """Return the size of a picture, in pixels: ink may cross, frames and texts hide each other."""
    filled = _INKED if inked else _FILLED
    edge = np.sqrt(_WIDTH * _HEIGHT * (filled / 2 if among_texts else filled) / len(places))
    if inked and len(places) > 1:
        # Where all lie close together in a few places, less keeps them apart.
        centres = np.array(_fitted(places, int(edge)))
        from scipy.spatial import cKDTree

        near = cKDTree(centres).query(centres, 2)[0][:, 1]
        edge = min(edge, _CROSSING * float(np.median(near)))
    return int(np.clip(edge, _SMALLEST, _LARGEST))


def _framed(picture: Image.Image, edge: int, color: str | None) -> Image.Image:
    """Return a picture of ``edge`` pixels, its frame included."""
    if color is None:
        return on_white(ImageOps.contain(picture, (edge, edge), Image.Resampling.LANCZOS))
    inner = edge - 2 * _FRAME
    return ImageOps.expand(on_white(ImageOps.contain(picture, (inner, inner), Image.Resampling.LANCZOS)), _FRAME, color)


def _fitted(places: NDArray[np.float32], edge: int) -> list[tuple[int, int]]:
    """Return places in pixels, so that every picture is whole."""
    low, span = places.min(axis=0), np.maximum(np.ptp(places, axis=0), 1e-12)
    share = (places - low) / span
    # Up is up, as in the map of dots.
    share[:, 1] = 1 - share[:, 1]
    margin = _EDGE + edge // 2
    corner = np.array([margin, _TOP + edge // 2])
    room = np.array([_WIDTH - margin, _HEIGHT - margin]) - corner
    return [(int(x), int(y)) for x, y in np.rint(corner + share * room)]


def _room(
    centres: Sequence[tuple[int, int]], pictured: Sequence[bool], texts: Sequence[str | None], edge: int
) -> list[tuple[float, float] | None]:
    """Return the left upper corner of each picture and text that has room beside those before it, None for others."""
    found: list[tuple[float, float] | None] = [None] * len(centres)
    wanted = [at for at, text in enumerate(texts) if pictured[at] or text is not None]
    if not wanted:
        return found
    widths = [font(_LETTERS).getlength(texts[at] or "") + 6 for at in wanted]
    moves = np.array([not pictured[at] for at in wanted])
    sizes = np.where(moves[:, None], np.stack([widths, np.full(len(wanted), _TALL)], axis=1), edge)
    middles = np.array([centres[at] for at in wanted], dtype=np.float64)
    corners = np.repeat((middles - sizes / 2)[:, None], 3, axis=1)
    corners[..., 1] += np.outer(moves * sizes[:, 1], [0, -1, 1])
    corners[..., 0] = np.clip(corners[..., 0], 0, np.maximum(_WIDTH - sizes[:, :1], 0))
    boxes = np.concatenate([corners, corners + sizes[:, None]], axis=2)
    for at, row, choice in zip(wanted, corners, label_layout.place(boxes, middles, (_WIDTH, _HEIGHT)), strict=True):
        if choice >= 0:
            found[at] = (float(row[choice, 0]) + 3, float(row[choice, 1]))
    return found


def _legend(pen: ImageDraw.ImageDraw, legend: Mapping[str, str]) -> None:
    for row, (label, color) in enumerate(legend.items()):
        top = _TOP + row * 34
        pen.ellipse((_WIDTH + 8, top, _WIDTH + 26, top + 18), fill=color)
        pen.text((_WIDTH + 36, top - 1), label, fill=_INK, font=font(_LETTERS))
