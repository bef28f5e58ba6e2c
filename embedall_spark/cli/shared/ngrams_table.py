"""The n-grams beside a table of words, which answer for words that the table lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from pyspark.sql import functions as F

from embedall_spark import files, run_manifest, schemas, tables
from embedall_spark.errors import NeedsSpark
from embedall_spark.search import exact, spelling, title_lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.cli.shared.table_snapshot import TableSnapshot
    from embedall_spark.search.title_lookup import Resolved


def read(spark: SparkSession, table: str) -> DataFrame | None:
    """Return the NGRAMS of the run that wrote a table; None if it trained without n-grams, or they are gone."""
    name = schemas.ngrams_table(table)
    run_id = run_manifest.producer_of(spark, table).get("run_id")
    if run_id is None or not tables.exists(spark, name):
        return None
    # A later run whose gates failed may have replaced the n-grams that this run wrote.
    rows = tables.read(spark, name, tables.committed(spark, name, run_id, None))
    if not set(schemas.NGRAMS.names) <= set(rows.columns):
        return None
    rows = schemas.conform(rows, schemas.NGRAMS).where(F.col("run_id") == run_id)
    return None if rows.isEmpty() else rows


def require_vectors(snapshot: TableSnapshot, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of a few ids, float32 [d] each; those of words that the table lacks are composed.

    Raises:
        BadData: an id's vector has no direction.
        NeedsSpark: the table is read without Spark, and may have n-grams.
        UnknownId: ids that are not in the table, and have no known n-gram.
    """
    # As they are: a number's other spelling would be an id that its answers do not leave out.
    known = exact.find_vectors(snapshot.vectors, ids)
    missing = [name for name in dict.fromkeys(ids) if name not in known]
    resolved = add_unseen(snapshot, title_lookup.Resolved({name: name for name in known}, known, missing, {}))
    if resolved.missing:
        raise spelling.unknown(snapshot.vectors, resolved.missing)
    exact.require_directions(resolved.vectors)
    return resolved.vectors


def add_unseen(snapshot: TableSnapshot, resolved: Resolved) -> Resolved:
    """Return what texts mean, with vectors for words that the table lacks but that its n-grams compose; say so.

    Raises:
        NeedsSpark: the table is read without Spark, and may have n-grams.
    """
    words = [text for text in resolved.missing if text not in resolved.ambiguous]
    if words and snapshot.session is None:
        if not files.exists(schemas.ngrams_table(snapshot.name)):
            return resolved
        raise NeedsSpark("a word that is not in the table may be composed from its n-grams")
    rows = read(snapshot.spark, snapshot.name) if words else None
    composed = {}
    if rows is not None:
        # Imported here: it brings numba, which takes longer than most questions.
        from embedall_spark.search import unseen_words

        composed = unseen_words.compose(rows, words)
    for word in composed:
        typer.echo(f"{word!r} is not in the table; its vector is composed from its n-grams")
    return resolved._replace(
        ids=resolved.ids | {word: word for word in composed},
        vectors=resolved.vectors | composed,
        missing=[text for text in resolved.missing if text not in composed],
    )
