"""conform() selects a contract's columns, fills in nullable ones and refuses the rest."""

import pytest

from embedall_spark.errors import SchemaMismatch
from embedall_spark.schemas import DOCUMENTS, VECTORS, conform


def test_columns_are_put_in_order_and_nullable_ones_filled(spark):
    actual = conform(
        spark.createDataFrame([("x", 1, 7)], "extra string, id long, text int").selectExpr("id", "'t' text"), DOCUMENTS
    )
    assert actual.columns == DOCUMENTS.fieldNames()
    assert actual.collect()[0].asDict() == {"id": 1, "text": "t", "origin": None, "problem": None}


def test_all_that_is_wrong_is_named(spark):
    df = spark.createDataFrame([("x", [1.0])], "id string, vector array<double>")
    with pytest.raises(
        SchemaMismatch, match=r"vector: need array<float>, have array<double>; norm: need double, have no such column"
    ):
        conform(df, VECTORS)
