"""Makes small pictures of a few ids in Spark tasks, for montages and maps."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa
from PIL import Image

from embedall_spark.errors import ConfigError
from embedall_spark.images import image_reader
from embedall_spark.images.decode import BadImage, decode
from embedall_spark.schemas import from_arrow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from pyspark.sql import DataFrame

    from embedall_spark.sources.image_limits import Limits

    Batches = Iterable[pa.RecordBatch]

MAX_IDS = 10_000
_RESULT = "id string, picture binary"


def thumbnails_by_id(
    pictures: DataFrame, ids: Collection[str], limits: Limits, edge: int = 96
) -> dict[str, Image.Image]:
    """Return small pictures of a few ids, mode RGB; ids whose picture is missing or cannot be used are left out.

    Args:
        pictures: IMAGES.
        ids: at most MAX_IDS; they and their small pictures come to the driver.
        limits: which pictures are too large to be decoded.
        edge: the longer side, in pixels; smaller pictures stay as they are.

    Raises:
        ConfigError: more than MAX_IDS ids.
    """
    if len(ids) > MAX_IDS:
        raise ConfigError(f"{len(ids):,} pictures to show, at most {MAX_IDS:,} are possible at once; show fewer")
    wanted = from_arrow(pictures.sparkSession, pa.table({"id": pa.array(sorted(set(ids)), pa.string())}))
    rows = pictures.where("problem IS NULL").join(wanted, "id", "left_semi").select("id", "content", "path")
    table = rows.mapInArrow(_shrinker(limits, edge), _RESULT).toArrow()
    return {
        name: Image.open(io.BytesIO(picture)).convert("RGB")
        for name, picture in zip(*(column.to_pylist() for column in table.columns), strict=True)
    }


def thumbnails_of_files(
    paths: Mapping[str, str], ids: Collection[str], limits: Limits, edge: int = 96
) -> dict[str, Image.Image]:
    """Return what thumbnails_by_id() does, of pictures by id in this machine's files, without Spark."""
    small = {name: _small(None, paths[name], limits, edge) for name in dict.fromkeys(ids) if name in paths}
    return {name: picture for name, picture in small.items() if picture is not None}


def _small(content: bytes | None, path: str, limits: Limits, edge: int) -> Image.Image | None:
    """Return a picture by its content or its file, at most so large; None if it cannot be used."""
    try:
        picture = decode(image_reader.read(path, limits.max_bytes) if content is None else content, limits)
    except (OSError, pa.ArrowException, BadImage):
        return None
    picture.thumbnail((edge, edge))
    return picture


def _shrinker(limits: Limits, edge: int) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    def shrink(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                picture = _small(row["content"], row["path"], limits, edge)
                if picture is None:
                    continue
                buffer = io.BytesIO()
                picture.save(buffer, format="PNG")
                yield pa.RecordBatch.from_arrays(
                    [pa.array([row["id"]]), pa.array([buffer.getvalue()], pa.binary())], ["id", "picture"]
                )

    return shrink
