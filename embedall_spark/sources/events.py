"""Tables and files of events to EVENTS; an event that cannot be used says why."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.config import MOVABLE, InputPath, Section
from embedall_spark.errors import SchemaMismatch
from embedall_spark.schemas import EVENTS, conform
from embedall_spark.sources import csv_files, input_version, python_calls, tabular, text_streams
from embedall_spark.sources.expressions import problem
from embedall_spark.sources.text_streams import Encoding

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from embedall_spark.sources.input_version import Storage

log = logging.getLogger(__name__)

MAX_WEIGHT = 100
# A story in memory is at most so many bytes times its longest length.
MAX_BYTES = 4096
_ORDER = EVENTS["order"].dataType
_COLUMNS = ("key", "item", "order", "weight")
_DAY = 86_400
_TIME = "such as 2024-02-29 12:00:00"
# From 1973 on, and between these two what neither would be before the year 2286.
_UNITS = {"seconds": (10**8, 10**10 - 1), "milliseconds": (10**11, 10**13), "neither": (10**10, 10**11 - 1)}
# Text that is only a time of day would be read as today's.
_DATED = r"^\s*[+-]?\d{4,6}-"


class EventsConfig(Section):
    """Where events come from."""

    path: InputPath = Field(description=csv_files.PATH)
    format: Literal["delta", "parquet", "csv", "json", "calls"] = Field(
        "delta",
        description="delta: a path or a table; parquet; csv; json: JSON Lines; calls: the calls "
        "inside each function of every .py file below the folder",
    )
    key: str = Field("key", description="the column that says whose story an event belongs to: user, session, basket")
    item: str = Field("item", description="the column that says what happened")
    order: str | None = Field(
        None,
        description="the column of an event's place in the story, a number or a time; unset: a basket, and where "
        "train.window is not given, windows are as wide as it",
    )
    weight: str | None = Field(
        None,
        description=f"the column that says how many times an event counts, at most {MAX_WEIGHT}: a fraction counts "
        "once more by chance, 0 leaves the event out; unset: once",
    )
    encoding: Encoding = Field("utf-8", description=text_streams.ENCODING)
    separator: str = Field(",", min_length=1, max_length=1, description=csv_files.SEPARATOR)
    header: bool = Field(True, description=csv_files.HEADER)
    multiline: bool = Field(False, description=csv_files.MULTILINE)
    incremental: bool = Field(False, description=input_version.INCREMENTAL, json_schema_extra=MOVABLE)

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        columns = self.model_fields_set & {"key", "item", "order", "weight"}
        if self.format == "calls" and columns:
            raise ValueError(f"format calls has no columns; remove {', '.join(sorted(columns))}")
        csv_files.check_multiline(self.multiline, self.format)
        input_version.check_incremental(self.incremental, self.format)
        return self

    @property
    def ordered(self) -> bool:
        """Whether the order of a story means something."""
        return self.order is not None or self.format == "calls"

    @property
    def storage(self) -> Storage:
        """How the input is stored."""
        return input_version.storage_of(self.path, self.format)


def read(spark: SparkSession, config: EventsConfig) -> DataFrame:
    """Return EVENTS, lazily, one row per event or unreadable record.

    Keys and items become text. Orders become decimals: numbers as they are, rounded to 6 places, times as seconds since
    1970, those without a zone as of UTC where their type says so and else as the session has it; text is a number if it
    reads as one. A problem's text after its first ": " is the beginning of the record.

    Raises:
        BadData: there is nothing at the path, or nothing in it, or it is of another format.
        SchemaMismatch: a column is missing or is not of a type that can be used.
    """
    if config.format == "calls":
        return python_calls.read(spark, config.path)
    columns = {f"input.{name}": getattr(config, name) for name in ("key", "item", "order", "weight")}
    columns = {option: name for option, name in columns.items() if name is not None}
    rows = tabular.read(
        spark, config.path, config.format, columns, typed=["input.order", "input.weight"],
        separator=config.separator, header=config.header, multiline=config.multiline, encoding=config.encoding,
    )  # fmt: skip
    return check(rows)


def check(rows: DataFrame) -> DataFrame:
    """Return rows with key, item, maybe order and weight, origin and problem as EVENTS, with the reason why not.

    Raises:
        SchemaMismatch: the order or the weight is not of a type that can be used.
    """
    kinds = {field.name: field.dataType for field in rows.schema}
    key, item = F.col("key"), F.col("item")
    order = _seconds(kinds["order"]) if "order" in kinds else F.lit(None).cast(_ORDER)
    weight = _number(kinds["weight"]) if "weight" in kinds else F.lit(None).cast("double")
    checks = _missing("key", key) + _missing("item", item)
    if "order" in kinds:
        checks += [
            (F.col("order").isNull(), "no order"),
            (order.isNull(), f"order is neither a number nor a time {_TIME}"),
        ]
    if "weight" in kinds:
        checks += [
            (F.col("weight").isNotNull() & (weight.isNull() | F.isnan(weight)), "weight is not a number such as 1.5"),
            (weight < 0, "weight below 0"),
            (weight > MAX_WEIGHT, f"weight over {MAX_WEIGHT}"),
        ]
    record = F.to_json(F.struct(*[name for name in _COLUMNS if name in kinds]))
    reason = F.coalesce("problem", *[F.when(wrong, problem(text, record)) for wrong, text in checks])
    return conform(
        rows.select(
            key.alias("key"), item.alias("item"), order.alias("order"), weight.alias("weight"), "origin",
            reason.alias("problem"),
        ),
        EVENTS,
    )  # fmt: skip


def warn_of_mixed_units(rows: DataFrame) -> None:
    """Log a warning if some orders look like seconds since 1970 and others like milliseconds."""
    order = F.col("order")
    figures = [
        function(F.when(order.between(*limits), order)).alias(f"{unit}_{name}")
        for unit, limits in _UNITS.items()
        for name, function in (("min", F.min), ("max", F.max), ("rows", F.count))
    ]
    row = rows.agg(*figures).first()
    if row is not None and row["seconds_rows"] and row["milliseconds_rows"] and not row["neither_rows"]:
        ranges = [f"{row[f'{u}_min']:f} to {row[f'{u}_max']:f} ({row[f'{u}_rows']:,} rows)" for u in list(_UNITS)[:2]]
        log.warning(
            "input.order: %s look like seconds since 1970, %s like milliseconds; events with one of the two are out of "
            "order: write all in the same unit",
            *ranges,
        )


def _missing(name: str, value: Column) -> list[tuple[Column, str]]:
    return [
        (value.isNull() | (value == ""), f"no {name}"),
        (F.octet_length(value) > MAX_BYTES, f"{name} over {MAX_BYTES} bytes"),
    ]


def _seconds(kind: T.DataType) -> Column:
    """Return the column ``order`` as a decimal; null where it is neither a number nor a time."""
    value = F.col("order")
    if isinstance(kind, T.NumericType):
        return value.try_cast(_ORDER)
    if isinstance(kind, T.TimestampType):
        return _micros(value)
    if isinstance(kind, T.DateType):
        return (F.unix_date(value).cast("long") * _DAY).cast(_ORDER)
    if isinstance(kind, T.TimestampNTZType):
        # By its parts, since a conversion would take the session's zone, and that zone's summer time.
        minutes = F.unix_date(value.cast("date")).cast("long") * 1440 + F.hour(value) * 60 + F.minute(value)
        return ((minutes * 60).cast(_ORDER) + F.date_part(F.lit("SECOND"), value)).cast(_ORDER)
    if isinstance(kind, T.StringType):
        time = F.when(value.rlike(_DATED), _micros(value.try_cast("timestamp")))
        return F.coalesce(value.try_cast(_ORDER), time)
    raise SchemaMismatch(f"the column of input.order is {kind.simpleString()}; need a number, a time, a date or text")


def _micros(time: Column) -> Column:
    return (F.unix_micros(time) * F.lit(Decimal("0.000001"))).cast(_ORDER)


def _number(kind: T.DataType) -> Column:
    if not isinstance(kind, T.NumericType | T.StringType):
        raise SchemaMismatch(f"the column of input.weight is {kind.simpleString()}; need a number")
    return F.col("weight").try_cast("double")
