"""Where labels go so that none covers another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def place(boxes: NDArray[np.float64], dots: NDArray[np.float64], frame: tuple[float, float]) -> NDArray[np.int64]:
    """Choose where each label goes so that none covers another, earlier labels first.

    Args:
        boxes: candidates (left, bottom, right, top) of each label, the best one first, float64 [n, candidates, 4];
            among those that are free the one over the fewest dots is taken.
        dots: places of the dots, float64 [n, 2].
        frame: width and height that labels must stay within.

    Returns:
        The candidate chosen for each label, -1 where none is free, int64 [n].
    """
    chosen = np.full(len(boxes), -1, dtype=np.int64)
    taken = np.empty((len(boxes), 4))
    used = 0
    for label, candidates in enumerate(boxes):
        old = taken[:used, None]
        apart = (
            (candidates[:, 2] <= old[..., 0])
            | (candidates[:, 0] >= old[..., 2])
            | (candidates[:, 3] <= old[..., 1])
            | (candidates[:, 1] >= old[..., 3])
        ).all(axis=0)
        inside = (candidates[:, :2] >= 0).all(axis=1) & (candidates[:, 2:] <= frame).all(axis=1)
        if (free := np.flatnonzero(apart & inside)).size:
            corners = candidates[free][:, None]
            covered = ((dots > corners[..., :2]) & (dots < corners[..., 2:])).all(axis=2).sum(axis=1)
            chosen[label] = free[covered.argmin()]
            taken[used] = candidates[chosen[label]]
            used += 1
    return chosen
