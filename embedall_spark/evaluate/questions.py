"""The stories whose next item is predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Questions(NamedTuple):
    """Stories whose last item is predicted; ids are those of VOCABULARY."""

    context: NDArray[np.int32]
    """The items before the last, the nearest one first, int32 [n, reach]; -1 if there is none in the vocabulary."""
    weights: NDArray[np.float64]
    """The weight of each of them, float64 [n, reach]; a story's sum is 1, or 0 if no item is in the vocabulary."""
    answer: NDArray[np.int32]
    """The last item, int32 [n]; -1 if it is not in the vocabulary."""

    def select(self, rows: slice | NDArray[np.bool_]) -> Questions:
        """Return a part of the stories."""
        return Questions(self.context[rows], self.weights[rows], self.answer[rows])
