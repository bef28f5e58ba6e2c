"""Small pictures of a few ids, made by the tasks, for montages and maps."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa
from PIL import Image

from embedall_spark import files
from embedall_spark.errors import ConfigError
from embedall_spark.images.decode import BadImage, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from pyspark.sql import DataFrame

    from embedall_spark.sources.image_limits import Limits

    Batches = Iterable[pa.RecordBatch]

MAX_IDS = 10_000
_MADE = "id string, picture binary"


def thumbnails_by_id(
    pictures: DataFrame, ids: Collection[str], limits: Limits, edge: int = 96
) -> dict[str, Image.Image]:
    """Return pictures of at most ``edge`` pixels a side of those of a few ids that can be had, mode RGB.

    Args:
        pictures: IMAGES.
        ids: which ones; they and their small pictures come to the driver.
        limits: of what is decoded.
        edge: the longer side, in pixels; smaller pictures stay as they are.

    Raises:
        ConfigError: more than MAX_IDS ids.
    """
    if len(ids) > MAX_IDS:
        raise ConfigError(f"{len(ids):,} pictures asked for, at most {MAX_IDS:,} are shown at once; ask for fewer")
    names = pictures.sparkSession.createDataFrame(pa.table({"id": pa.array(sorted(set(ids)), pa.string())}))
    found = pictures.where("problem IS NULL").join(names, "id", "left_semi").select("id", "content", "path")
    table = found.mapInArrow(_maker(limits, edge), _MADE).toArrow()
    return {
        name: Image.open(io.BytesIO(picture)).convert("RGB")
        for name, picture in zip(*(column.to_pylist() for column in table.columns), strict=True)
    }


def _maker(limits: Limits, edge: int) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    def make(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                try:
                    held = row["content"]
                    picture = decode(files.read_bytes(row["path"]) if held is None else held, limits)
                except (OSError, BadImage):
                    continue
                picture.thumbnail((edge, edge))
                content = io.BytesIO()
                picture.save(content, format="PNG")
                yield pa.RecordBatch.from_arrays(
                    [pa.array([row["id"]]), pa.array([content.getvalue()], pa.binary())], ["id", "picture"]
                )

    return make
