"""Records of CSV files whose quoted values may hold line breaks, as tasks read them. Uses no Spark."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numba import njit

from embedall_spark.sources import line_reader, text_streams
from embedall_spark.sources.line_reader import Lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from embedall_spark.sources.line_reader import Part
    from embedall_spark.sources.text_streams import Stream

MAX_BYTES = 1 << 24
"""Of a record; a quote that is open for longer is taken for one that is never closed."""
_QUOTE, _FEED, _RETURN = 34, 10, 13
_START, _PLAIN, _QUOTED, _CLOSED = range(4)
_GOOD, _OPEN, _LONG = range(3)


def read(part: Part, encoding: str, separator: str, max_bytes: int = MAX_BYTES) -> Iterator[Lines]:
    """Yield the records of a file; a line break inside quotes becomes LF.

    Of a record with a quote that is never closed (at the end of the file it is open, it is longer than ``max_bytes``,
    or what closes it on a later line stands inside a value) the first line has a ``problem``, which gives its number;
    reading goes on from the next line, so that no other row is lost.

    Args:
        part: a whole file.
        encoding: of a file without a byte order mark.
        separator: one character.
        max_bytes: of a record.

    Raises:
        BadData: the file cannot be read, or is in another encoding; names it.
    """
    with text_streams.open_text(part.path, 0, encoding) as (stream, _):
        yield from _split(stream, np.frombuffer(separator.encode(), np.uint8), max_bytes)


def _split(stream: Stream, separator: NDArray[np.uint8], max_bytes: int) -> Iterator[Lines]:
    buffer, number, first = b"", 1, True
    while chunk := stream.read(line_reader.CHUNK):
        buffer += chunk
        if first:
            buffer = buffer.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
        records, used = _records_of(buffer, separator, False, number, first, max_bytes)
        yield from records
        first = first and not records
        number += buffer.count(b"\n", 0, used)
        buffer = buffer[used:]
    yield from _records_of(buffer, separator, True, number, first, max_bytes)[0]


def _records_of(
    buffer: bytes, separator: NDArray[np.uint8], is_last: bool, number: int, first: bool, max_bytes: int
) -> tuple[list[Lines], int]:
    """Return the records of a buffer that begins at line ``number``, and how many bytes they take."""
    data = np.frombuffer(buffer, np.uint8)
    most = buffer.count(b"\n") + buffer.count(b"\r") + 1
    offsets, begins, kinds = np.zeros(most + 1, np.int32), np.empty(most, np.int64), np.empty(most, np.uint8)
    out = np.empty(len(data), np.uint8)
    count, used = _scan(data, separator, is_last, max_bytes, out, offsets, begins, kinds)
    buffers = [None, pa.py_buffer(offsets[: count + 1]), pa.py_buffer(out[: offsets[count]])]
    values = pa.Array.from_buffers(pa.string(), count, buffers)
    records, start = [], 0
    for place in [*np.flatnonzero(kinds[:count]).tolist(), count]:
        if place > start:
            records.append(Lines(values[start:place], first and start == 0))
        if place < count:
            line = number + buffer.count(b"\n", 0, int(begins[place]))
            reason = f"a quote is never closed, line {line} of the file"
            if kinds[place] == _LONG:
                reason = f"over {max_bytes} bytes, line {line} of the file"
            records.append(Lines(values[place : place + 1], first and place == 0, f"not a row of this CSV, {reason}"))
        start = place + 1
    return records, int(used)


@njit(nogil=True, cache=True)
def _scan(  # noqa: C901 (one loop, for speed)
    data: NDArray[np.uint8],
    separator: NDArray[np.uint8],
    is_last: bool,
    max_bytes: int,
    out: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    begins: NDArray[np.int64],
    kinds: NDArray[np.uint8],
) -> tuple[int, int]:
    """Copy the records of CSV, back to back, and return how many there are and how many bytes of data they take.

    Args:
        data: from the beginning of a record on, uint8 [bytes].
        separator: its bytes, uint8.
        is_last: whether the file ends with these data.
        max_bytes: of a record.
        out: receives the records, uint8 [bytes].
        offsets: receives where each record begins in ``out`` and the last one ends, int32 [records + 1].
        begins: receives where each record begins in ``data``, int64 [records].
        kinds: receives _GOOD, _OPEN or _LONG for each record, uint8 [records].
    """
    size, count, begin = len(data), 0, 0
    while begin < size:
        state, place, first_end, stray = _START, begin, -1, False
        while place < size:
            byte = data[place]
            if state == _QUOTED:
                if byte == _QUOTE:
                    state = _CLOSED
                elif first_end < 0 and byte in (_FEED, _RETURN):
                    first_end = place
            elif byte in (_FEED, _RETURN):
                break
            elif byte == _QUOTE and state in (_START, _CLOSED):
                state = _QUOTED
            elif _ends_with(data, begin, place, separator):
                state = _START
            elif state == _CLOSED and first_end >= 0 and byte == separator[0]:
                # The first byte of a separator of several.
                pass
            elif state == _CLOSED and first_end >= 0:
                stray = True
                break
            else:
                state = _PLAIN
            place += 1
        kind = _GOOD
        if stray or (place == size and state == _QUOTED and (is_last or size - begin > max_bytes)):
            kind = _OPEN
            place = first_end if first_end >= 0 else size
        elif place == size and not is_last:
            if size - begin <= max_bytes:
                break
            kind = _LONG
        elif data[min(place, size - 1)] == _RETURN and place + 1 >= size and not is_last:
            # Half of a line's end.
            break
        put = offsets[count]
        for index in range(begin, place):
            if data[index] == _RETURN and index + 1 < place and data[index + 1] == _FEED:
                continue
            out[put] = data[index]
            put += 1
        kinds[count], begins[count] = kind, begin
        count += 1
        offsets[count] = put
        begin = place + 1
        if place + 1 < size and data[place] == _RETURN and data[place + 1] == _FEED:
            begin += 1
    return count, min(begin, size)


@njit(nogil=True, cache=True)
def _ends_with(data: NDArray[np.uint8], begin: int, place: int, separator: NDArray[np.uint8]) -> bool:
    """Tell whether a separator ends at a place."""
    start = place + 1 - len(separator)
    if start < begin:
        return False
    return np.array_equal(data[start : place + 1], separator)
