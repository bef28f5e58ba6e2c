"""The bytes of word2vec's and GloVe's files: what they hold and where they are broken. No Spark."""

from __future__ import annotations

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
_LONGEST_ID = 1 << 16


class Head(NamedTuple):
    """What the beginning of a file tells: ``rows`` is -1 where there is no header line."""

    binary: bool
    rows: int
    numbers: int


def head(path: str, layout: str) -> Head:
    """Return what the beginning of a file tells.

    Raises:
        BadData: it is the beginning of no format that is known.
        OSError: the file cannot be read.
    """
    filesystem, inside = files.resolve(path)
    with filesystem.open_input_stream(inside) as stream:
        start = bytes(stream.read(_HEAD))
    first, _, rest = start.partition(b"\n")
    header = first.split()
    if len(header) == 2 and all(field.isdigit() for field in header) and int(header[1]) > 0:
        rows, numbers = map(int, header)
        if not rows:
            raise BadData(f"{path}: holds no vectors, by its header; need one at least")
        if layout == "auto":
            layout = "text" if _is_text(rest.partition(b"\n")[0], numbers) else "binary"
        return Head(layout == "binary", rows, numbers)
    if layout == "binary":
        raise BadData(f"{path}, line 1: need 'ROWS NUMBERS', found {first[:60]!r}; this is no word2vec binary file")
    numbers = len(first.split()) - 1
    if not _is_text(first, numbers):
        raise BadData(f"{path}, line 1: need 'ROWS NUMBERS', or a word and its numbers, found {first[:60]!r}")
    return Head(False, -1, numbers)


def read(path: str, head: Head) -> Iterator[Rows]:
    """Yield the rows of a file in their order as (ids, float32 [n, numbers]), a few MiB at a time.

    Raises:
        BadData: a row is malformed, or there are more or fewer than the header says; names the row or line.
    """
    filesystem, inside = files.resolve(path)
    with filesystem.open_input_stream(inside) as stream:
        chunks = iter(lambda: bytes(stream.read(_CHUNK)), b"")
        yield from _binary(path, chunks, head) if head.binary else _text(path, chunks, head)


def _binary(path: str, chunks: Iterator[bytes], head: Head) -> Iterator[Rows]:
    size = 4 * head.numbers
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
        if len(rest) > _LONGEST_ID and b" " not in rest[:_LONGEST_ID]:
            raise BadData(
                f"{path}, row {done + 1}: no space after the id within {_LONGEST_ID:,} bytes; the file is broken"
            )
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
    number, done, rest = 1 + skip, 0, b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if skip and lines:
            del lines[0]
            skip = False
        if lines:
            yield (rows := _parse(path, lines, number, head.numbers))
            number += len(lines)
            done += len(rows[0])
    if rest.strip() and not skip:
        yield (rows := _parse(path, [rest], number, head.numbers))
        done += len(rows[0])
    if head.rows not in (-1, done):
        raise BadData(f"{path}: has {done:,} rows, its header says {head.rows:,}; get the whole file")


def _parse(path: str, lines: list[bytes], number: int, numbers: int) -> Rows:
    """Return the rows in some lines, the first of which is line ``number`` of the file."""
    ids: list[str] = []
    fields: list[bytes] = []
    for at, line in enumerate(lines, number):
        # Only the numbers are counted: some of GloVe's words have spaces.
        name, *values = line.rstrip().rsplit(b" ", numbers)
        if len(values) != numbers:
            raise BadData(f"{path}, line {at}: need a word and {numbers} numbers, found {line[:60]!r}")
        name = name.rstrip()
        if b" " in name and _float(name.rsplit(b" ", 1)[1]):
            raise BadData(f"{path}, line {at}: more than {numbers} numbers after the word, in {line[:60]!r}")
        ids.append(_name(path, "line", at, name))
        fields += values
    try:
        flat = _floats(fields)
    except pa.ArrowInvalid:
        bad = next(place for place, field in enumerate(fields) if not _float(field))
        at = number + bad // numbers
        raise BadData(f"{path}, line {at}: need a number, found {fields[bad][:60]!r}") from None
    return ids, _finite(path, "line", number - 1, flat.reshape(len(ids), numbers))


def _is_text(line: bytes, numbers: int) -> bool:
    """Tell whether a line is a word and so many numbers."""
    fields = line.rstrip().rsplit(b" ", numbers) if numbers > 0 else []
    return len(fields) > 1 and len(fields) == numbers + 1 and all(map(_float, fields[1:]))


def _float(field: bytes) -> bool:
    try:
        _floats([field])
    except pa.ArrowInvalid:
        return False
    return True


def _floats(fields: list[bytes]) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = pc.cast(pa.array(fields, pa.binary()).cast(pa.string()), pa.float32()).to_numpy()
    return numbers


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
        raise BadData(f"{path}, {unit} {before + 1 + finite.argmin()}: a number is not finite; the vectors are broken")
    return matrix
