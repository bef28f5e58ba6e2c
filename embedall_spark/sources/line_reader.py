"""Lines of text files, a part of a file at a time, as tasks read them. Uses no Spark."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from embedall_spark.sources import text_streams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedall_spark.sources.input_files import InputFile
    from embedall_spark.sources.text_streams import Check, Stream


CHUNK = 1 << 20
MAX_BYTES = 1 << 24
"""Of a line, where the caller has no limit of its own."""
_MAX_PART = 32 << 20
_MIN_PART = 4 << 20
_FILE_COST = 1 << 20
_FEED = 10
_BLANKS = re.compile(rb"\A[\r\n]+")
_COMMENTS = re.compile(rb"\A(?:[ \t]*(?:[#%][^\r\n]*)?[\r\n]+)+")
# What _blocks() yields.
_WHOLE, _BEGINNING, _REST = range(3)


class Part(NamedTuple):
    """The lines of a file that begin at the bytes start to stop; stop is None where a file is not divided."""

    path: str
    start: int = 0
    stop: int | None = None


class Lines(NamedTuple):
    """Lines that follow each other."""

    values: pa.StringArray
    """Without line ends; bytes that are no UTF-8 stay as they are."""
    first: bool
    """Whether the first of them is the file's first line that is not empty."""
    problem: str | None = None
    """Why they cannot be used; of a line that is too long ``values`` has the beginning."""


def divide(listed: list[InputFile], encoding: str, tasks: int, whole: bool = False) -> list[list[Part]]:
    """Return the parts that each task reads.

    Args:
        listed: the files.
        encoding: of files without a byte order mark; only UTF-8 is divided.
        tasks: about how many there should be at least.
        whole: read each file by one task.
    """
    total = sum(file.size + _FILE_COST for file in listed)
    step = min(_MAX_PART, max(_MIN_PART, total // tasks))
    bins: list[list[Part]] = [[]]
    room = step
    for path, size, _ in listed:
        if whole or size <= step or path.endswith(text_streams.PACKED) or encoding != "utf-8":
            parts = [(Part(path), size)]
        else:
            parts = [(Part(path, i, min(i + step, size)), min(step, size - i)) for i in range(0, size, step)]
        for part, length in parts if size else []:
            if bins[-1] and room < length + _FILE_COST:
                bins.append([])
                room = step
            bins[-1].append(part)
            room -= length + _FILE_COST
    return bins


def read(
    part: Part,
    encoding: str,
    max_bytes: int,
    option: str | None,
    check: Check | None = None,
    comments: bool = False,
) -> Iterator[Lines]:
    """Yield the lines of a part, about a MiB at a time.

    Args:
        part: which lines.
        encoding: of a file without a byte order mark.
        max_bytes: of a line; a longer one has a ``problem``, or is several lines where ``option`` is None, cut where
            white space is.
        option: what allows for longer lines, for the problem to name.
        check: called with the path and the first 64 KiB of the file in UTF-8, to refuse it.
        comments: leave out lines that begin with # or % before the file's first other line.

    Raises:
        BadData: the file cannot be read, or is in another encoding; names it.
    """
    with text_streams.open_text(part.path, part.start, encoding, check) as (stream, actual):
        if actual != "utf-8":
            part = part._replace(stop=None)
        first = part.start == 0
        for block, kind in _blocks(part, stream, max_bytes):
            content = block.removeprefix(codecs.BOM_UTF8) if first else block
            if first:
                content = (_COMMENTS if comments else _BLANKS).sub(b"", content)
            if content:
                yield from _checked(content, kind, first, max_bytes, option)
                first = False


def read_document(part: Part, encoding: str, max_bytes: int) -> Iterator[Lines]:
    """Yield a whole file as one line; where it is longer than ``max_bytes`` in pieces, cut where white space is.

    Raises:
        BadData: as read().
    """
    with text_streams.open_text(part.path, 0, encoding) as (stream, _):
        buffer, first = b"", True
        while chunk := stream.read(CHUNK):
            buffer = (buffer + chunk).removeprefix(codecs.BOM_UTF8) if first else buffer + chunk
            while len(buffer) > max_bytes:
                end = cut(buffer, max_bytes)
                yield Lines(strings([buffer[:end]]), first)
                buffer, first = buffer[end:], False
        if buffer:
            yield Lines(strings([buffer]), first)


def split_lines(block: bytes) -> pa.StringArray:
    """Return the lines of a block: what ends with LF, CR or both, and what stands after the last such end."""
    data = np.frombuffer(block, np.uint8)
    feeds = np.flatnonzero(data == 10)
    content, ends = block.replace(b"\n", b""), feeds
    before = np.arange(len(feeds))
    if b"\r" in block:
        content = content.replace(b"\r", b"")
        returns = np.flatnonzero(data == 13)
        # A CR before an LF ends nothing by itself.
        ends = np.union1d(feeds, returns[data[np.minimum(returns + 1, len(data) - 1)] != 10])
        before = np.searchsorted(feeds, ends) + np.searchsorted(returns, ends)
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends - before
    if offsets[-1] < len(content):
        offsets = np.append(offsets, np.int32(len(content)))
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(content)])


def cut(line: bytes, size: int) -> int:
    """Return where to cut a longer line so that at most ``size`` bytes stand before: behind white space if possible."""
    place = max(line.rfind(mark, size // 2, size) for mark in (b" ", b"\t")) + 1
    if place == 0:
        place = size
        while place > 1 and line[place] & 0xC0 == 0x80:
            place -= 1
    return place


def _checked(block: bytes, kind: int, first: bool, max_bytes: int, option: str | None) -> Iterator[Lines]:
    """Yield the lines of a block; each too long one by itself."""
    problem = f"line over {max_bytes} bytes ({option})" if option else None
    if problem and kind != _WHOLE:
        if kind == _BEGINNING:
            yield Lines(strings([block[:CHUNK]]), first, problem)
        return
    values = split_lines(block)
    start = 0
    if len(block) > max_bytes:
        offsets = np.frombuffer(values.buffers()[1], np.int32)
        for place in np.flatnonzero(np.diff(offsets) > max_bytes).tolist():
            if place > start:
                yield Lines(values[start:place], first and start == 0)
            line = bytes(memoryview(values.buffers()[2])[offsets[place] : offsets[place + 1]])
            yield Lines(strings([line[:CHUNK]] if problem else _pieces(line, max_bytes)), first and not place, problem)
            start = place + 1
    if start < len(values):
        yield Lines(values[start:], first and start == 0)


def _pieces(line: bytes, size: int) -> list[bytes]:
    pieces = []
    while len(line) > size:
        place = cut(line, size)
        pieces.append(line[:place])
        line = line[place:]
    return [*pieces, line]


def strings(lines: list[bytes]) -> pa.StringArray:
    """Return lines as an array, whose bytes Arrow does not check, as it does not check those of split_lines()."""
    offsets = np.cumsum([0, *map(len, lines)], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(lines), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(lines))])


def _blocks(part: Part, stream: Stream, max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yield runs of whole lines with _WHOLE, and a longer line in pieces with _BEGINNING and then _REST."""
    room = max(max_bytes, CHUNK)
    buffer, place = _skip_line(part, stream) if part.start else (b"", 0)
    inside = False
    while inside or part.stop is None or place < part.stop:
        chunk = stream.read(CHUNK)
        buffer += chunk
        # Lines that begin further on belong to the next part.
        mine = len(buffer) + 1 if part.stop is None else part.stop - place
        end = 0
        if inside or len(buffer) >= mine:
            end = _line_end(buffer, 0 if inside else mine - 1, not chunk)
        if not (end or inside):
            end = _last_line_end(buffer, min(mine, len(buffer)))
        if not chunk:
            end = end or len(buffer)
        if end:
            yield buffer[:end], _REST if inside else _WHOLE
            buffer, place, inside = buffer[end:], place + end, False
        elif len(buffer) > room:
            end = cut(buffer, room)
            yield buffer[:end], _REST if inside else _BEGINNING
            buffer, place, inside = buffer[end:], place + end, True
        if not (chunk or buffer):
            return


def _skip_line(part: Part, stream: Stream) -> tuple[bytes, int]:
    """Read on to the first line that begins in a part; return what was read of it, and where it begins."""
    assert part.stop is not None
    buffer, place = b"", part.start - 1
    while place + len(buffer) < part.stop and (chunk := stream.read(CHUNK)):
        buffer += chunk
        if end := _line_end(buffer, 0, False):
            return buffer[end:], place + end
        # Its last byte may be half of a line's end.
        buffer, place = buffer[-1:], place + len(buffer) - 1
    return b"", part.stop


def _line_end(buffer: bytes, start: int, is_last: bool) -> int:
    """Return where the first line that ends at or after a place has ended, 0 where none is known to end."""
    feed = buffer.find(b"\n", start)
    back = buffer.find(b"\r", start, feed if feed >= 0 else len(buffer))
    if back < 0:
        return feed + 1
    if back + 1 == len(buffer):
        return back + 1 if is_last else 0
    return back + 1 + (buffer[back + 1] == _FEED)


def _last_line_end(buffer: bytes, stop: int) -> int:
    """Return where the last line that is known to end before a place has ended, 0 where none does."""
    feed = buffer.rfind(b"\n", 0, stop) + 1
    back = buffer.rfind(b"\r", feed, min(stop, len(buffer) - 1)) + 1
    return back + (buffer[back] == _FEED) if back else feed
