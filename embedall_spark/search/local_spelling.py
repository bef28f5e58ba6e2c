"""Edit distances of a word to many others at once, in numpy: what spelling.nearest() asks Spark for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def nearest(
    ids: Sequence[str], counts: Sequence[int | None], missing: str, limit: int, k: int, separator: str
) -> list[str]:
    """Return the ids that are spelled most like one that is missing, as spelling.nearest() ranks them.

    Args:
        ids: ids of a table.
        counts: how often each occurred; None: unknown.
        missing: the id.
        limit: how many edits are allowed.
        k: how many ids.
        separator: between the kind and the rest of an id.
    """
    lowered, word = [name.lower() for name in ids], missing.lower()
    edits = np.full(len(ids), limit + 1)
    lengths = np.fromiter(map(len, lowered), np.int64, len(lowered))
    for length in range(max(0, len(word) - limit), len(word) + limit + 1):
        rows = np.flatnonzero(lengths == length)
        edits[rows] = distances([lowered[row] for row in rows], word)
    qualified = np.fromiter((name.partition(separator)[1:] == (separator, missing) for name in ids), bool, len(ids))
    rows = np.flatnonzero(qualified | (edits <= limit))

    def order(row: int) -> tuple[bool, int, bool, int, bytes]:
        count = counts[row]
        edit = 0 if qualified[row] else int(edits[row])
        return not qualified[row], edit, count is None, -(count or 0), ids[row].encode()

    return [ids[row] for row in sorted(rows.tolist(), key=order)[:k]]


def distances(words: Sequence[str], other: str) -> NDArray[np.int64]:
    """Return the Levenshtein distance of each word to another, int64 [n]; the words are of one length."""
    if not words:
        return np.empty(0, np.int64)
    letters = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), np.uint32).reshape(len(words), -1)
    above = np.tile(np.arange(letters.shape[1] + 1), (len(words), 1))
    for place, letter in enumerate(map(ord, other), 1):
        row = np.empty_like(above)
        row[:, 0] = place
        replaced = above[:, :-1] + (letters != letter)
        for column in range(letters.shape[1]):
            deleted = np.minimum(above[:, column + 1], row[:, column]) + 1
            row[:, column + 1] = np.minimum(deleted, replaced[:, column])
        above = row
    return above[:, -1]
