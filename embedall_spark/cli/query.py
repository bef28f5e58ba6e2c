"""Commands that ask a table of vectors, and bring vectors in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import typer
from rich.console import Console
from rich.table import Table

from embedall_spark import export, schemas, session, tables
from embedall_spark.evaluate import words as evaluation
from embedall_spark.search import analogy, exact, spelling
from embedall_spark.sources import word2vec_format

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TABLE = typer.Argument(help="Table of vectors: a path or URI, or catalog.schema.table.", metavar="TABLE")
_N = typer.Option(10, "-n", min=1, max=1000, help="How many neighbours.")
_MASTER = typer.Option(None, "--master", help="Spark master, such as local[4].")
