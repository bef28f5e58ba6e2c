"""Graphs that benchmarks make for themselves, written as tables of src and dst, with weights where asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Edges = tuple[NDArray[np.int64], NDArray[np.int64]]

_CHUNK = 1 << 20
# Chances of the four quarters of the matrix (Chakrabarti et al. 2004, "R-MAT").
_A, _B, _C = 0.57, 0.19, 0.19


def rmat(slots: int, edges: int, seed: int = 1) -> NDArray[np.int64]:
    """Return distinct undirected edges without loops of a power-law graph, int64 [edges, 2]; vertices are shuffled."""
    random, bits = np.random.default_rng(seed), (slots - 1).bit_length()
    keys = np.empty(0, np.int64)
    while len(keys) < edges:
        src, dst = _draw(random, int((edges - len(keys)) * 1.2) + 1000, bits)
        apart = src != dst
        low, high = np.minimum(src, dst)[apart], np.maximum(src, dst)[apart]
        keys = np.unique(np.concatenate([keys, low << bits | high]))
    keys = random.permutation(keys)[:edges]
    ends = np.stack([keys >> bits, keys & ((1 << bits) - 1)], axis=1)
    return random.permutation(1 << bits)[ends]


def stream(slots: int, edges: int, seed: int = 1) -> Iterator[Edges]:
    """Yield edges of such a graph a piece at a time; some come more than once."""
    random, bits = np.random.default_rng(seed), (slots - 1).bit_length()
    for start in range(0, edges, _CHUNK):
        yield _draw(random, min(_CHUNK, edges - start), bits)


def star(leaves: int) -> Iterator[Edges]:
    """Yield the edges from one vertex to all others a piece at a time."""
    for start in range(1, leaves + 1, _CHUNK):
        dst = np.arange(start, min(start + _CHUNK, leaves + 1))
        yield np.zeros(len(dst), np.int64), dst


def write(edges: Iterator[Edges], folder: Path, rows: int = 1 << 23) -> None:
    """Write edges as parquet files of so many rows."""
    folder.mkdir(parents=True)
    schema = pa.schema([("src", pa.int64()), ("dst", pa.int64())])
    writer, buffered, number = None, 0, 0
    for src, dst in edges:
        if writer is None or buffered >= rows:
            if writer is not None:
                writer.close()
            writer, buffered, number = pq.ParquetWriter(folder / f"part-{number}.parquet", schema), 0, number + 1
        writer.write_table(pa.table([pa.array(src), pa.array(dst)], schema=schema))
        buffered += len(src)
    if writer is not None:
        writer.close()


def save_for_pecanpy(ends: NDArray[np.int64], file: Path) -> None:
    """Write undirected edges as the arrays that PecanPy's ``read_npz`` takes; vertices without edges are left out."""
    names, places = np.unique(ends, return_inverse=True)
    places = places.reshape(ends.shape)
    both = np.concatenate([places, places[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(both[:, 0], minlength=len(names)))])
    np.savez(
        file,
        IDs=names.astype(str),
        data=np.ones(len(both), np.float32),
        indptr=indptr.astype(np.uint32),
        indices=both[:, 1].astype(np.uint32),
    )


def _draw(random: np.random.Generator, count: int, bits: int) -> Edges:
    src, dst = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for _ in range(bits):
        drawn = random.random(count)
        src = 2 * src + (drawn >= _A + _B)
        dst = 2 * dst + (((drawn >= _A) & (drawn < _A + _B)) | (drawn >= _A + _B + _C))
    return src, dst
