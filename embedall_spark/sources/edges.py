"""Edges of a graph to EDGES: tables, files, edge lists, GraphFrames; what cannot be an edge says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, Self

from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark.config import MOVABLE, InputPath, Section
from embedall_spark.errors import SchemaMismatch
from embedall_spark.schemas import EDGES, conform
from embedall_spark.sources import (
    csv_files,
    expressions,
    file_lines,
    graph_formats,
    ids,
    input_version,
    python_imports,
    tabular,
    text_streams,
)
from embedall_spark.sources.expressions import problem
from embedall_spark.sources.text_streams import Encoding

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession

    from embedall_spark.sources.input_version import Storage

# All of a line's fields but the last end with a comma; or it has no blank at all.
_COMMAS = "^([^ ]+, +)+[^ ]+$|^[^ ,]+(,[^ ,]+)+$"
_QUOTED = '(^| )"[^" ]+ [^"]*"( |$)'
_CSV = "which separates nothing in an edge list (separate by tabs or set input.format=csv)"

# Sums of weights, and their products with biases, must neither overflow nor lose their digits.
MIN_WEIGHT, MAX_WEIGHT = 1e-100, 1e100


class HasEdges(Protocol):
    """A GraphFrame, or whatever else has its two tables."""

    @property
    def vertices(self) -> DataFrame:
        """The vertices, with a column ``id``."""

    @property
    def edges(self) -> DataFrame:
        """The edges, with columns ``src``, ``dst`` and maybe ``weight``."""


class EdgesConfig(Section):
    """Where edges come from."""

    path: InputPath = Field(description=csv_files.PATH)
    format: Literal["edgelist", "csv", "json", "parquet", "delta", "imports"] = Field(
        "edgelist",
        description="edgelist: lines 'src dst' or 'src dst weight', separated by tabs or else by blanks; more fields "
        "are ignored; comments begin with # or %, and a line with the names of src and dst is a header, as is a first "
        "line such as 'source target'; csv; json: JSON Lines; parquet; delta: a path or a table; imports: which module "
        "imports which, of every .py file below the folder",
    )
    src: str = Field("src", description="the column where an edge begins, of any simple type")
    dst: str = Field("dst", description="the column where it ends")
    weight: str | None = Field(
        None,
        description="the column of the weights, numbers from 1e-100 to 1e100; with format: edgelist any name stands "
        "for the third field; unset: 1 each. Equal edges become one of their summed weight",
    )
    encoding: Encoding = Field("utf-8", description=text_streams.ENCODING)
    separator: str = Field(",", min_length=1, max_length=1, description=csv_files.SEPARATOR)
    header: bool = Field(True, description=csv_files.HEADER)
    multiline: bool = Field(False, description=csv_files.MULTILINE)
    incremental: bool = Field(False, description=input_version.INCREMENTAL, json_schema_extra=MOVABLE)

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        csv_files.check_multiline(self.multiline, self.format)
        input_version.check_incremental(self.incremental, self.format)
        return self

    @property
    def storage(self) -> Storage:
        """How the input is stored."""
        return input_version.storage_of(self.path, self.format)


def read(spark: SparkSession, config: EdgesConfig) -> DataFrame:
    """Return EDGES, lazily, a row per edge or record that is none.

    Raises:
        BadData: there is nothing at the path, or nothing in it, or it is of another format.
        SchemaMismatch: a column is missing or is not of a simple type.
    """
    if config.format == "imports":
        return conform(python_imports.read(spark, config.path), EDGES)
    if config.format == "edgelist":
        return _lines(spark, config)
    columns = {"input.src": config.src, "input.dst": config.dst}
    if config.weight is not None:
        columns["input.weight"] = config.weight
    rows = tabular.read(
        spark, config.path, config.format, columns, typed=["input.weight"],
        separator=config.separator, header=config.header, multiline=config.multiline, encoding=config.encoding,
    )  # fmt: skip
    return check(rows)


def of(graph: DataFrame | HasEdges, weight: str | None = None) -> DataFrame:
    """Return EDGES as they are, and the edges of a GraphFrame as EDGES.

    ``weight`` names the column of a GraphFrame's weights; all are 1 without it.

    Raises:
        SchemaMismatch: a column is missing.
    """
    if isinstance(graph, DataFrame):
        return conform(graph, EDGES)
    needed = {"edges": ("src", "dst", *([weight] if weight else [])), "vertices": ("id",)}
    for part, names in needed.items():
        columns = getattr(graph, part).columns
        if missing := [name for name in names if name not in columns]:
            raise SchemaMismatch(f"the graph's {part} have no column {', '.join(missing)} (columns: {columns})")
    weights = [F.col(weight).alias("weight")] if weight else []
    added = [F.lit("graph").alias("origin"), expressions.null().alias("problem")]
    return check(graph.edges.select("src", "dst", *weights, *added))


def check(rows: DataFrame) -> DataFrame:
    """Return rows with src, dst, maybe weight, origin and problem as EDGES, with the reason why a row is no edge."""
    kinds = {field.name: field.dataType for field in rows.schema}
    src, dst = (ids.as_text(F.col(name), kinds[name]) for name in ("src", "dst"))
    inexact = ids.is_inexact(F.col("src"), kinds["src"]) | ids.is_inexact(F.col("dst"), kinds["dst"])
    weight = F.col("weight") if "weight" in kinds else F.lit(None)
    number = weight.try_cast("double")
    parts = [F.col(name).cast("string") for name in ("src", "dst", "weight") if name in kinds]
    record = F.concat_ws(" ", *[F.coalesce(part, F.lit("null")) for part in parts])
    comma = F.contains(weight.cast("string"), F.lit(","))
    reason = F.coalesce(
        F.col("problem"),
        F.when(inexact, problem(ids.INEXACT, record)),
        F.when(src.isNull() | (src == ""), problem("src is null or empty", record)),
        F.when(dst.isNull() | (dst == ""), problem("dst is null or empty", record)),
        F.when(comma & number.isNull(), problem("weight has a comma, need a decimal point", record)),
        F.when(weight.isNotNull() & number.isNull(), problem("weight is no number", record)),
        # In Spark NaN is greater than any other number.
        F.when(number >= F.lit(float("inf")), problem("weight is not finite", record)),
        F.when(number <= 0, problem("weight is not above 0", record)),
        F.when(
            ~number.between(MIN_WEIGHT, MAX_WEIGHT),
            problem(f"weight is not from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}", record),
        ),
    )
    if "weight" in kinds:
        reason = F.coalesce(reason, F.when(weight.isNull(), problem("weight is null", record)))
    return conform(
        rows.select(src.alias("src"), dst.alias("dst"), number.alias("weight"), "origin", reason.alias("problem")),
        EDGES,
    )


def _lines(spark: SparkSession, config: EdgesConfig) -> DataFrame:
    """Return the lines of an edge list as EDGES; empty lines, comments and names of columns are none of its rows."""
    heads = list(file_lines.heads(config.path, config.encoding))
    graph_formats.check_inputs(config.path, heads, whole=len(heads) < file_lines.MAX_HEADS)
    lines = file_lines.read(
        spark, config.path, config.encoding, option="a limit of edge lists", check=graph_formats.check, comments=True
    )
    # A tab at the beginning stands behind an empty field.
    lines = lines.withColumn("value", F.ltrim(F.rtrim("value", F.lit(" \t"))))
    lines = lines.where((F.col("value") != "") & ~F.col("value").rlike("^[#%]"))
    tabs = F.contains("value", F.lit("\t"))
    # Not F.trim itself: it would be given the places, too.
    between = F.transform(F.split("value", "\t"), lambda field: F.trim(field))
    rows = lines.withColumn("fields", F.when(tabs, between).otherwise(F.split("value", "[ ]+")))
    ends = F.slice("fields", 1, 2)
    rows = rows.where((ends != F.array(F.lit(config.src), F.lit(config.dst))) & ~(F.col("first") & _is_header(ends)))
    need = 2 if config.weight is None else 3
    value = F.col("value")
    reason = F.coalesce(
        F.concat("problem", F.lit(": "), F.left(F.make_valid_utf8(value), F.lit(expressions.EXCERPT))),
        # Splitting would replace broken bytes in silence.
        F.when(~F.is_valid_utf8(value), problem("broken UTF-8", F.make_valid_utf8(value))),
        F.when(~tabs & value.rlike(_COMMAS), problem(f"commas, {_CSV}", value)),
        F.when(F.size("fields") < need, problem(f"fewer than {need} fields", value)),
        F.when(~tabs & value.rlike(_QUOTED), problem(f"a blank in quotes, {_CSV}", value)),
    )
    columns = [F.get("fields", F.lit(place)).alias(name) for place, name in enumerate(("src", "dst", "weight")[:need])]
    return check(rows.select(*columns, "origin", reason.alias("problem")))


def _is_header(ends: Column) -> Column:
    """Return whether the first two fields of a file are names of columns, as other programs write them."""
    names = F.transform(ends, lambda field: F.lower(F.translate(field, "\"' _", "")))
    return F.array_contains(F.array(*[F.array(*map(F.lit, pair)) for pair in graph_formats.HEADERS]), names)
