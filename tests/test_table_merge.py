"""Rows merged into a Delta table: only what has changed is written, once."""

import json

import pytest
from pyspark.sql import functions as F

from embedall_spark import schemas, table_merge, tables
from embedall_spark.errors import BadData, TableError

pytestmark = pytest.mark.slow


def vectors(spark, rows, run_id):
    """Return VECTORS of {id: first number}."""
    records = [(name, [float(value), 0.0], 1.0, "images", run_id, f"digest-{value}") for name, value in rows.items()]
    schema = "id string, vector array<float>, norm double, kind string, run_id string, digest string"
    return schemas.conform(spark.createDataFrame(records, schema).withColumns(_required()), schemas.VECTORS)


def _required():
    # Spark makes every column of local rows nullable; only their types matter here.
    return {"count": F.lit(None).cast("bigint")}


def merge(spark, rows, table, run_id, remove=False, size=2):
    common = {"run_id": run_id, "vector_size": size, "remove": remove, "comment": "", "metadata": {"kind": "images"}}
    return table_merge.merge(spark, rows, table, **common)


def held(spark, table):
    return {row.id: (row.vector[0], row.run_id) for row in tables.read(spark, table).collect()}


@pytest.fixture
def table(spark, tmp_path):
    """A table of a, b, c that run one has made."""
    name = str(tmp_path / "vectors")
    assert merge(spark, vectors(spark, {"a": 1, "b": 2, "c": 3}, "one"), name, "one") == 0
    return name


def test_changed_and_new_rows_are_written_and_others_left(spark, table):
    whole = vectors(spark, {"a": 1}, "one").union(vectors(spark, {"b": 7, "d": 8}, "two"))
    assert merge(spark, whole, table, "two") == 1
    assert held(spark, table) == {"a": (1, "one"), "b": (7, "two"), "c": (3, "one"), "d": (8, "two")}
    commit = tables.history(spark, table).where("version = 1").first()
    assert commit.operation == "MERGE"
    assert json.loads(commit.metadata) == {"run_id": "two", "txn_version": 0, "kind": "images"}


def test_the_same_run_again_changes_nothing(spark, table):
    whole = vectors(spark, {"b": 7}, "two")
    assert [merge(spark, whole, table, "two") for _ in range(2)] == [1, 1]
    assert merge(spark, vectors(spark, {"b": 9}, "two"), table, "two") == 1
    assert held(spark, table)["b"] == (7, "two")
    assert tables.version(spark, table) == 1


def test_nothing_to_change_makes_no_version(spark, table):
    assert merge(spark, vectors(spark, {"a": 1, "b": 2, "c": 3}, "one"), table, "two", remove=True) == 0
    assert tables.version(spark, table) == 0


def test_what_has_vanished_goes_only_where_asked(spark, table):
    whole = vectors(spark, {"a": 1}, "one").union(vectors(spark, {"d": 4}, "two"))
    assert merge(spark, whole, table, "two", remove=True) == 1
    assert held(spark, table) == {"a": (1, "one"), "d": (4, "two")}


def test_a_bad_row_writes_nothing_and_settings_of_the_session_are_left_as_they_were(spark, table):
    bad = vectors(spark, {"b": float("nan")}, "two").union(vectors(spark, {"d": 4}, "two"))
    with pytest.raises(BadData, match="2 finite values; nothing was written"):
        merge(spark, bad, table, "two")
    assert sorted(held(spark, table)) == ["a", "b", "c"]
    assert spark.conf.get("spark.databricks.delta.write.txnAppId", None) is None


def test_vectors_of_another_length_are_refused(spark, table):
    with pytest.raises(TableError, match="have 2 values, those to write 3"):
        merge(spark, vectors(spark, {"a": 1}, "two"), table, "two", size=3)
