"""A picture of how far the ids of a table have moved: by frequency, and which have moved most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedall_spark.visualize.drawing import INK, figure_png, ignore_missing_glyphs, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLOR = "#4269d0"
_MAX_LETTERS = 30


def draw(
    counts: Sequence[int | None], cosines: Sequence[float], moved: Sequence[tuple[str, float]], title: str
) -> bytes:
    """Return a PNG: each id's cosine to its earlier vector by its count, and the ids that have moved most.

    Args:
        counts: of the ids that are drawn; without counts the left plot is a histogram.
        cosines: theirs, in the same order.
        moved: ids with the least cosines, least first.
        title: above the plots.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), dpi=110, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(title, fontsize=12, color=INK, parse_math=False)
    if any(counts):
        left.scatter([count or 1 for count in counts], cosines, s=6, alpha=0.35, color=_COLOR, linewidths=0)
        left.set(xscale="log", xlabel="count in training")
        left.set_ylabel("cosine to the vector before")
    else:
        left.hist(np.asarray(cosines, float), bins=40, color=_COLOR)
        left.set(xlabel="cosine to the vector before", ylabel="ids")
    with ignore_missing_glyphs():
        names = [one_line(name)[:_MAX_LETTERS] for name, _ in moved]
        right.barh(range(len(moved)), [cosine for _, cosine in moved], color=_COLOR)
        right.set_yticks(range(len(moved)), names)
        for label in right.get_yticklabels():
            label.set_parse_math(False)
        right.invert_yaxis()
        right.set(xlabel="cosine to the vector before", title="moved most")
        return figure_png(figure)
