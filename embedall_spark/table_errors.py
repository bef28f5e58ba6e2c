"""What the errors of Delta and Spark mean for a table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pyspark.errors import AnalysisException

from embedall_spark.errors import BadData, TableError

if TYPE_CHECKING:
    from embedall_spark.errors import EmbedallError

CONFLICTS = re.compile(r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED|Concurrent\w*Exception")


def explain(name: str, error: Exception, vector_size: int | None) -> EmbedallError | None:
    """Return the error that explains a failed commit; None if the cause is not the table."""
    text = str(error)
    violated = re.search(r"CHECK constraint (\w+) ", text)
    if violated and violated.group(1) == "required":
        return BadData(f"{name}: a required column is null in some row; nothing was written")
    if violated:
        return BadData(
            f"{name}: some row's {violated.group(1)} is not {vector_size} finite values; nothing was written"
        )
    if "ALREADY_EXISTS" in text or "NonEmptyDir" in text:
        return TableError(f"{name}: another writer created the table in the meantime; nothing was written")
    if CONFLICTS.search(text):
        return TableError(f"{name}: another writer changed the table in the meantime; nothing was written, run again")
    if isinstance(error, AnalysisException) or "DELTA_NOT_A_DELTA_TABLE" in text:
        return TableError(f"{name}: {first_line(error)}")
    return None


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return str(error).strip().splitlines()[0]
