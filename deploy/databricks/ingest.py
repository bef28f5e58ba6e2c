"""Append files that have come since the last call to Delta tables: TABLE=FILES..., such as main.nlp.texts=/in/*.json.

A file is read once, by its path, so a retry adds nothing twice; each table changes in one commit. Every column is text,
and a row's column ``source_file`` names its file. Formats: .json (JSON Lines), .csv with a header, .parquet.
"""

from __future__ import annotations

import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark import session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

READERS: dict[str, tuple[str, dict[str, str]]] = {
    ".json": ("json", {"primitivesAsString": "true"}),
    ".csv": ("csv", {"header": "true", "multiLine": "true", "escape": '"'}),
    ".parquet": ("parquet", {}),
}


def ingest(spark: SparkSession, table: str, files: str) -> bool:
    """Append the rows of new files to a table, which is made if it does not exist; return whether there were any."""
    suffix = PurePosixPath(files).suffix
    if suffix not in READERS:
        raise ValueError(f"{files}: the name ends in {suffix!r}, need one of {', '.join(READERS)}")
    name, options = READERS[suffix]
    rows = spark.read.format(name).options(**options).load(files)
    rows = rows.select("*", F.col("_metadata.file_path").alias("source_file"))
    if spark.catalog.tableExists(table):
        rows = rows.join(spark.table(table).select("source_file").distinct(), "source_file", "left_anti")
    if rows.isEmpty():
        return False
    rows.write.format("delta").mode("append").option("mergeSchema", "true").saveAsTable(table)
    return True


def main(arguments: list[str]) -> None:
    """Ingest TABLE=FILES for each argument."""
    spark = session.get("embedall ingest")
    for argument in arguments:
        table, separator, files = argument.partition("=")
        if not separator:
            raise ValueError(f"found {argument!r}, need TABLE=FILES")
        print(f"{table}: {'new rows' if ingest(spark, table, files) else 'nothing new'} from {files}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
