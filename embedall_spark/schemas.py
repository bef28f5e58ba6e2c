"""The named table contracts between stages, and conform(), which holds a table to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from embedall_spark.errors import SchemaMismatch

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession


def _table(*fields: tuple[str, T.DataType, bool, str]) -> T.StructType:
    return T.StructType([T.StructField(name, kind, null, {"comment": text}) for name, kind, null, text in fields])


_FLOATS = T.ArrayType(T.FloatType(), containsNull=False)

DOCUMENTS = _table(
    ("id", T.LongType(), False, "the same for the same document, however the input is partitioned"),
    ("text", T.StringType(), True, "the document; null where the source could not read it"),
    ("origin", T.StringType(), True, "where the document came from, for the rejects table"),
    ("problem", T.StringType(), True, "why the source could not read the document, else null"),
)
EVENTS = _table(
    ("key", T.StringType(), True, "whose story the event belongs to: a user, a session, a basket"),
    ("item", T.StringType(), True, "what happened"),
    ("order", T.DecimalType(38, 6), True, "place in the story: a number, or seconds since 1970; null: none is kept"),
    ("weight", T.DoubleType(), True, "how many times the event counts; null: once"),
    ("origin", T.StringType(), True, "where the event came from, for the rejects table"),
    ("problem", T.StringType(), True, "why the event cannot be used, else null"),
)
EDGES = _table(
    ("src", T.StringType(), True, "where the edge begins"),
    ("dst", T.StringType(), True, "where it ends"),
    ("weight", T.DoubleType(), True, "its weight, above 0; null: 1"),
    ("origin", T.StringType(), True, "where the edge came from, for the rejects table"),
    ("problem", T.StringType(), True, "why the edge cannot be used, else null"),
)
IMAGES = _table(
    ("id", T.StringType(), True, "the picture: its path below the source's root, or a chosen column"),
    ("content", T.BinaryType(), True, "the encoded picture; null where it lies at path"),
    ("path", T.StringType(), True, "path or URI that a task opens; null where content holds the picture"),
    ("title", T.StringType(), True, "what the picture is called"),
    ("tags", T.ArrayType(T.StringType(), containsNull=False), True, "words for the picture"),
    ("label", T.StringType(), True, "what the picture is of, to measure by"),
    ("origin", T.StringType(), True, "where the picture came from, for the rejects table"),
    ("problem", T.StringType(), True, "why the picture cannot be used, else null"),
)
ITEMS = _table(
    ("id", T.StringType(), False, "what the row is about"),
    ("title", T.StringType(), True, "what it is called"),
    ("tags", T.ArrayType(T.StringType(), containsNull=False), True, "words for it"),
    ("label", T.StringType(), True, "what it is of, to measure by"),
)
SEQUENCES = _table(
    ("id", T.LongType(), False, "the same for the same sequence, however the input is partitioned"),
    ("tokens", T.ArrayType(T.StringType(), containsNull=False), False, "the items in their order"),
)
ENCODED = _table(
    ("id", T.LongType(), False, "id of the sequence"),
    ("tokens", T.ArrayType(T.IntegerType(), containsNull=False), False, "ids in VOCABULARY, in order"),
)
COOCCURRENCES = _table(
    ("row", T.IntegerType(), False, "id in VOCABULARY; of counts that are not symmetric, the left token's"),
    ("column", T.IntegerType(), False, "id in VOCABULARY"),
    ("count", T.DoubleType(), False, "how often they occur near each other, weighted by distance"),
)
NAMED_COOCCURRENCES = _table(
    ("row", T.StringType(), False, "a token; of counts that are not symmetric, the left one"),
    ("column", T.StringType(), False, "a token"),
    ("count", T.DoubleType(), False, "how often they occur near each other, weighted by distance"),
)
VOCABULARY = _table(
    ("id", T.IntegerType(), False, "0 for the most frequent token; ties in the order of the tokens' UTF-8 bytes"),
    ("token", T.StringType(), False, "the token"),
    ("count", T.LongType(), False, "how often it occurs"),
)
VECTORS = _table(
    ("id", T.StringType(), False, "what was embedded: a word, an item, a vertex, an image's path"),
    ("vector", _FLOATS, False, "the embedding"),
    ("context", _FLOATS, True, "the output (context) vector; null unless requested"),
    ("norm", T.DoubleType(), False, "Euclidean length of the embedding before any normalization"),
    ("count", T.LongType(), True, "how often the id occurred in training; null where that has no meaning"),
    ("kind", T.StringType(), False, "what kind of thing was embedded"),
    ("run_id", T.StringType(), False, "the run that wrote the row"),
    ("model_uri", T.StringType(), True, "the model that made the row"),
    ("digest", T.StringType(), True, "of what was embedded and by what, to tell what has changed; null: not kept"),
)
NGRAMS = _table(
    ("bucket", T.IntegerType(), False, "number of the bucket; n-grams that no word of the vocabulary has are left out"),
    ("vector", _FLOATS, False, "vector of the bucket's n-grams; a word's is the mean of its n-grams' and its own"),
    ("min_n", T.IntegerType(), False, "fewest characters of an n-gram"),
    ("max_n", T.IntegerType(), False, "most characters of an n-gram"),
    ("buckets", T.IntegerType(), False, "how many buckets there are"),
    ("run_id", T.StringType(), False, "the run that wrote the row"),
)
PAIRS = _table(
    ("left", T.StringType(), False, "id of the left side's vector"),
    ("right", T.StringType(), False, "id of the right side's vector"),
    ("weight", T.DoubleType(), True, "how much the pair counts, above 0; null: 1"),
)
CLUSTERS = _table(
    ("id", T.StringType(), False, "what was clustered: an id of VECTORS"),
    ("cluster", T.IntegerType(), False, "its cluster; 0 is the largest"),
    ("distance", T.DoubleType(), False, "from the unit vector to the center of its cluster, Euclidean, 0 to 2"),
    ("run_id", T.StringType(), False, "the run that wrote the row"),
)
NEIGHBORS = _table(
    ("query", T.StringType(), False, "id of the query"),
    ("rank", T.IntegerType(), False, "1 for the nearest; equal scores in the order of ids"),
    ("id", T.StringType(), False, "the neighbor"),
    ("score", T.FloatType(), False, "cosine of the two, or that of CSLS"),
)
HUBS = _table(
    ("id", T.StringType(), False, "a row of a table of vectors"),
    ("side", T.StringType(), True, "the kind of the rows that it is compared to; null: all rows"),
    ("near", T.IntegerType(), False, "to how many of these, the nearest: the K of CSLS"),
    ("similarity", T.FloatType(), False, "mean cosine to them"),
    ("version", T.StringType(), False, "id and version of the table of vectors"),
)
DRIFT = _table(
    ("id", T.StringType(), False, "a row of the published table, before or after"),
    ("count", T.LongType(), True, "how often it occurred in training"),
    ("cosine", T.DoubleType(), True, "of its vector to the one that it had before; null: it is new or lost"),
    ("status", T.StringType(), False, "shared, new or lost"),
)
CODES = _table(
    ("id", T.StringType(), False, "an id that some version of the published table has or had"),
    ("code", T.LongType(), False, "its integer in all versions: 0, 1, 2 ... without gaps; never another id's"),
    ("version", T.LongType(), False, "the version of the published table that brought the id"),
)
ROTATION = _table(
    ("position", T.IntegerType(), False, "of a row of the matrix"),
    (
        "values",
        T.ArrayType(T.DoubleType(), False),
        False,
        "the row; a candidate's vector times the matrix is published",
    ),
)
MAP = _table(
    ("id", T.StringType(), False, "a row of the table of vectors"),
    ("x", T.FloatType(), False, "its place on a map, from left to right"),
    ("y", T.FloatType(), False, "its place on a map, from below"),
)
BASELINE = _table(
    ("overlap", T.DoubleType(), False, "mean share of the 10 nearest neighbors that two runs have in common"),
    ("error", T.DoubleType(), False, "standard error of this mean"),
    ("ids", T.IntegerType(), False, "how many ids it is measured on"),
    ("kind", T.StringType(), False, "kind of the runs"),
)
SUGGESTIONS = _table(
    ("id", T.StringType(), False, "for what it is suggested"),
    ("kind", T.StringType(), False, "title or word"),
    ("rank", T.IntegerType(), False, "1 for the best of a kind"),
    ("text", T.StringType(), False, "the title or the word"),
    ("score", T.FloatType(), False, "of a title the cosine; of a word its share, see LatentModel.suggest_words()"),
)
REJECTS = _table(
    ("origin", T.StringType(), True, "where the row came from"),
    ("reason", T.StringType(), False, "why it was refused"),
    ("record", T.StringType(), True, "the beginning of the row as it was found"),
    ("run_id", T.StringType(), True, "the run that refused it"),
)


def ngrams_table(table: str) -> str:
    """Return the name of the table with the n-grams of a table of words."""
    return f"{table.rstrip('/')}_ngrams"


def from_arrow(spark: SparkSession, table: pa.Table) -> DataFrame:
    """Return an Arrow table as a DataFrame, also one without rows, for which Spark Connect wants a schema."""
    return spark.createDataFrame(table, from_arrow_schema(table.schema))


def conform(df: DataFrame, schema: T.StructType) -> DataFrame:
    """Select the columns of a contract, in its order.

    A nullable column that ``df`` lacks is filled with nulls; other columns of ``df`` are dropped.

    Raises:
        SchemaMismatch: a column is missing or has another type.
    """
    have = {field.name: field.dataType for field in df.schema}
    wrong = [
        f"{field.name}: need {field.dataType.simpleString()}, "
        + (f"have {have[field.name].simpleString()}" if field.name in have else "have no such column")
        for field in schema
        if (field.name not in have and not field.nullable)
        or (field.name in have and have[field.name].simpleString() != field.dataType.simpleString())
    ]
    if wrong:
        raise SchemaMismatch(f"the table does not fit its contract: {'; '.join(wrong)} (columns: {', '.join(have)})")
    return df.select(
        *[
            F.col(field.name) if field.name in have else F.lit(None).cast(field.dataType).alias(field.name)
            for field in schema
        ]
    )


def vectors_of(trained: DataFrame, kind: str, run_id: str, model_uri: str | None) -> DataFrame:
    """Return the rows that training gives, which know nothing of the run that makes them, as VECTORS."""
    lineage = {"kind": F.lit(kind), "run_id": F.lit(run_id), "model_uri": F.lit(model_uri).cast("string")}
    return conform(trained.withColumns(lineage), VECTORS)
