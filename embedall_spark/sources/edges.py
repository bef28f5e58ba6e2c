"""Edges of a graph to EDGES: tables, files, edge lists, GraphFrames; what cannot be an edge says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, Self

from pydantic import Field, model_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark.config import InputPath, Section
from embedall_spark.errors import SchemaMismatch
from embedall_spark.schemas import EDGES, conform
from embedall_spark.sources import csv_files, python_imports, reader_errors, tabular

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession

_BANNER = "%%MatrixMarket"
_MATRIX = (
    ": MatrixMarket, whose line of sizes would become an edge; remove all lines up to that one, or write the edges anew"
)
# All of a line's fields but the last end with a comma.
_COMMAS = "^([^ ]+, +)+[^ ]+$"
_QUOTED = '(^| )"[^" ]+ [^"]*"( |$)'
_CSV = "which separates nothing in an edge list (separate by tabs or set input.format=csv)"

# Sums of weights, and their products with biases, must neither overflow nor lose their digits.
LEAST, MOST = 1e-100, 1e100


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

    path: InputPath = Field(description="a folder, glob or file (also gzip, bz2), or a table catalog.schema.table")
    format: Literal["edgelist", "csv", "json", "parquet", "delta", "imports"] = Field(
        "edgelist",
        description="edgelist: lines 'src dst' or 'src dst weight', separated by tabs or else by blanks; more fields "
        "are ignored; comments begin with # or %, and a line with the names of src and dst is a header; csv: with a "
        "header line; json: JSON Lines; parquet; delta: a path or a table; imports: which module imports which, of "
        "every .py file below the folder",
    )
    src: str = Field("src", description="the column where an edge begins, of any simple type")
    dst: str = Field("dst", description="the column where it ends")
    weight: str | None = Field(
        None,
        description="the column of the weights, numbers from 1e-100 to 1e100; with format: edgelist any name stands "
        "for the third field; unset: 1 each. Equal edges become one of their summed weight",
    )
    separator: str = Field(",", min_length=1, max_length=1, description="with format: csv, what separates columns")
    multiline: bool = Field(False, description=csv_files.MULTILINE)

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        csv_files.check_multiline(self.multiline, self.format)
        return self


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
    return check(
        tabular.read(spark, config.path, config.format, columns, separator=config.separator, multiline=config.multiline)
    )


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
    unknown = [F.lit("graph").alias("origin"), reader_errors.null().alias("problem")]
    return check(graph.edges.select("src", "dst", *weights, *unknown))


def check(rows: DataFrame) -> DataFrame:
    """Return rows with src, dst, maybe weight, origin and problem as EDGES, with the reason why a row is no edge."""
    kinds = {field.name: field.dataType for field in rows.schema}
    src, dst = (tabular.as_text(name, kinds[name]) for name in ("src", "dst"))
    given = F.col("weight") if "weight" in kinds else F.lit(None)
    number = given.try_cast("double")
    parts = [F.col(name).cast("string") for name in ("src", "dst", "weight") if name in kinds]
    record = F.concat_ws(" ", *[F.coalesce(part, F.lit("null")) for part in parts])
    problem = F.coalesce(
        F.col("problem"),
        F.when(src.isNull() | (src == ""), reader_errors.problem("src is null or empty", record)),
        F.when(dst.isNull() | (dst == ""), reader_errors.problem("dst is null or empty", record)),
        F.when(
            _comma(given) & number.isNull(), reader_errors.problem("weight has a comma, need a decimal point", record)
        ),
        F.when(given.isNotNull() & number.isNull(), reader_errors.problem("weight is no number", record)),
        # In Spark NaN is greater than any other number.
        F.when(number >= F.lit(float("inf")), reader_errors.problem("weight is not finite", record)),
        F.when(number <= 0, reader_errors.problem("weight is not above 0", record)),
        F.when(
            ~number.between(LEAST, MOST), reader_errors.problem(f"weight is not from {LEAST:g} to {MOST:g}", record)
        ),
    )
    if "weight" in kinds:
        problem = F.coalesce(problem, F.when(given.isNull(), reader_errors.problem("weight is null", record)))
    return conform(
        rows.select(src.alias("src"), dst.alias("dst"), number.alias("weight"), "origin", problem.alias("problem")),
        EDGES,
    )


def _comma(weight: Column) -> Column:
    return F.contains(weight.cast("string"), F.lit(","))


def _lines(spark: SparkSession, config: EdgesConfig) -> DataFrame:
    """Return the lines of an edge list as EDGES; empty lines, comments and names of columns are none of its rows."""
    found = reader_errors.opened(config.path, config.format, lambda: reader_errors.lines(spark, config.path))
    # A tab at the beginning stands behind an empty field.
    lines = found.select(F.ltrim(F.rtrim("value", F.lit(" \t"))).alias("value"), "origin")
    banner = F.startswith("value", F.lit(_BANNER))
    lines = lines.where((F.col("value") != "") & (banner | ~F.col("value").rlike("^[#%]")))
    tabs = F.contains("value", F.lit("\t"))
    # Not F.trim itself: it would be given the places, too.
    between = F.transform(F.split("value", "\t"), lambda field: F.trim(field))
    fields = F.when(tabs, between).otherwise(F.split("value", "[ ]+"))
    parts = lines.withColumn("fields", fields)
    parts = parts.where(F.slice("fields", 1, 2) != F.array(F.lit(config.src), F.lit(config.dst)))
    need = 2 if config.weight is None else 3
    # Splitting would replace broken bytes in silence.
    problem = F.coalesce(
        F.when(banner, F.raise_error(F.concat("origin", F.lit(_MATRIX)))),
        F.when(~F.is_valid_utf8("value"), reader_errors.problem("broken UTF-8", F.make_valid_utf8("value"))),
        F.when(F.size("fields") < need, reader_errors.problem(f"fewer than {need} fields", F.col("value"))),
        F.when(~tabs & F.col("value").rlike(_COMMAS), reader_errors.problem(f"commas, {_CSV}", F.col("value"))),
        F.when(
            ~tabs & F.col("value").rlike(_QUOTED), reader_errors.problem(f"a blank in quotes, {_CSV}", F.col("value"))
        ),
    )
    columns = [F.get("fields", F.lit(at)).alias(name) for at, name in enumerate(("src", "dst", "weight")[:need])]
    return check(parts.select(*columns, "origin", problem.alias("problem")))
