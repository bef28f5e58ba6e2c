"""The bytes of word2vec's and GloVe's files: what they hold and where they are broken. No Spark."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from itertools import chain, takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark import files
from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Rows = tuple[list[str], NDArray[np.float32]]

_CHUNK = 4 << 20
_HEAD = 1 << 20
_MAX_ID = 1 << 16
# So many lines vote on the dimension of a file without a header.
_VOTES = 1000
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Head(NamedTuple):
    """What the beginning of a file tells: ``rows`` is -1 where there is no header line."""

    binary: bool
    rows: int
    dimension: int


def head(path: str, layout: str) -> Head:
    """Return what the beginning of a file tells.

    Raises:
        BadData: it is the beginning of neither format.
        OSError: the file cannot be read.
    """
    filesystem, inside = files.resolve(path)
    with filesystem.open_input_stream(inside) as stream:
        start = bytes(stream.read(_HEAD))
        if start.startswith(_UTF16):
            raise BadData(f"{path}: in UTF-16, by its byte order mark; write it in UTF-8")
        start = start.removeprefix(codecs.BOM_UTF8)
        first, _, rest = start.partition(b"\n")
        header = first.split()
        if len(header) == 2 and all(field.isdigit() for field in header) and int(header[1]) > 0:
            rows, dimension = map(int, header)
            if not rows:
                raise BadData(f"{path}: holds no vectors, by its header; need one at least")
            binary = layout == "binary" or (layout == "auto" and not _is_text(rest.partition(b"\n")[0]))
            return Head(binary, rows, dimension)
        if layout == "binary":
            raise BadData(f"{path}, line 1: need 'ROWS DIMENSION', found {first[:60]!r}; no word2vec binary file")
        # A row may be longer than what was read.
        while b"\n" not in start and _is_text(start) and (chunk := bytes(stream.read(_CHUNK))):
            start += chunk
    lines = start.split(b"\n")
    votes = Counter(map(_trailing_numbers, (lines[:-1] or lines)[:_VOTES]))
    # A broken line has none; a line has more where the word ends in a number.
    dimension = min(votes.keys() - {0}, key=lambda width: (-votes[width], width), default=0)
    if not dimension:
        raise BadData(f"{path}, line 1: need 'ROWS DIMENSION', or a word and its vector, found {lines[0][:60]!r}")
    return Head(False, -1, dimension)


def read(path: str, head: Head) -> Iterator[Rows]:
    """Yield the rows of a file in their order as (ids, float32 [n, dimension]), a few MiB at a time.

    Raises:
        BadData: a row is malformed, or there are more or fewer than the header says; names the row or line.
    """
    filesystem, inside = files.resolve(path)
    with filesystem.open_input_stream(inside) as stream:
        chunks = iter(lambda: bytes(stream.read(_CHUNK)), b"")
        first = next(chunks, b"")
        while len(first) < len(codecs.BOM_UTF8) and (chunk := next(chunks, b"")):
            first += chunk
        chunks = chain([first.removeprefix(codecs.BOM_UTF8)], chunks)
        yield from _binary(path, chunks, head) if head.binary else _text(path, chunks, head)


def _binary(path: str, chunks: Iterator[bytes], head: Head) -> Iterator[Rows]:
    size = 4 * head.dimension
    first = next(chunks, b"")
    done, start, rest = 0, first.find(b"\n") + 1, first
    while done < head.rows:
        ids: list[str] = []
        vectors: list[bytes] = []
        while done + len(ids) < head.rows:
            space = rest.find(b" ", start)
            if space < 0 or len(rest) < space + 1 + size:
                break
            # The C tool ends each vector with a line feed, gensim does not.
            ids.append(_name(path, "row", done + len(ids) + 1, rest[start:space].lstrip(b"\n")))
            vectors.append(rest[space + 1 : space + 1 + size])
            start = space + 1 + size
        if ids:
            yield ids, _finite(path, "row", done, np.frombuffer(b"".join(vectors), "<f4").reshape(len(ids), -1))
        done += len(ids)
        rest, start = rest[start:], 0
        if done == head.rows:
            break
        if len(rest) > _MAX_ID and b" " not in rest[:_MAX_ID]:
            raise BadData(f"{path}, row {done + 1}: no space after the id within {_MAX_ID:,} bytes; the file is broken")
        chunk = next(chunks, b"")
        if not chunk:
            raise BadData(
                f"{path}, row {done + 1}: the file ends here; its header says {head.rows:,} rows; get it whole"
            )
        rest += chunk
    if rest[start:].strip() or any(chunk.strip() for chunk in chunks):
        raise BadData(f"{path}: goes on after row {head.rows:,}, the last one by its header; the file is broken")


def _text(path: str, chunks: Iterator[bytes], head: Head) -> Iterator[Rows]:
    skip = head.rows >= 0
    number, done, longer, rest = 1 + skip, 0, 0, [b""]
    for chunk in chain(chunks, [None]):
        # A row may be longer than a chunk: joined once it is whole.
        if chunk is not None and b"\n" not in chunk:
            rest.append(chunk)
            continue
        *lines, last = b"".join([*rest, chunk or b""]).split(b"\n")
        rest = [last]
        if chunk is None and last.strip():
            lines.append(last)
        if skip and lines:
            del lines[0]
            skip = False
        if lines:
            ids, matrix = _parse(path, lines, number, head)
            number, done, longer = number + len(lines), done + len(ids), longer + sum(map(_ends_in_number, ids))
            if head.rows >= 0 and longer == done > 1:
                raise BadData(
                    f"{path}, line {number - len(lines)}: need a word and {head.dimension} numbers as the header says, "
                    f"found more in each line, such as {lines[0][:60]!r}; correct the header"
                )
            yield ids, matrix
    if head.rows not in (-1, done):
        raise BadData(f"{path}: has {done:,} rows, its header says {head.rows:,}; get the whole file")


def _parse(path: str, lines: list[bytes], number: int, head: Head) -> Rows:
    """Return the rows in some lines; the first is line ``number`` of the file."""
    ids: list[str] = []
    fields: list[bytes] = []
    for place, line in enumerate(lines, number):
        # From the right, since words may have spaces.
        name, *values = line.rsplit(None, head.dimension) or [b""]
        name = name.rstrip()
        if len(values) != head.dimension:
            says = " as the header says," if head.rows >= 0 else ""
            raise BadData(f"{path}, line {place}: need a word and {head.dimension} numbers,{says} found {line[:60]!r}")
        ids.append(_name(path, "line", place, name))
        if head.rows < 0 and _ends_in_number(ids[-1]):
            raise BadData(f"{path}, line {place}: more than {head.dimension} numbers after the word, in {line[:60]!r}")
        fields += values
    try:
        flat = _floats(fields)
    except pa.ArrowInvalid:
        bad = next(place for place, field in enumerate(fields) if not _is_number(field))
        line_number = number + bad // head.dimension
        raise BadData(f"{path}, line {line_number}: need a number, found {fields[bad][:60]!r}") from None
    return ids, _finite(path, "line", number - 1, flat.reshape(len(ids), head.dimension))


def _is_text(line: bytes) -> bool:
    """Tell whether bytes are text, whose end may be cut off, and not the floats of a binary file."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(line)
    except UnicodeDecodeError:
        return False
    return re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", line) is None


def _trailing_numbers(line: bytes) -> int:
    """Return how many numbers follow a line's first field, up to its end."""
    fields = line.split()[1:]
    try:
        _floats(fields)
    except pa.ArrowInvalid:
        return sum(1 for _ in takewhile(_is_number, reversed(fields)))
    return len(fields)


def _ends_in_number(name: str) -> bool:
    return " " in name and _is_number(name.rsplit(" ", 1)[1].encode())


def _is_number(field: bytes) -> bool:
    try:
        _floats([field])
    except pa.ArrowInvalid:
        return False
    return True


def _floats(fields: list[bytes]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = pc.cast(pa.array(fields, pa.binary()).cast(pa.string()), pa.float32()).to_numpy()
    return values


def _name(path: str, unit: str, number: int, name: bytes) -> str:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise BadData(f"{path}, {unit} {number}: the id {name[:60]!r} is not UTF-8; convert the file") from None
    if not text:
        raise BadData(f"{path}, {unit} {number}: the id is empty; the file is broken")
    return text


def _finite(path: str, unit: str, before: int, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise BadData(f"{path}, {unit} {before + 1 + finite.argmin()}: a value is not finite; the vectors are broken")
    return matrix
