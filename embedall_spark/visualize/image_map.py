"""A map whose points are small pictures, and texts."""

from __future__ import annotations

from itertools import compress, zip_longest
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from embedall_spark.visualize import label_layout
from embedall_spark.visualize.drawing import GRAY, INK, font, on_white, one_line, sheet_png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Box = NDArray[np.float64]  # left, top, right, bottom

_WIDTH, _HEIGHT = 1820, 1400
_TOP, _MARGIN = 76, 24
_COVERED, _COVERED_BY_INK = 0.3, 0.8  # share of the sheet that pictures would cover if they lay apart
_OVERLAP = 2.2  # largest size of ink, in median distances to the nearest picture
_MIN_EDGE, _MAX_EDGE = 20, 72
_DOT, _FRAME, _LETTERS, _LINE = 4, 2, 16, 21
_TOLERANCE = 12  # gray values up to this difference count as equal


def draw(
    places: NDArray[np.float32],
    pictures: Sequence[Image.Image | None],
    colors: Sequence[str],
    title: str,
    legend: Mapping[str, str],
    texts: Sequence[str | None] = (),
) -> bytes:
    """Return a PNG of pictures and texts at their places.

    If all pictures are gray on plain black or white, as digits and letters are, each is drawn as ink of its color on
    transparent ground. Otherwise each has a frame of its color, and is drawn only where it covers no other one, the
    first ones first. What is not drawn is a dot; a dot that a picture would cover is moved to the picture's side.

    Args:
        places: float32 [n, 2], of any scale.
        pictures: n, None where there is none.
        colors: n, as ``#rrggbb``.
        title: above the map.
        legend: the colors by their meaning; empty: there is no legend.
        texts: n, or empty: the text of each that has no picture, written at its place or just above or below it where
            it covers nothing; else it is a dot.
    """
    masks = [None if picture is None else ink(picture) for picture in pictures]
    inked = all(mask is not None for mask, picture in zip(masks, pictures, strict=True) if picture is not None)
    edge = _edge(places, inked, bool(texts))
    beside = int(max([font(_LETTERS).getlength(label) + 60 for label in legend], default=0))
    sheet = Image.new("RGB", (_WIDTH + beside, _HEIGHT), "white")
    pen = ImageDraw.Draw(sheet)
    centers = _fit(places, edge)
    labels = [text if picture is None else None for picture, text in zip_longest(pictures, texts)]
    boxes = _layout(centers, [picture is not None and not inked for picture in pictures], labels, edge)
    for (x, y), picture, mask, box, color in zip(centers, pictures, masks, boxes, colors, strict=True):
        if picture is not None and inked and mask is not None:
            small = ImageOps.contain(mask, (edge, edge), Image.Resampling.LANCZOS)
            sheet.paste(color, (x - small.width // 2, y - small.height // 2), small)
        elif picture is not None and box is not None:
            small = _framed(picture, edge, color if legend else None)
            sheet.paste(small, (x - small.width // 2, y - small.height // 2))
    hidden = [box is None and (picture is None or not inked) for picture, box in zip(pictures, boxes, strict=True)]
    _draw_dots(pen, centers, [box for box in boxes if box is not None], hidden, colors)
    for text, box in zip(labels, boxes, strict=True):
        if text is not None and box is not None:
            pen.text((box[0] + 3, box[1]), text, fill=INK, font=font(_LETTERS))
    pen.text((_MARGIN, 16), one_line(title), fill=INK, font=font(20))
    if any(hidden):
        thing = "picture or text" if texts else "picture"
        note = f"a dot marks a {thing} that is missing or has no room here ({sum(hidden):,} of {len(hidden):,})"
        pen.text((_MARGIN, 46), note, fill=GRAY, font=font(14))
    _draw_legend(pen, legend)
    return sheet_png(sheet)


def ink(picture: Image.Image) -> Image.Image | None:
    """Return how much ink each pixel has, mode L, of a gray picture on plain black or white; None for any other."""
    values = np.asarray(on_white(picture)).astype(np.int16)
    if np.ptp(values, axis=2).max() > _TOLERANCE:
        return None
    gray = values[..., 0]
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    ground = float(np.median(border))
    # A stroke may reach the border somewhere.
    is_plain = (np.abs(border - ground) <= _TOLERANCE).mean() > 0.75
    if not is_plain or min(ground, 255 - ground) > _TOLERANCE:
        return None
    return Image.fromarray(np.abs(gray - ground).clip(0, 255).astype(np.uint8))


def _edge(places: NDArray[np.float32], inked: bool, has_texts: bool) -> int:
    """Return the size of a picture, in pixels: ink may overlap, frames and texts may not."""
    covered = _COVERED_BY_INK if inked else _COVERED
    edge = np.sqrt(_WIDTH * _HEIGHT * (covered / 2 if has_texts else covered) / len(places))
    if inked and len(places) > 1:
        from scipy.spatial import cKDTree

        # Where all lie in a few dense groups, a smaller size keeps them apart.
        centers = np.array(_fit(places, int(edge)))
        distances = cKDTree(centers).query(centers, 2)[0][:, 1]
        edge = min(edge, _OVERLAP * float(np.median(distances)))
    return int(np.clip(edge, _MIN_EDGE, _MAX_EDGE))


def _framed(picture: Image.Image, edge: int, color: str | None) -> Image.Image:
    """Return a picture of ``edge`` pixels, its frame included."""
    if color is None:
        return on_white(ImageOps.contain(picture, (edge, edge), Image.Resampling.LANCZOS))
    inner = edge - 2 * _FRAME
    return ImageOps.expand(on_white(ImageOps.contain(picture, (inner, inner), Image.Resampling.LANCZOS)), _FRAME, color)


def _fit(places: NDArray[np.float32], edge: int) -> list[tuple[int, int]]:
    """Return the places in pixels, so that every picture is whole."""
    low, span = places.min(axis=0), np.maximum(np.ptp(places, axis=0), 1e-12)
    share = (places - low) / span
    # Up is up, as in the map of dots.
    share[:, 1] = 1 - share[:, 1]
    margin = _MARGIN + edge // 2
    corner = np.array([margin, _TOP + (edge + 1) // 2])
    room = np.array([_WIDTH - margin, _HEIGHT - margin]) - corner
    return [(int(x), int(y)) for x, y in np.rint(corner + share * room)]


def _layout(
    centers: Sequence[tuple[int, int]], is_picture: Sequence[bool], texts: Sequence[str | None], edge: int
) -> list[Box | None]:
    """Return the box of each picture and text for which there is room beside those before it, None for others."""
    boxes: list[Box | None] = [None] * len(centers)
    drawn = [index for index, text in enumerate(texts) if is_picture[index] or text is not None]
    if not drawn:
        return boxes
    widths = [font(_LETTERS).getlength(texts[index] or "") + 6 for index in drawn]
    is_text = np.array([not is_picture[index] for index in drawn])
    sizes = np.where(is_text[:, None], np.stack([widths, np.full(len(drawn), _LINE)], axis=1), edge)
    middles = np.array([centers[index] for index in drawn], dtype=np.float64)
    corners = np.repeat((middles - sizes / 2)[:, None], 3, axis=1)
    # A text may also stand above or below its place.
    corners[..., 1] += np.outer(is_text * sizes[:, 1], [0, -1, 1])
    corners[..., 0] = np.clip(corners[..., 0], 0, np.maximum(_WIDTH - sizes[:, :1], 0))
    candidates = np.concatenate([corners, corners + sizes[:, None]], axis=2)
    head = np.array([0, _TOP])
    choices = label_layout.place(candidates - np.tile(head, 2), middles - head, (_WIDTH, _HEIGHT - _TOP))
    for index, options, choice in zip(drawn, candidates, choices, strict=True):
        if choice >= 0:
            boxes[index] = options[choice]
    return boxes


def _draw_dots(
    pen: ImageDraw.ImageDraw,
    centers: Sequence[tuple[int, int]],
    boxes: Sequence[Box],
    hidden: Sequence[bool],
    colors: Sequence[str],
) -> None:
    """Draw a dot for each hidden item, beside the picture or text that would cover it."""
    dots = np.array(centers, dtype=np.float64)[np.array(hidden, dtype=bool)]
    dots = label_layout.move_out(dots, np.array(boxes).reshape(-1, 4), _DOT + 1)
    for (x, y), color in zip(dots, compress(colors, hidden), strict=True):
        if np.isfinite(x):
            pen.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=color)


def _draw_legend(pen: ImageDraw.ImageDraw, legend: Mapping[str, str]) -> None:
    for row, (label, color) in enumerate(legend.items()):
        top = _TOP + row * 34
        pen.ellipse((_WIDTH + 8, top, _WIDTH + 26, top + 18), fill=color)
        pen.text((_WIDTH + 36, top - 1), label, fill=INK, font=font(_LETTERS))
