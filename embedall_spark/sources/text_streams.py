"""Text files opened as streams of UTF-8, whatever their encoding and packing. Uses no Spark."""

from __future__ import annotations

import bz2
import codecs
import gzip
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from urllib.parse import quote

from pydantic import AfterValidator

from embedall_spark import files
from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Check = Callable[[str, bytes], None]

PACKED = (".gz", ".bz2", ".zst", ".lz4")
_PYTHON: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open}
HEAD = 1 << 16
# What gzip can pack at most is 1,032 to 1, so this is no limit for it.
_MAX_RATIO, _MIN_UNPACKED = 1100, 1 << 20
# Longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8",
}  # fmt: skip
_BROKEN = "embedall_broken"
# A byte that UTF-8 never has, so that the line is refused as any line of broken bytes is.
codecs.register_error(_BROKEN, lambda error: ("\udcff", error.end))  # type: ignore[attr-defined]


def _codec(name: str) -> str:
    """Return Python's name of a text encoding."""
    try:
        codec = codecs.lookup(name)
        codec.incrementaldecoder().decode(b"")
    except (LookupError, TypeError):
        raise ValueError(f"no text encoding that Python knows: {name!r}; need one such as cp1252") from None
    if not getattr(codec, "_is_text_encoding", True):
        raise ValueError(f"{name!r} encodes no text; need an encoding such as utf-16-le or cp1252")
    return codec.name


Encoding = Annotated[str, AfterValidator(_codec)]
ENCODING = (
    "with format text, edgelist, csv and json: the encoding of files without a byte order mark, such as utf-16-le or "
    "cp1252; files that are not in UTF-8 are read by one task each"
)
"""Description of the option of each source."""


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes, none at the end."""


def read_head(path: str, encoding: str, size: int = HEAD) -> bytes:
    """Return the first bytes of a file, in UTF-8.

    Raises:
        BadData: the file cannot be read or is no text.
    """
    with open_text(path, 0, encoding) as (stream, _):
        return _read_fully(stream, size).removeprefix(codecs.BOM_UTF8)


@contextmanager
def open_text(path: str, start: int, encoding: str, check: Check | None = None) -> Iterator[tuple[Stream, str]]:
    """Open a file as a stream of UTF-8, which may begin with a byte order mark, and tell the file's own encoding.

    Args:
        path: the file.
        start: begin one byte before this one; nothing is read of a file that turns out to be in another encoding.
        encoding: of a file without a byte order mark.
        check: called with the path and the first 64 KiB in UTF-8, to refuse the file.

    Raises:
        BadData: the file cannot be read, also later inside the block, or is no text; names it.
    """
    try:
        with _open(path, start) as raw:
            if start:
                # Of a file that is not in UTF-8 the first part has all.
                divided = _encoding_of(path, raw.read(4), encoding) == "utf-8"
                raw.seek(start - 1) if divided else raw.seek(0, 2)
                yield raw, encoding
                return
            head = _read_fully(raw, HEAD)
            actual = _encoding_of(path, head, encoding)
            stream: Stream = _Joined(head, raw)
            if actual != "utf-8":
                stream = _Recoded(stream, actual)
                head = _read_fully(stream, HEAD)
                stream = _Joined(head, stream)
            if check is not None:
                check(path, head.removeprefix(codecs.BOM_UTF8))
            yield stream, actual
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{path}: the file cannot be read ({error}); mend, replace or remove it") from None


def origin(path: str) -> str:
    """Return the URI of a file."""
    return path if "://" in path or path.startswith("dbfs:") else f"file://{quote(path)}"


def _read_fully(stream: Stream, size: int) -> bytes:
    start = b""
    while len(start) < size and (chunk := stream.read(size - len(start))):
        start += chunk
    return start


@contextmanager
def _open(path: str, start: int) -> Iterator[Any]:
    filesystem, inside = files.resolve(path)
    if start:
        with filesystem.open_input_file(inside) as stream:
            yield stream
        return
    # Python unpacks: its error for a broken archive says what is wrong.
    python = next((module for ending, module in _PYTHON.items() if path.endswith(ending)), None)
    packed = "detect" if python is None and path.endswith(PACKED) else None
    with filesystem.open_input_stream(inside, compression=packed) as stream:
        unpacked = stream if python is None else python(stream)
        if path.endswith(PACKED):
            unpacked = _Bounded(unpacked, path, filesystem.get_file_info(inside).size)
        yield unpacked


def _encoding_of(path: str, start: bytes, encoding: str) -> str:
    """Return the encoding of a file, by its mark or as it is configured."""
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    zeros = start.count(0)
    if encoding == "utf-8" and zeros * 20 > len(start):
        odd, even = start[1::2].count(0), start[::2].count(0)
        guess = "utf-16-le" if odd > 9 * even else "utf-16-be" if even > 9 * odd else None
        remedy = f"if it is UTF-16 set input.encoding={guess}" if guess else "move it out of the input"
        raise BadData(f"{path}: not a text file in UTF-8, found {zeros} bytes of 0 at its beginning; {remedy}")
    return encoding


class _Bounded:
    """An unpacked stream that may not be far larger than its file: some packings hold terabytes in a few bytes."""

    def __init__(self, stream: Stream, path: str, packed: int) -> None:
        self._stream, self._path, self._left = stream, path, _MIN_UNPACKED + _MAX_RATIO * packed

    def read(self, size: int, /) -> bytes:
        chunk = bytes(self._stream.read(size))
        self._left -= len(chunk)
        if self._left < 0:
            raise BadData(f"{self._path}: unpacks to more than {_MAX_RATIO} times its size; unpack it, or remove it")
        return chunk


class _Joined:
    """What was read already, and then the rest of a stream."""

    def __init__(self, start: bytes, rest: Stream) -> None:
        self._start, self._rest = start, rest

    def read(self, size: int, /) -> bytes:
        if self._start:
            start, self._start = self._start[:size], self._start[size:]
            return start
        return bytes(self._rest.read(size))


class _Recoded:
    """A stream of another encoding in UTF-8; what cannot be decoded becomes a byte that UTF-8 never has."""

    def __init__(self, stream: Stream, encoding: str) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)(_BROKEN)

    def read(self, size: int, /) -> bytes:
        while chunk := self._stream.read(size):
            if text := self._decoder.decode(chunk):
                return text.encode("utf-8", "surrogateescape")
        return self._decoder.decode(b"", final=True).encode("utf-8", "surrogateescape")
