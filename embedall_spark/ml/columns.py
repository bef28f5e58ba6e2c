"""Columns of a dataset as the kinds want them; what is missing or of another type is an error before a job starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark.errors import SchemaMismatch
from embedall_spark.sources import ids

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FLOATS = T.ArrayType(T.FloatType())


def kind_of(dataset: DataFrame, column: str, param: str) -> T.DataType:
    """Return the type of the column that a param names; raises SchemaMismatch if there is none."""
    kinds = {field.name: field.dataType for field in dataset.schema}
    if column not in kinds:
        raise SchemaMismatch(f"{param}: there is no column {column} (columns: {', '.join(kinds)})")
    return kinds[column]


def check_arrays(dataset: DataFrame, column: str, param: str = "inputCol") -> str:
    """Return the name of a column of arrays of strings; raises SchemaMismatch if it is missing or of another type."""
    kind = kind_of(dataset, column, param)
    if not (isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.StringType)):
        raise SchemaMismatch(f"{param}: the column {column} is {kind.simpleString()}; need array<string>")
    return column


def text(dataset: DataFrame, column: str, param: str) -> Column:
    """Return a column of ids of any simple type as text; raises SchemaMismatch if it is missing or not simple."""
    kind = kind_of(dataset, column, param)
    if not isinstance(kind, T.AtomicType) or isinstance(kind, T.BinaryType):
        raise SchemaMismatch(f"{param}: the column {column} is {kind.simpleString()}; need text, a number or a time")
    return ids.as_text(F.col(column), kind)


def as_source(rows: DataFrame) -> DataFrame:
    """Return the rows of a dataset with the columns that every source has: origin, and problem, null."""
    return rows.withColumns({"origin": F.lit("dataset"), "problem": F.lit(None).cast("string")})


def floats(dataset: DataFrame, column: str, param: str) -> Column:
    """Return a column of vectors of pyspark.ml, or of arrays of numbers, as array<float>.

    Raises:
        SchemaMismatch: it is missing, or of another type.
    """
    kind = kind_of(dataset, column, param)
    if isinstance(kind, VectorUDT):
        return vector_to_array(F.col(column), "float32")
    if isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.FloatType | T.DoubleType):
        return F.col(column).cast(FLOATS)
    raise SchemaMismatch(f"{param}: the column {column} is {kind.simpleString()}; need a vector or an array of floats")
