"""Stores labeled pictures as pixels: decoded once by Spark tasks, then memory-mapped by the processes that train."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from embedall_spark import host_cache, vectors
from embedall_spark.images import image_reader
from embedall_spark.images.decode import BadImage, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import pyarrow.fs as pafs
    from numpy.typing import NDArray

    from embedall_spark.sources.image_limits import Limits

    Batches = Iterable[pa.RecordBatch]

SCHEMA = "key long, label int, held_out boolean, pixels binary, origin string, problem string"
_BATCH_BYTES = 16 << 20
_ROWS = 1024


class PixelData(NamedTuple):
    """The labeled pictures of a training, memory-mapped from this host's disk."""

    pixels: NDArray[np.uint8]
    """[n, channels * side * side]"""
    labels: NDArray[np.int32]
    """Index into the list of classes, [n]."""
    training: NDArray[np.int64]
    """Rows to train on, in an order that depends on nothing but their ids."""
    held_out: NDArray[np.int64]
    """Rows to measure on, in such an order too."""


def converter(classes: Mapping[str, int], side: int, grey: bool, limits: Limits) -> Callable[[Batches], Batches]:
    """Build the task's function: from key, held_out, label, content, path, origin and problem to SCHEMA.

    A picture that cannot be used remains as a row with a problem and without pixels.
    """
    step = max(1, _BATCH_BYTES // ((1 if grey else 3) * side * side))

    def convert(batches: Batches) -> Iterator[pa.RecordBatch]:
        for part in vectors.slices(batches, step):
            problems = part["problem"].to_pylist()
            contents: list[bytes | None] = [None] * part.num_rows
            for row, problem in enumerate(problems):
                if problem is None:
                    contents[row], problems[row] = _pixels_of(part, row, side, grey, limits)
            labels = [classes.get(label) for label in part["label"].to_pylist()]
            columns = [part["key"], pa.array(labels, pa.int32()), part["held_out"], pa.array(contents, pa.binary())]
            columns += [part["origin"], pa.array(problems, pa.string())]
            yield pa.RecordBatch.from_arrays(columns, ["key", "label", "held_out", "pixels", "origin", "problem"])

    return convert


def load(folder: str, channels: int, side: int) -> PixelData:
    """Return the pictures in a stage's folder (path or URI), which is copied to this host's disk once."""
    copy, _ = host_cache.make("pictures", folder, _copy)
    keys = host_cache.mapped(copy / "keys", np.int64)
    order = np.argsort(keys, kind="stable")
    held_out = host_cache.mapped(copy / "held_out", np.uint8)[order].astype(bool)
    return PixelData(
        host_cache.mapped(copy / "pixels", np.uint8).reshape(len(keys), channels * side * side),
        host_cache.mapped(copy / "labels", np.int32),
        order[~held_out],
        order[held_out],
    )


def pixels(picture: Image.Image, side: int, grey: bool) -> NDArray[np.uint8]:
    """Return the center square of a picture at ``side`` pixels, uint8 [1 if grey else 3, side, side]."""
    picture = picture.convert("L" if grey else "RGB")
    width, height = picture.size
    if min(width, height) != side or width != height:
        # A box in fractions of a pixel, so that the center is the same at every size.
        edge = min(width, height)
        left, top = (width - edge) / 2, (height - edge) / 2
        picture = picture.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + edge, top + edge))
    return np.array(np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1), order="C")


def _pixels_of(
    part: pa.RecordBatch, row: int, side: int, grey: bool, limits: Limits
) -> tuple[bytes | None, str | None]:
    """Return a picture's pixels, or why there are none."""
    content, path = part["content"][row].as_py(), part["path"][row].as_py()
    try:
        content = image_reader.read(path, limits.max_bytes) if content is None else content
        return pixels(decode(content, limits), side, grey).tobytes(), None
    except (OSError, pa.ArrowException, BadImage) as error:
        return None, f"{str(error).replace(': ', ', ')}: {path or part['origin'][row].as_py()}"


def _copy(filesystem: pafs.FileSystem, parts: list[str], folder: Path) -> None:
    """Write the usable rows of parquet files as one flat file per column."""
    names = ("pixels", "labels", "keys", "held_out")
    pixels, labels, keys, held_out = (folder.joinpath(name).open("wb") for name in names)
    with pixels, labels, keys, held_out:
        for part in parts:
            with filesystem.open_input_file(part) as source:
                for batch in pq.ParquetFile(source).iter_batches(_ROWS):
                    usable = batch.filter(batch["problem"].is_null())
                    for value in usable["pixels"]:
                        pixels.write(value.as_buffer())
                    labels.write(usable["label"].to_numpy(zero_copy_only=False).astype(np.int32).tobytes())
                    keys.write(usable["key"].to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
                    held_out.write(usable["held_out"].to_numpy(zero_copy_only=False).astype(np.uint8).tobytes())
