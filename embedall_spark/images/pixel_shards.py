"""Labelled pictures as bytes of pixels: decoded once by Spark's tasks, then mapped by whoever trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from embedall_spark import files, host_cache
from embedall_spark.images import decode

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


class Pictures(NamedTuple):
    """The pictures of a training, mapped from this host's disk."""

    pixels: NDArray[np.uint8]
    """[n, channels * side * side]"""
    labels: NDArray[np.int32]
    """Place in the list of classes, [n]."""
    training: NDArray[np.int64]
    """Which rows to learn from, in an order that only their ids give."""
    held_out: NDArray[np.int64]
    """The other rows, likewise."""


def drawer(classes: Mapping[str, int], side: int, grey: bool, limits: Limits) -> Callable[[Batches], Batches]:
    """Build the task's function: from key, held_out, label, content, path, origin and problem to SCHEMA.

    A picture that cannot be used keeps its place with a problem and no pixels.
    """
    step = max(1, _BATCH_BYTES // ((1 if grey else 3) * side * side))

    def draw(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                problems = part["problem"].to_pylist()
                drawn: list[bytes | None] = [None] * part.num_rows
                for row, problem in enumerate(problems):
                    if problem is None:
                        drawn[row], problems[row] = _draw(part, row, side, grey, limits)
                labels = [classes.get(label) for label in part["label"].to_pylist()]
                columns = [part["key"], pa.array(labels, pa.int32()), part["held_out"], pa.array(drawn, pa.binary())]
                columns += [part["origin"], pa.array(problems, pa.string())]
                yield pa.RecordBatch.from_arrays(columns, ["key", "label", "held_out", "pixels", "origin", "problem"])

    return draw


def opened(folder: str, channels: int, side: int) -> Pictures:
    """Return the pictures in a stage's folder (path or URI), copied to this host's disk once."""
    copy, _ = host_cache.make("pictures", folder, _write)
    keys = host_cache.mapped(copy / "keys", np.int64)
    order = np.argsort(keys, kind="stable")
    held_out = host_cache.mapped(copy / "held_out", np.uint8)[order].astype(bool)
    return Pictures(
        host_cache.mapped(copy / "pixels", np.uint8).reshape(len(keys), channels * side * side),
        host_cache.mapped(copy / "labels", np.int32),
        order[~held_out],
        order[held_out],
    )


def pixels(picture: Image.Image, side: int, grey: bool) -> NDArray[np.uint8]:
    """Return the middle of a picture, its shorter side ``side`` pixels, uint8 [1 if grey else 3, side, side]."""
    picture = picture.convert("L" if grey else "RGB")
    width, height = picture.size
    if min(width, height) != side or width != height:
        # The same square for every size, whichever way its middle is rounded.
        edge = min(width, height)
        left, top = (width - edge) / 2, (height - edge) / 2
        picture = picture.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + edge, top + edge))
    return np.array(np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1), order="C")


def _draw(part: pa.RecordBatch, row: int, side: int, grey: bool, limits: Limits) -> tuple[bytes | None, str | None]:
    """Return a picture's pixels, or why there are none."""
    content, path = part["content"][row].as_py(), part["path"][row].as_py()
    try:
        if content is None:
            filesystem, inside = files.resolve(path)
            with filesystem.open_input_stream(inside) as stream:
                # One byte more than allowed tells that it is too long.
                content = stream.read(limits.max_bytes + 1)
        return pixels(decode.decode(content, limits), side, grey).tobytes(), None
    except (OSError, decode.BadImage) as error:
        return None, f"{str(error).replace(': ', ', ')}: {path or part['origin'][row].as_py()}"


def _write(filesystem: pafs.FileSystem, parts: list[str], folder: Path) -> None:
    names = ("pixels", "labels", "keys", "held_out")
    pixels, labels, keys, held_out = (folder.joinpath(name).open("wb") for name in names)
    with pixels, labels, keys, held_out:
        for part in parts:
            with filesystem.open_input_file(part) as source:
                for batch in pq.ParquetFile(source).iter_batches(_ROWS):
                    good = batch.filter(batch["problem"].is_null())
                    for value in good["pixels"]:
                        pixels.write(value.as_buffer())
                    labels.write(good["label"].to_numpy(zero_copy_only=False).astype(np.int32).tobytes())
                    keys.write(good["key"].to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
                    held_out.write(good["held_out"].to_numpy(zero_copy_only=False).astype(np.uint8).tobytes())
