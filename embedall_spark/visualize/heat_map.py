"""A heat map of cosines: rows of one kind against rows of another, partners on the diagonal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from embedall_spark.vectors import unit
from embedall_spark.visualize.drawing import GRAY, INK, figure_png, on_white, wrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure
    from numpy.typing import NDArray

_CELL, _MARGIN, _NAME, _HEAD = 44, 16, 190, 76  # pixels: a cell, the margin, the longest name, title and subtitle
_HEADING, _LETTERS, _DIGITS = 17, 13, 11.5  # font sizes, in pixels
_MIN_WIDTH = 660
_DPI = 100
_SLACK = 0.93  # matplotlib sets letters a little wider than they are measured
_TRUE = "#d6403a"


def draw(
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    names: tuple[Sequence[str], Sequence[str]],
    pictures: Sequence[Image.Image | None],
    title: str,
) -> bytes:
    """Return a PNG of the cosines of pairs, each left row against each right row.

    Rows and columns have the same order, in which similar right vectors are adjacent, so that the diagonal holds the
    true pairs, which are outlined. The subtitle counts how many of them are the highest of their row and column.

    Args:
        left: vectors, float32 [n, k].
        right: vectors of the partners, float32 [n, k].
        names: of the n left rows, and of the n right rows.
        pictures: n small ones of the left rows, drawn beside their names; None where there is none.
        title: above the heat map.
    """
    # Imported in functions, as in scatter_map: few commands draw.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import leaves_list, linkage

    units = unit(right)
    order = leaves_list(linkage(units.astype(np.float64), "average")).tolist() if len(units) > 1 else [0]
    scores = unit(left)[order].astype(np.float64) @ units[order].T.astype(np.float64)
    start = _MARGIN + _NAME + 6 + (_CELL if any(pictures) else 0)
    side, above = _CELL * len(scores), _HEAD + _NAME
    width, height = max(start + side + _MARGIN, _MIN_WIDTH), above + side + _MARGIN
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((start / width, _MARGIN / height, side / width, side / height))
    _write_head(figure, title, _subtitle(scores), (width, height))
    _draw_cells(axes, scores)
    _write_names(axes, [names[0][index] for index in order], [names[1][index] for index in order], any(pictures))
    for row, index in enumerate(order):
        picture = pictures[index]
        if picture is not None:
            _draw_picture(axes, picture, row)
    return figure_png(figure)


def _subtitle(scores: NDArray[np.float64]) -> str:
    """Return how many true pairs have the highest cosine of their row, and of their column."""
    diagonal = np.diag(scores)
    rows, columns = int((diagonal >= scores.max(axis=1)).sum()), int((diagonal >= scores.max(axis=0)).sum())
    return f"true pairs are outlined; the highest of their row: {rows} of {len(diagonal)}, of their column: {columns}"


def _points(pixels: float) -> float:
    return pixels * 72 / _DPI


def _write_head(figure: MatplotlibFigure, title: str, subtitle: str, size: tuple[int, int]) -> None:
    width, height = size
    lines = [(line, _HEADING, INK) for line in wrap(title, _SLACK * (width - 2 * _MARGIN), 2, _HEADING)]
    lines.append((subtitle, _LETTERS, GRAY))
    top = _MARGIN
    for line, pixels, color in lines:
        x, y = _MARGIN / width, 1 - top / height
        figure.text(x, y, line, fontsize=_points(pixels), color=color, va="top", parse_math=False)
        top += pixels + 7


def _draw_cells(axes: Axes, scores: NDArray[np.float64]) -> None:
    """Draw the cosines as colors and as digits, and outline the diagonal."""
    from matplotlib.patches import Rectangle

    image = axes.imshow(scores, cmap="viridis", vmin=min(0.0, float(scores.min())), aspect="auto")
    brightness = image.to_rgba(scores)[..., :3] @ np.array([0.299, 0.587, 0.114])
    for (row, column), score in np.ndenumerate(scores):
        digits = f"{score:.2f}".replace("0.", ".").replace("-.00", ".00")
        color = INK if brightness[row, column] > 0.55 else "white"
        axes.text(column, row, digits, fontsize=_points(_DIGITS), color=color, ha="center", va="center")
    for index in range(len(scores)):
        corner = (index - 0.5, index - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_TRUE, linewidth=_points(3), clip_on=False))


def _write_names(axes: Axes, rows: Sequence[str], columns: Sequence[str], has_pictures: bool) -> None:
    """Write the names of rows to their left, and those of columns upwards above them."""
    style: dict[str, Any] = {"fontsize": _points(_LETTERS), "color": INK, "parse_math": False}
    axes.tick_params(length=0, pad=_points(6), top=False, labeltop=True, bottom=False, labelbottom=False)
    lines = [["\n".join(wrap(name, _SLACK * _NAME, 2, _LETTERS)) for name in names] for names in (rows, columns)]
    axes.set_yticks(range(len(rows)), lines[0], ha="right", multialignment="right", **style)
    axes.set_xticks(range(len(columns)), lines[1], rotation=90, multialignment="left", **style)
    if has_pictures:
        axes.tick_params(axis="y", pad=_points(6 + _CELL))
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_picture(axes: Axes, picture: Image.Image, row: int) -> None:
    """Draw a picture left of its row, between the name and the cells."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    small = on_white(ImageOps.contain(picture, (_CELL - 4, _CELL - 4), Image.Resampling.LANCZOS))
    box = OffsetImage(np.asarray(small), zoom=1, dpi_cor=False)
    offset = (-_points(3 + _CELL / 2), 0.0)
    style: dict[str, Any] = {"boxcoords": "offset points", "annotation_clip": False, "frameon": False, "pad": 0}
    axes.add_artist(AnnotationBbox(box, (0, row), xybox=offset, xycoords=axes.get_yaxis_transform(), **style))
