"""The pictures below a folder or glob, listed by a task and not opened: ids, paths and problems."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from embedall_spark.errors import BadData
from embedall_spark.sources import image_paths, input_files, text_streams
from embedall_spark.sources.input_files import InputFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.sources.image_config import ImagesConfig

    Batches = Iterable[pa.RecordBatch]

_ROWS = pa.schema(
    [pa.field(name, pa.string()) for name in ("id", "below", "path", "origin")] + [pa.field("size", pa.int64())]
)
_ROWS_PER_BATCH = 1000


def read(spark: SparkSession, config: ImagesConfig) -> DataFrame:
    """Return id, path, origin and problem of each picture, lazily; ids may be shared where they are names.

    Ids are paths below the folder itself, the folder of a single file, or a glob's last folder before its first
    wildcard; see input_files.walk() for what is read. Names come from one task, which walks over them.

    Raises:
        BadData: there is nothing at the path, or no picture.
    """
    if not any(file.size for file in _pictures(config)):
        endings = ", .".join(suffix.lstrip(".") for suffix in config.suffixes)
        raise BadData(f"{config.path}: no file of more than 0 bytes ends in .{endings}; correct path or suffixes")
    rows = spark.range(0, 1, 1, 1).mapInArrow(_lister(config), from_arrow_schema(_ROWS))
    problem = image_paths.size_problem(F.col("size"), config.limits.max_bytes, F.col("below"))
    return rows.select("id", F.when(problem.isNull(), F.col("path")).alias("path"), "origin", problem.alias("problem"))


def _pictures(config: ImagesConfig) -> Iterator[InputFile]:
    entries = input_files.walk(config.path, input_files.ending_in(config.suffixes))
    return (entry for entry in entries if isinstance(entry, InputFile))


def paths_by_id(config: ImagesConfig) -> dict[str, str]:
    """Return the paths of the pictures on this machine by id, without Spark; of a shared id the last."""
    row_of, config = _row_of(config), config.model_copy(update={"path": input_files.absolute(config.path)})
    return {row[0]: row[2] for row in map(row_of, _pictures(config))}


def _row_of(config: ImagesConfig) -> Callable[[InputFile], tuple[str, str, str, str, int]]:
    """Build what returns the values of _ROWS of a file."""
    config = config.model_copy(update={"path": input_files.absolute(config.path)})
    path = config.path.rstrip("/")
    root = input_files.folder_of(path)

    def row_of(file: InputFile) -> tuple[str, str, str, str, int]:
        # A file that is the whole input lies in its folder.
        below = file.path.removeprefix(root).lstrip("/") or path.rpartition("/")[2]
        name = below.rpartition("/")[2].rpartition(".")[0]
        place = image_paths.encoded(file.path)
        return name if config.id == "name" else below, below, place, text_streams.origin(place), file.size

    return row_of


def _lister(config: ImagesConfig) -> Callable[[Batches], Batches]:
    row_of, config = _row_of(config), config.model_copy(update={"path": input_files.absolute(config.path)})

    def rows(batches: Batches) -> Batches:
        for _ in batches:
            pictures = map(row_of, _pictures(config))
            while values := list(islice(pictures, _ROWS_PER_BATCH)):
                columns = zip(*values, strict=True)
                yield pa.RecordBatch.from_arrays(
                    [pa.array(column, field.type) for column, field in zip(columns, _ROWS, strict=True)], schema=_ROWS
                )

    return rows
