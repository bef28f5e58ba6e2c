"""Small integers in few bytes, for what crosses between Spark and Python: numbers of frequent tokens are small.

Stream VByte (Lemire, Kurz and Rupp 2018, "Stream VByte: Faster byte-oriented integer compression"): how many integers
there are, their lengths of two bits each, and one to four bytes for each. Bytes that begin with an integer that is not
negative are not packed: rows of earlier versions hold plain integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numba import int32, int64, njit, types, uint8, uint32, void

from embedall_spark.numba_intrinsics import load_word

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Ints = NDArray[np.int32]
    Longs = NDArray[np.int64]

_BYTES = types.Array(uint8, 1, "C", readonly=True)
_INTS = types.Array(int32, 1, "C", readonly=True)
_LONGS = types.Array(int64, 1, "C", readonly=True)


def pack(values: NDArray[np.integer]) -> bytes:
    """Return integers from 0 to 2**31 - 1 as bytes."""
    data, _ = _packed(values, np.array([0, len(values)]))
    return data.tobytes()


def pack_parts(values: NDArray[np.integer], bounds: Longs) -> pa.BinaryArray:
    """Return the integers between each two neighboring bounds, packed, as a row each."""
    data, ends = _packed(values, bounds)
    return binary_array(data, ends)


def unpack(buffer: Any, plain: type[np.integer] = np.int32) -> NDArray[Any]:
    """Return the integers that pack() has packed, int32 [n], or those of an array of type ``plain``; writable."""
    data = np.frombuffer(buffer, np.uint8)
    header = int(data[:4].view(np.int32)[0]) if len(data) else 0
    if header >= 0:
        return data.view(plain).copy()
    values = np.empty(-header - 1, np.int32)
    _unpack(data, np.zeros(1, np.int64), np.array([0, len(values)]), values)
    return values


def unpack_parts(column: pa.BinaryArray) -> tuple[Ints, Longs]:
    """Return what pack_parts() has packed: the integers of all rows, int32, and the bounds of each row's, int64."""
    data, ends = row_bytes(column)
    bounds = np.zeros(len(ends), np.int64)
    _measure(data, ends, bounds)
    values = np.empty(bounds[-1], np.int32)
    _unpack(data, ends, bounds, values)
    return values, bounds


def binary_array(data: NDArray[Any], ends: NDArray[np.integer]) -> pa.BinaryArray:
    """Return the bytes between each two neighboring ends as a row each."""
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(data)]
    return pa.BinaryArray.from_buffers(pa.binary(), len(ends) - 1, buffers)


def row_bytes(column: pa.BinaryArray) -> tuple[Bytes, Longs]:
    """Return the bytes of all rows of a column without nulls, not copied, and their bounds, int64."""
    _, offsets, data = column.buffers()
    if not len(column) or data is None:
        return np.empty(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, 4 * column.offset).astype(np.int64)
    return np.frombuffer(data, np.uint8), ends


def _packed(values: NDArray[np.integer], bounds: Longs) -> tuple[Bytes, Longs]:
    sizes = np.diff(bounds)
    data, ends = np.empty(int((8 + 5 * sizes).sum()), np.uint8), np.zeros(len(bounds), np.int64)
    _pack(np.ascontiguousarray(values, np.int32), bounds.astype(np.int64), data, ends)
    return data[: ends[-1]].copy(), ends


@njit(void(_INTS, _LONGS, uint8[::1], int64[::1]), nogil=True, cache=True)
def _pack(values: Ints, bounds: Longs, data: Bytes, ends: Longs) -> None:
    """Pack each part into ``data``, where it has at most 5 bytes an integer and 8 more; ``ends`` begins with 0."""
    end = 0
    for part in range(bounds.size - 1):
        first, last = bounds[part], bounds[part + 1]
        header = uint32(-(last - first) - 1)
        for step in range(4):
            data[end + step] = uint8(header >> uint32(8 * step))
        lengths = end + 4
        end = lengths + (last - first + 3) // 4
        data[lengths:end] = 0
        for index in range(last - first):
            value = uint32(values[first + index])
            more = (value > 0xFF) + (value > 0xFFFF) + (value > 0xFFFFFF)
            data[lengths + (index >> 2)] |= uint8(more << (2 * (index & 3)))
            # All four are written: the next value begins where this one's end.
            for step in range(4):
                data[end + step] = uint8(value >> uint32(8 * step))
            end += more + 1
        ends[part + 1] = end


@njit(void(_BYTES, _LONGS, int64[::1]), nogil=True, cache=True)
def _measure(data: Bytes, ends: Longs, bounds: Longs) -> None:
    for row in range(ends.size - 1):
        bounds[row + 1] = bounds[row] - int64(int32(load_word(data, ends[row], ends[row] + 4))) - 1


@njit(void(_BYTES, _LONGS, _LONGS, int32[::1]), nogil=True, cache=True)
def _unpack(data: Bytes, starts: Longs, bounds: Longs, values: Ints) -> None:
    for part in range(bounds.size - 1):
        first, last = bounds[part], bounds[part + 1]
        lengths = starts[part] + 4
        end = lengths + (last - first + 3) // 4
        for index in range(last - first):
            begin = end
            end += 1 + ((int64(data[lengths + (index >> 2)]) >> (2 * (index & 3))) & 3)
            values[first + index] = int32(load_word(data, begin, end))
