"""Places labels so that none covers another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def place(boxes: NDArray[np.float64], dots: NDArray[np.float64], frame: tuple[float, float]) -> NDArray[np.int64]:
    """Choose a box for each label so that none covers another; earlier labels choose first.

    Args:
        boxes: candidates (left, bottom, right, top) of each label, float64 [n, candidates, 4]; of the free ones that
            over the fewest dots is chosen, of several such the first.
        dots: coordinates of the dots, float64 [n, 2].
        frame: width and height that labels must stay within.

    Returns:
        The index of the candidate chosen for each label, -1 where none is free, int64 [n].
    """
    choices = np.full(len(boxes), -1, dtype=np.int64)
    placed = np.empty((len(boxes), 4))
    count = 0
    for label, candidates in enumerate(boxes):
        others = placed[:count, None]
        apart = (
            (candidates[:, 2] <= others[..., 0])
            | (candidates[:, 0] >= others[..., 2])
            | (candidates[:, 3] <= others[..., 1])
            | (candidates[:, 1] >= others[..., 3])
        ).all(axis=0)
        inside = (candidates[:, :2] >= 0).all(axis=1) & (candidates[:, 2:] <= frame).all(axis=1)
        if (free := np.flatnonzero(apart & inside)).size:
            corners = candidates[free][:, None]
            covered = ((dots > corners[..., :2]) & (dots < corners[..., 2:])).all(axis=2).sum(axis=1)
            choices[label] = free[covered.argmin()]
            placed[count] = candidates[choices[label]]
            count += 1
    return choices


def move_out(dots: NDArray[np.float64], boxes: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Return the dots, those under a box moved to its nearest side where they are under none; else not a number.

    Args:
        dots: coordinates, float64 [n, 2].
        boxes: (left, bottom, right, top), float64 [m, 4].
        radius: of a dot.
    """
    low, high = boxes[:, :2] - radius, boxes[:, 2:] + radius

    def covering(places: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(((places[..., None, :] > low) & (places[..., None, :] < high)).all(axis=-1))

    moved = dots.copy()
    for index, box in zip(*np.nonzero(covering(dots)), strict=True):
        x, y = dots[index]
        sides = np.array([[low[box, 0], y], [high[box, 0], y], [x, low[box, 1]], [x, high[box, 1]]])
        free = sides[~covering(sides).any(axis=1)]
        distances = np.abs(free - dots[index]).sum(axis=1)
        moved[index] = free[distances.argmin()] if len(free) else np.nan
    return moved
