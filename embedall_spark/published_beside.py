"""The tables beside a published one that belong to its versions: they are published and rolled back with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark import files, published_alias, table_versions, tables
from embedall_spark.errors import TableError
from embedall_spark.publish import procrustes
from embedall_spark.schemas import NGRAMS, conform, ngrams_table
from embedall_spark.vectors import dimension

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from embedall_spark.publish.procrustes import Rotation

BESIDE = "beside"
"""The fact of a published commit: the versions of these tables that belong to it, by the keys of _TABLES."""
_TABLES: dict[str, Callable[[str], str]] = {
    "metadata": files.metadata_of,
    "map": files.map_of,
    "ngrams": ngrams_table,
    "words": files.words_of,
}


def publish(spark: SparkSession, candidate: str, published: str, run_id: str, rotation: Rotation | None) -> None:
    """Publish titles, labels and places on a map of a candidate, and the vectors of its n-grams, if it has any."""
    for beside in (files.metadata_of, files.map_of):
        if tables.exists(spark, name := beside(candidate)):
            rows = tables.read(spark, name)
            tables.write(spark, rows, beside(published), rows.schema, mode="overwrite", run_id=run_id)
    name = ngrams_table(candidate)
    if tables.exists(spark, name):
        rows = conform(tables.read(spark, name), NGRAMS).withColumn("run_id", F.lit(run_id))
        rows = rows if rotation is None else procrustes.rotate(rows, rotation.matrix)
        tables.write(
            spark, rows, ngrams_table(published), NGRAMS, mode="overwrite", run_id=run_id,
            vector_size=dimension(rows),
        )  # fmt: skip


def versions(spark: SparkSession, published: str, has_words: bool) -> dict[str, int]:
    """Return the versions that the tables beside a published one have now, for the facts of its commit.

    Args:
        spark: the session.
        published: the table that others read.
        has_words: whether it is a latent space that has learned vectors of words; else such a table is not its own.
    """
    names = {key: name(published) for key, name in _TABLES.items() if has_words or key != "words"}
    latest = {key: tables.version(spark, name) for key, name in names.items()}
    return {key: version for key, version in latest.items() if version is not None}


def roll_back(spark: SparkSession, published: str, version: int, user: str) -> int:
    """Make an earlier version of a published table, and of the tables beside it, the latest one; move the alias.

    The vectors go first, so that nothing has changed where their files are gone. A call that was killed can be
    repeated: what has gone back already is left as it is. Codes of ids stay.

    Returns:
        The number of the table's new version.

    Raises:
        TableError: a table has no such version, it is the latest one already, or its files are gone (VACUUM).
    """
    commits = table_versions.versions(spark, published)
    if commits[0]["version"] == version:
        raise TableError(f"{published}: version {version} is the latest one already")
    latest = table_versions.restore(spark, published, version, user)
    # Delta's own commits, such as OPTIMIZE, know nothing of them.
    known = [commit[BESIDE] for commit in commits if commit["version"] <= version and BESIDE in commit]
    for key, before in known[0].items() if known else ():
        table_versions.restore(spark, _TABLES[key](published), before, user)
    published_alias.follow(spark, published)
    return latest
