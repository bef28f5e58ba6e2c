"""One rule for ids of every type and format: a whole number is that integer."""

from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from embedall_spark.sources import edges, ids
from embedall_spark.sources.edges import EdgesConfig


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (
            "double",
            {
                12345678.0: "12345678", 12.0: "12", 1e3: "1000", -0.0: "0", 0.1: "0.1", 12345678.5: "12345678.5",
                -1e-9: "-0.000000001", float("nan"): None, 2.0**53: "9007199254740992", 2.0**53 + 2: ..., 1e300: ...,
                float("inf"): ...,
            },
        ),
        ("float", {16777216.0: "16777216", 0.1: "0.1", 1e9: ...}),
        ("decimal(10,2)", {Decimal("12.00"): "12", Decimal("100"): "100", Decimal("1.50"): "1.5", Decimal(0): "0"}),
        ("bigint", {2**60 + 1: str(2**60 + 1)}),
        ("boolean", {True: "true"}),
    ],
)  # fmt: skip
def test_ids_of_every_type(spark, kind, values):
    rows = spark.createDataFrame([(value,) for value in values], f"value {kind}").coalesce(1)
    type_ = rows.schema["value"].dataType
    texts = rows.select(ids.as_text(F.col("value"), type_), ids.is_inexact(F.col("value"), type_)).collect()
    assert [... if inexact else text for text, inexact in texts] == list(values.values())


def test_numbers_in_json_and_in_parquet_are_the_same_ids(spark, tmp_path):
    lines = [
        '{"src":1,"dst":"1"}', '{"src":1.0,"dst":12345678901234567890123}', '{"src":true,"dst":null}',
        '{"src":9007199254740993,"dst":1e3}', '{"src":1.5,"dst":1e300}',
    ]  # fmt: skip
    (tmp_path / "a.json").write_text("\n".join(lines))
    actual = edges.read(spark, EdgesConfig(path=f"{tmp_path}/a.json", format="json")).collect()
    assert [(row.src, row.dst) for row in actual if row.problem is None] == [
        ("1", "1"), ("1", "12345678901234567890123"), ("9007199254740993", "1000"),
    ]  # fmt: skip
    assert [row.problem for row in actual if row.problem] == [
        "dst is null or empty: true null", f"{ids.INEXACT}: {lines[-1]}",
    ]  # fmt: skip
    spark.createDataFrame([(1.0, 1000.0), (1.5, 1e300)], "src double, dst double").write.parquet(f"{tmp_path}/p")
    actual = edges.read(spark, EdgesConfig(path=f"{tmp_path}/p", format="parquet")).collect()
    assert {(row.src, row.dst) for row in actual} == {("1", "1000"), (None, None)}
    assert [row.problem for row in actual if row.problem] == [f"{ids.INEXACT}: 1.0E300"]


def test_what_a_user_types_is_the_id_that_readers_write():
    typed = {"12": "12", "12.0": "12", "1e3": "1000", "-3.0": "-3", "1.5": "1.5", "1e30": "1e30"}
    typed |= {text: text for text in ("007", "1_0", "nan", "Infinity", "v1.0", "1e999", "")}
    assert {text: ids.from_text(text) for text in typed} == typed
