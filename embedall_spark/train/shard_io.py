"""The rows of the model that a worker holds: first values, loading, saving, and whether they are still sound."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from embedall_spark import files
from embedall_spark.train import plan, sgns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

# Trained rows stay below about 10; beyond this a step has run away.
EXPLODED = 1e3
_PIECE = 64 << 20

Saved = dict[str, Any]
"""A checkpoint's manifest; of it: workers, dim, folder, inputs and outputs (a file name per shard)."""


def start(ids: NDArray[np.int64], dim: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return untrained input and output rows, float32 [n, padded dim]: uniform in ±0.5/dim, and zeros.

    A row depends on (seed, id) alone, not on which worker holds it.
    """
    inputs, outputs = sgns.aligned(len(ids), sgns.pad(dim)), sgns.aligned(len(ids), sgns.pad(dim))
    _fill(inputs, ids, dim, np.uint64(seed))
    return inputs, outputs


def load(
    saved: Saved, index: int, workers: int, shards_of: Callable[[int], plan.Shards]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return shard ``index`` of ``workers`` from a checkpoint, whatever the number of workers that wrote it.

    ``shards_of`` gives the shards for a number of workers. float32 [n, padded dim] each, inputs and outputs.
    """
    dim, before = int(saved["dim"]), int(saved["workers"])
    ids = shards_of(workers).ids(index)
    result = []
    for matrix in ("inputs", "outputs"):
        rows = sgns.aligned(len(ids), sgns.pad(dim))
        for shard in [index] if before == workers else range(before):
            names = shards_of(before).ids(shard)
            for first, piece in read_rows(f"{saved['folder']}/{saved[matrix][shard]}", len(names), dim):
                wanted = names[first : first + len(piece)]
                at = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
                found = ids[at] == wanted
                rows[at[found], :dim] = piece[found]
        result.append(rows)
    return result[0], result[1]


def save(folder: str, name: str, rows: NDArray[np.float32], dim: int) -> str:
    """Write rows as raw little-endian float32 [n, dim]; return the file's name, which no other attempt uses."""
    name = f"{name}-{uuid.uuid4().hex[:8]}.f32"
    step = max(1, _PIECE // (4 * dim))
    stream: BinaryIO
    with files.create(f"{folder}/{name}") as stream:
        for first in range(0, len(rows), step):
            stream.write(np.ascontiguousarray(rows[first : first + step, :dim]).tobytes())
    return name


def read_rows(
    uri: str, count: int, dim: int, first: int = 0, stop: int | None = None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (number of its first row, float32 [n, dim]) pieces of a saved shard of ``count`` rows.

    Raises:
        OSError: the file is not as long as the manifest says.
    """
    filesystem, path = files.resolve(uri)
    with filesystem.open_input_file(path) as stream:
        if stream.size() != 4 * count * dim:
            raise OSError(f"{uri}: need {4 * count * dim} bytes, found {stream.size()}; the checkpoint is damaged")
        step, stop = max(1, _PIECE // (4 * dim)), count if stop is None else stop
        for row in range(first, stop, step):
            stream.seek(4 * row * dim)
            piece = np.frombuffer(stream.read(4 * dim * (min(stop, row + step) - row)), np.float32)
            yield row, piece.reshape(-1, dim)


def greatest(rows: NDArray[np.float32]) -> float:
    """Return the greatest absolute value, infinite where one is not finite."""
    return float(_greatest(rows.reshape(-1)))


@numba.njit(nogil=True, cache=True)
def _greatest(values: NDArray[np.float32]) -> float:
    most = 0.0
    for value in values:
        # Written so that NaN, which compares false with everything, counts as too great.
        if not (abs(value) <= most):
            most = float(abs(value))
            if not (most <= 3.4e38):
                return float("inf")
    return most


@numba.njit(nogil=True, cache=True)
def _fill(rows: NDArray[np.float32], ids: NDArray[np.int64], dim: int, seed: np.uint64) -> None:
    scale = np.float32(1.0 / dim)
    for row in range(len(ids)):
        base = (np.uint64(ids[row]) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + seed
        for column in range(dim):
            value = base + np.uint64(column) * np.uint64(0xD1B54A32D192ED03)
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            value = value ^ (value >> np.uint64(31))
            rows[row, column] = (np.float32(value >> np.uint64(40)) * np.float32(2.0**-24) - np.float32(0.5)) * scale
