"""A worker's rows of the model: initial values, loading, saving, and a check that they are finite."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from embedall_spark import files
from embedall_spark.train import aligned_rows, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray
    from torch import Tensor

# Values of trained rows stay below about 10; beyond this limit training has diverged.
EXPLODED = 1e3
_PIECE_BYTES = 64 << 20

Manifest = dict[str, Any]
"""A checkpoint's manifest; used here: workers, lengths, folder, inputs and outputs (a file name per shard)."""


def random_rows(ids: NDArray[np.int64], columns: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Return rows of ``columns`` random values in ±0.5/dim, then zeros; float32 [n, padded columns].

    A row depends on (seed, id) alone, not on the number of workers.
    """
    rows = aligned_rows.zeros(len(ids), aligned_rows.padded_length(columns))
    _fill(rows, ids, columns, np.float32(1.0 / dim), np.uint64(seed))
    return rows


def load(
    manifest: Manifest, index: int, workers: int, shards_of: Callable[[int, str], plan.Shards], ngrams: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the inputs and outputs of a shard from a checkpoint of any number of workers; float32 [n, padded length].

    Args:
        manifest: the checkpoint's.
        index: number of the shard.
        workers: number of shards now.
        shards_of: returns the shards for a number of workers, of ``inputs`` or of ``outputs``.
        ngrams: rows of inputs after those of the shard's tokens; there are some with one worker only.
    """
    before = int(manifest["workers"])
    result = []
    for matrix in ("inputs", "outputs"):
        ids = shards_of(workers, matrix).ids(index)
        dim = int(manifest["lengths"][matrix])
        count = len(ids) + (ngrams if matrix == "inputs" else 0)
        rows = aligned_rows.zeros(count, aligned_rows.padded_length(dim))
        if before == workers:
            for first, piece in read_rows(f"{manifest['folder']}/{manifest[matrix][index]}", count, dim):
                rows[first : first + len(piece), :dim] = piece
        for shard in range(before if before != workers else 0):
            saved_ids = shards_of(before, matrix).ids(shard)
            for first, piece in read_rows(f"{manifest['folder']}/{manifest[matrix][shard]}", len(saved_ids), dim):
                piece_ids = saved_ids[first : first + len(piece)]
                targets = np.searchsorted(ids, piece_ids).clip(max=len(ids) - 1)
                in_shard = ids[targets] == piece_ids
                rows[targets[in_shard], :dim] = piece[in_shard]
        result.append(rows)
    return result[0], result[1]


def save(folder: str, name: str, rows: NDArray[np.float32], dim: int) -> str:
    """Write rows as raw little-endian float32 [n, dim]; return the file's name, which is unique to this attempt."""
    name = f"{name}-{uuid.uuid4().hex[:8]}.f32"
    step = max(1, _PIECE_BYTES // (4 * dim))
    stream: BinaryIO
    with files.create(f"{folder}/{name}") as stream:
        for first in range(0, len(rows), step):
            stream.write(np.ascontiguousarray(rows[first : first + step, :dim]).tobytes())
    return name


def read_rows(
    uri: str, count: int, dim: int, first: int = 0, stop: int | None = None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield pieces of a saved shard of ``count`` rows: the number of a piece's first row, and float32 [n, dim].

    Raises:
        OSError: the file does not have the size that the manifest implies.
    """
    filesystem, path = files.resolve(uri)
    with filesystem.open_input_file(path) as stream:
        if stream.size() != 4 * count * dim:
            raise OSError(f"{uri}: need {4 * count * dim} bytes, found {stream.size()}; the checkpoint is damaged")
        step, stop = max(1, _PIECE_BYTES // (4 * dim)), count if stop is None else stop
        for row in range(first, stop, step):
            stream.seek(4 * row * dim)
            piece = np.frombuffer(stream.read(4 * dim * (min(stop, row + step) - row)), np.float32)
            yield row, piece.reshape(-1, dim)


def max_abs(rows: NDArray[np.float32] | Tensor) -> float:
    """Return the greatest absolute value; infinity where a value is not finite."""
    if isinstance(rows, np.ndarray):
        return float(_max_abs(rows))
    greatest = float(rows.abs().max())
    return greatest if greatest <= 3.4e38 else float("inf")


@numba.njit(nogil=True, cache=True)
def _max_abs(values: NDArray[np.float32]) -> float:
    greatest = 0.0
    for row in values:
        for value in row:
            # Written so that NaN, which compares false with everything, counts as too great.
            if not (abs(value) <= greatest):
                greatest = float(abs(value))
                if not (greatest <= 3.4e38):
                    return float("inf")
    return greatest


@numba.njit(nogil=True, cache=True)
def _fill(rows: NDArray[np.float32], ids: NDArray[np.int64], columns: int, scale: np.float32, seed: np.uint64) -> None:
    for row in range(len(ids)):
        base = (np.uint64(ids[row]) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + seed
        for column in range(columns):
            value = base + np.uint64(column) * np.uint64(0xD1B54A32D192ED03)
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            value = value ^ (value >> np.uint64(31))
            rows[row, column] = (np.float32(value >> np.uint64(40)) * np.float32(2.0**-24) - np.float32(0.5)) * scale
