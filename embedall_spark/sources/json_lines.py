"""JSON Lines: a JSON object in each line; a line that is none says why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.errors import BadData, SchemaMismatch
from embedall_spark.sources import file_lines, ids
from embedall_spark.sources.expressions import EXCERPT, problem

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pyspark.sql import Column, DataFrame, SparkSession

MAX_BYTES = (1 << 24) - 1024
"""Of a line: it is parsed to a variant, which holds no more."""
_SAMPLE = 1000
_HEAD = 4 << 20


def read(
    spark: SparkSession, path: str, columns: Mapping[str, str], encoding: str, max_bytes: int, option: str
) -> DataFrame:
    """Return the objects of JSON Lines, lazily: row (variant), value, origin, problem; blank lines are left out.

    Args:
        spark: the session.
        path: file, folder or glob.
        columns: the key of each option, to look for in the first lines.
        encoding: of files without a byte order mark.
        max_bytes: of a line; a longer one has a problem.
        option: what allows for longer lines, for the problem to name.

    Raises:
        BadData: there is no file with content, or none of the first lines is JSON.
        SchemaMismatch: none of the first lines has one of the keys.
    """
    _check_keys(path, columns, encoding)
    lines = file_lines.read(spark, path, encoding, min(max_bytes, MAX_BYTES), option).where(F.trim("value") != "")
    # The parser would replace broken bytes in silence.
    valid = F.is_valid_utf8("value")
    rows = lines.withColumn("row", F.when(F.col("problem").isNull() & valid, F.try_parse_json("value")))
    record, keys = F.make_valid_utf8("value"), F.json_object_keys("value")
    # The parser refuses an object with a key twice as it refuses what is no JSON.
    repeated = F.col("row").isNull() & (F.size(F.array_distinct(keys)) < F.size(keys))
    reason = F.coalesce(
        F.concat("problem", F.lit(": "), F.left(record, F.lit(EXCERPT))),
        F.when(~valid, problem("broken UTF-8", record)),
        F.when(repeated, problem("a key is there twice in the object", record)),
        F.when(F.col("row").isNull(), problem("not JSON", record)),
        F.when(~F.schema_of_variant("row").startswith("OBJECT"), problem("not a JSON object", record)),
    )
    return rows.select("row", "value", "origin", reason.alias("problem"))


def kind_of(key: str) -> Column:
    """Return the type of a key's value, as schema_of_variant() writes it."""
    return F.schema_of_variant(F.variant_get("row", _path(key), "variant"))


def text_of(key: str) -> Column:
    """Return a key's value as text; numbers as ids.as_text() writes them."""
    number = ids.as_text(F.variant_get("row", _path(key), "double"), T.DoubleType())
    return F.when(kind_of(key) == "DOUBLE", number).otherwise(F.variant_get("row", _path(key), "string"))


def is_inexact(key: str) -> Column:
    """Return whether a key's value is a number whose last digits are lost; see ids.is_inexact()."""
    number = F.variant_get("row", _path(key), "double")
    return F.when(kind_of(key) == "DOUBLE", ids.is_inexact(number, T.DoubleType())).otherwise(F.lit(False))


def _path(key: str) -> str:
    quote = "'" if '"' in key else '"'
    return f"$[{quote}{key}{quote}]"


def _check_keys(path: str, columns: Mapping[str, str], encoding: str) -> None:
    """Look at the first lines, so that a wrong key is found before long work."""
    lines, whole = _first_lines(path, encoding)
    objects: list[Collection[str]] = []
    parsed = 0
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        parsed += 1
        objects += [value] if isinstance(value, dict) else []
    if not lines or (len(lines) < _SAMPLE and not whole):
        return
    if not parsed:
        raise BadData(f"{path}: none of the first {len(lines)} lines is JSON; need one JSON object per line")
    for option, key in columns.items():
        if not any(key in keys for keys in objects):
            names = ", ".join(objects[0]) if objects else "none"
            raise SchemaMismatch(
                f"{path}: none of the first {len(lines)} lines has a key {key!r} (keys found: {names}); set {option}"
            )


def _first_lines(path: str, encoding: str) -> tuple[list[str], bool]:
    """Return the first lines that are not blank, and whether there are no others."""
    lines: list[str] = []
    whole = True
    for _, head in file_lines.heads(path, encoding, _HEAD):
        complete = len(head) < _HEAD
        text = head if complete else head[: head.rfind(b"\n") + 1]
        lines += [line.decode("utf-8", "replace") for line in text.splitlines() if line.strip()]
        whole = whole and complete
        if len(lines) >= _SAMPLE:
            break
    return lines[:_SAMPLE], whole
