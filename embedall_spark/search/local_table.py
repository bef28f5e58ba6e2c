"""A table of vectors on the driver, mapped from a file: exact search without Spark, with the same results."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark.search import csls
from embedall_spark.vectors import row_array, text_array, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Float = NDArray[np.float32]
    Hit = tuple[str, float]
    Block = Callable[..., tuple[NDArray[np.int64], Float]]

Vectors: TypeAlias = "DataFrame | LocalTable"
"""VECTORS in Spark, or on the driver."""
_CHUNK = 1 << 18  # rows that are searched at once
# Products with rows of other lengths may overflow or lose digits in float32.
_SHORTEST, _LONGEST = 1e-18, 1e18


@dataclass(frozen=True)
class ScaledRows:
    """exact_kernel.Rows: unit rows of vectors of any length; with ``similarity``, the rows of csls.rows()."""

    vectors: Float
    lengths: Float
    similarity: Float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimension."""
        return len(self.vectors), self.vectors.shape[1] + (self.similarity is not None)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: NDArray[np.int64]) -> Float:
        units = unit(self.vectors[rows])
        return units if self.similarity is None else csls.rows(units, self.similarity[rows])

    def products(self, queries: Float) -> Float:
        """Return the dot products of queries, float32 [q, d], and all rows, float32 [q, n]."""
        targets = queries if self.similarity is None else queries[:, :-1]
        with np.errstate(all="ignore"):
            products = targets @ self.vectors.T
            products /= self.lengths
        unusual = np.flatnonzero(~((self.lengths > _SHORTEST) & (self.lengths < _LONGEST)))
        products[:, unusual] = targets @ unit(self.vectors[unusual]).T
        return products if self.similarity is None else 2 * products - self.similarity


@dataclass(frozen=True)
class LocalTable:
    """VECTORS in the order of their ids, each id once, or some rows of them."""

    vectors: Float
    """float32 [n, d], as they are in the table"""
    lengths: Float
    """float32 [n]"""
    columns: pa.Table
    """id, norm, count, kind and run_id of all n rows"""
    rows: NDArray[np.int64] | None = None
    """Rows that belong to the table, in order; None: all."""
    similarity: Float | None = None
    """Mean similarity of all n rows, to rank by CSLS; None: by cosine."""

    def __len__(self) -> int:
        return len(self.vectors) if self.rows is None else len(self.rows)

    @property
    def dimension(self) -> int:
        """The dimension of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def ids(self) -> pa.ChunkedArray:
        """The ids of the rows that belong to the table."""
        return self.column("id")

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of the rows that belong to the table."""
        return self.columns[name] if self.rows is None else self.columns[name].take(row_array(self.rows))

    def index(self, name: str) -> int | None:
        """Return the row of an id among all rows; None if the table does not have it."""
        ids = self.columns["id"]
        row = bisect_left(range(len(ids)), name.encode(), key=lambda row: ids[row].as_py().encode())
        if row == len(ids) or ids[row].as_py() != name:
            return None
        return row if self.rows is None or row in self.rows else None

    def find(self, ids: Sequence[str]) -> dict[str, Float]:
        """Return the vectors, float32 [d] each, of those ids that are in the table, in the order of the ids."""
        rows = {name: row for name in sorted(set(ids)) if (row := self.index(name)) is not None}
        return {name: np.array(self.vectors[row]) for name, row in rows.items()}

    @property
    def positions(self) -> NDArray[np.int64]:
        """The rows that belong to the table, among all rows."""
        return np.arange(len(self.vectors)) if self.rows is None else self.rows

    def value(self, name: str, column: str) -> object:
        """Return a column's value in the row of an id; None if the table does not have the id."""
        row = self.index(name)
        return None if row is None else self.columns[column][row].as_py()

    def of_kind(self, kind: str) -> LocalTable:
        """Return the rows of a kind."""
        return self.where(pc.is_in(self.column("kind"), value_set=text_array([kind])))

    def where(self, mask: pa.ChunkedArray) -> LocalTable:
        """Return those of the rows for which a mask, one value for each, is true."""
        return self.take(pc.indices_nonzero(mask).to_numpy())

    def take(self, chosen: NDArray[np.integer]) -> LocalTable:
        """Return some of the rows, by their numbers among these, in order."""
        return replace(self, rows=chosen.astype(np.int64) if self.rows is None else self.rows[chosen])

    def most_frequent(self, ids: int) -> LocalTable:
        """Return what exact.most_frequent() does."""
        if len(self) <= ids:
            return self
        counts = self.column("count").fill_null(-1).to_numpy()
        first = np.argsort(-counts, kind="stable")[:ids]
        if counts[first[-1]] < 0:
            return self
        return self.take(np.sort(first))

    def search(self, block: Block, queries: int, k: int, exclude: Sequence[Collection[str]] = ()) -> list[list[Hit]]:
        """Return the best ``k`` ids of each query, as exact.search() does."""
        reach = k + max((len(names) for names in exclude), default=0)
        found = [self._search(block, start, reach) for start in range(0, len(self), _CHUNK)]
        if not found:
            return [[] for _ in range(queries)]
        rows, scores = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        hits: list[list[Hit]] = []
        for query in range(queries):
            excluded = [self.index(name) for name in exclude[query]] if exclude else []
            usable = ~np.isin(rows[query], [row for row in excluded if row is not None])
            order = np.lexsort((rows[query], -scores[query]))
            best = order[usable[order]][:k]
            names = self.columns["id"].take(row_array(rows[query, best])).to_pylist()
            hits.append(list(zip(names, scores[query, best].tolist(), strict=True)))
        return hits

    def _search(self, block: Block, start: int, k: int) -> tuple[NDArray[np.int64], Float]:
        """Return the best rows of one chunk, among all rows, and their scores, [q, k] each."""
        rows = np.arange(start, min(start + _CHUNK, len(self))) if self.rows is None else self.rows[start:][:_CHUNK]
        # Rows beside each other need no copy.
        beside = rows[-1] - rows[0] + 1 == len(rows)
        part = slice(rows[0], rows[-1] + 1) if beside else rows
        similarity = None if self.similarity is None else self.similarity[part]
        best, scores = block(ScaledRows(self.vectors[part], self.lengths[part], similarity), k=k)
        return rows[best], scores
