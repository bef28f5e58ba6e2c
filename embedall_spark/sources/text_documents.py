"""DOCUMENTS of text files, made in the tasks that use them: the text does not cross to the JVM and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from embedall_spark import randomness
from embedall_spark.sources import file_lines, text_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from embedall_spark.sources.file_lines import Read
    from embedall_spark.sources.line_reader import Lines

    Batches = Iterable[pa.RecordBatch]

_DOCUMENTS = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("problem", pa.string()),
    ]
)


class TextDocuments:
    """What ``read`` yields for the parts of text files; has of a DataFrame what the first stage needs."""

    def __init__(self, spark: SparkSession, path: str, encoding: str, read: Read, whole: bool) -> None:
        """List the files; see file_lines.divide()."""
        self._table, self._parts_of = file_lines.divide(spark, path, encoding, whole)
        self._read = read

    @property
    def tasks(self) -> int:
        """How many tasks read the files."""
        return self._table.count()

    def mapInArrow(self, func: Callable[[Batches], Batches], schema: StructType) -> DataFrame:
        """Return what a function of batches of DOCUMENTS makes, as DataFrame.mapInArrow() does."""
        parts_of, read = self._parts_of, self._read

        def documents(batches: Batches) -> Iterator[pa.RecordBatch]:
            for part in parts_of(batches):
                origin = text_streams.origin(part.path)
                for lines in read(part):
                    yield _batch(lines, origin)

        def run(batches: Batches) -> Iterator[pa.RecordBatch]:
            rows = iter(batches)
            yield from func(documents(rows))
            # Where the function did not want all documents: Spark ends a Python worker that leaves rows unread.
            for _ in rows:
                pass

        return self._table.mapInArrow(run, schema)


def _batch(lines: Lines, origin: str) -> pa.RecordBatch:
    """Return lines as DOCUMENTS; the text of one with a problem is not for use, but its id is the text's."""
    size = len(lines.values)
    text = lines.values if lines.problem is None else pa.nulls(size, pa.string())
    columns = [
        pa.array(randomness.spark_hashes_of(lines.values)),
        text,
        pa.repeat(pa.scalar(origin), size),
        pa.repeat(pa.scalar(lines.problem, pa.string()), size),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_DOCUMENTS)
