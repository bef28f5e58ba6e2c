"""The idx files of MNIST and its kin, plain or gzipped, as IMAGES of PNG; tasks stream the files."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from embedall_spark import files
from embedall_spark.errors import BadData
from embedall_spark.schemas import IMAGES, conform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame, SparkSession

    Batches = Iterable[pa.RecordBatch]
    Stream = BinaryIO | io.BufferedIOBase

Part = Literal["all", "train", "test"]

_NAMES = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}
_IMAGES, _LABELS = 0x803, 0x801
_PICTURES_PER_TASK = 10_000
_MAX_PIXELS = 1 << 20
_CHUNK = 1 << 20
_BROKEN = (OSError, EOFError, zlib.error)
_ROWS = pa.schema([("id", pa.string()), ("content", pa.binary()), ("label", pa.string()), ("origin", pa.string())])
_CHECKED = pa.schema([("problem", pa.string())])


class Piece(NamedTuple):
    """Pictures start to stop of a part, all of one shape."""

    part: str
    images: str
    labels: str
    start: int
    stop: int
    rows: int
    columns: int


def read(spark: SparkSession, folder: str, part: Part = "all") -> DataFrame:
    """Return IMAGES, lazily: each picture as a PNG of 8 bits of grey, its digit as label.

    Ids are ``train/00000`` and so on, and ``t10k/00000`` for the test pictures, in the files' order. The files (LeCun
    et al. 1998; http://yann.lecun.com/exdb/mnist) are checked to their end by tasks here, and read again when the
    pictures are used: 10,000 of them by a task, with memory for about one MiB of them at a time.

    Args:
        spark: the session.
        folder: path or URI of the folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same
            for ``t10k``, all with or without ``.gz``.
        part: which of them.

    Raises:
        BadData: a file is not there, is no idx file of its kind, is cut short or too long, or pictures and labels are
            not equally many; names it.
    """
    pieces = [piece for name in _NAMES[part] for piece in _pieces(_absolute(folder), name)]
    whole = list({piece.part: piece for piece in pieces}.values())
    each = spark.range(0, len(whole), 1, len(whole))
    checked = each.mapInArrow(_checker(whole), from_arrow_schema(_CHECKED)).agg(F.min("problem")).first()
    if checked is not None and checked[0]:
        raise BadData(checked[0])
    each = spark.range(0, len(pieces), 1, len(pieces))
    return conform(each.mapInArrow(_reader(pieces), from_arrow_schema(_ROWS)), IMAGES)


def _absolute(folder: str) -> str:
    return os.path.abspath(folder) if files.is_local(folder) and not folder.startswith("file:") else folder.rstrip("/")


def _pieces(folder: str, part: str) -> list[Piece]:
    images, labels = _find(folder, f"{part}-images-idx3-ubyte"), _find(folder, f"{part}-labels-idx1-ubyte")
    count, rows, columns = _head(images, _IMAGES, 3)
    (label_count,) = _head(labels, _LABELS, 1)
    if count != label_count:
        raise BadData(f"{images} has {count} pictures, {labels} has {label_count} labels; need the same number")
    if not 0 < rows * columns <= _MAX_PIXELS:
        raise BadData(f"{images}: pictures of {rows} x {columns} pixels, need 1 to {_MAX_PIXELS} pixels")
    starts = range(0, count, _PICTURES_PER_TASK)
    ends = [min(start + _PICTURES_PER_TASK, count) for start in starts]
    return [Piece(part, images, labels, start, end, rows, columns) for start, end in zip(starts, ends, strict=True)]


def _find(folder: str, name: str) -> str:
    for path in (f"{folder}/{name}", f"{folder}/{name}.gz"):
        if files.exists(path):
            return path
    raise BadData(f"{folder}: has neither {name} nor {name}.gz; give the folder of the idx files, or another part")


def _head(path: str, magic: int, dimensions: int) -> tuple[int, ...]:
    """Return the lengths of the dimensions that the beginning of a file tells."""
    size = 4 * (1 + dimensions)
    try:
        with _open(path) as stream:
            head = stream.read(size)
    except _BROKEN as error:
        raise BadData(f"{path}: cannot be read ({error}); get the file again") from None
    actual = struct.unpack_from(">I", head)[0] if len(head) >= 4 else None
    if actual != magic or len(head) < size:
        raise BadData(
            f"{path}: need an idx file of bytes in {dimensions} dimensions (magic number {magic}), found magic number "
            f"{actual} in {len(head)} bytes; get the file again"
        )
    lengths = struct.unpack(f">{dimensions}I", head[4:])
    if not lengths[0]:
        raise BadData(f"{path}: holds nothing, by its header; need one picture at least")
    return lengths


@contextmanager
def _open(path: str) -> Iterator[Stream]:
    filesystem, inside = files.resolve(path)
    # Unpacked by Python, not by Arrow, so that the error of a broken archive is always one of _BROKEN.
    with filesystem.open_input_stream(inside, compression=None) as stream:
        if path.endswith(".gz"):
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield unpacked
        else:
            yield stream


def _checker(whole: list[Piece]) -> Callable[[Batches], Batches]:
    """Build the task's function that reads files to their end and returns what is wrong with them."""

    def check(batches: Batches) -> Batches:
        for number in (number for batch in batches for number in batch.column(0).to_pylist()):
            piece = whole[number]
            sizes = {piece.images: 16 + piece.stop * piece.rows * piece.columns, piece.labels: 8 + piece.stop}
            problems = [_problem(path, size) for path, size in sizes.items()]
            # An exception would reach the driver as Spark's own, with a stack of the task before the text.
            yield pa.RecordBatch.from_pydict({"problem": [text for text in problems if text][:1]}, _CHECKED)

    return check


def _problem(path: str, size: int) -> str | None:
    size_read = 0
    try:
        with _open(path) as stream:
            while chunk := stream.read(_CHUNK):
                size_read += len(chunk)
    except _BROKEN as error:
        return f"{path}: ends after {size_read} bytes ({error}), its header says {size}; get the whole file"
    return None if size_read == size else f"{path}: has {size_read} bytes, its header says {size}; get the whole file"


def _reader(pieces: list[Piece]) -> Callable[[Batches], Batches]:
    def encode(batches: Batches) -> Batches:
        for piece in (pieces[number] for batch in batches for number in batch.column(0).to_pylist()):
            pixels = piece.rows * piece.columns
            step = max(1, _CHUNK // pixels)
            with _open(piece.images) as images, _open(piece.labels) as labels:
                _skip(images, 16 + piece.start * pixels)
                _skip(labels, 8 + piece.start)
                for start in range(piece.start, piece.stop, step):
                    stop = min(start + step, piece.stop)
                    yield _batch(piece, start, images.read((stop - start) * pixels), labels.read(stop - start))

    return encode


def _skip(stream: Stream, size: int) -> None:
    while size and (chunk := stream.read(min(size, _CHUNK))):
        size -= len(chunk)


def _batch(piece: Piece, start: int, pixels: bytes, labels: bytes) -> pa.RecordBatch:
    pictures = np.frombuffer(pixels, np.uint8).reshape(len(labels), piece.rows, piece.columns)
    columns = {
        "id": [f"{piece.part}/{start + i:05d}" for i in range(len(labels))],
        "content": [_png(picture) for picture in pictures],
        "label": [str(label) for label in labels],
        "origin": [piece.images] * len(labels),
    }
    return pa.RecordBatch.from_pydict(columns, _ROWS)


def _png(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
