"""Events of every type and with everything that can be wrong with them, against values worked out by hand."""

import datetime
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import setting

from embedall_spark.config import parse
from embedall_spark.errors import ConfigError, SchemaMismatch
from embedall_spark.schemas import EVENTS
from embedall_spark.sources import events


def read(spark, path, **options):
    rows = events.read(spark, parse(events.EventsConfig, {"path": str(path), **options}))
    assert rows.schema.simpleString() == EVENTS.simpleString()
    return rows.collect()


def table(tmp_path, **columns):
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    return tmp_path / "events.parquet"


def good(rows):
    return sorted(((row.key, row.item, row.order, row.weight) for row in rows if row.problem is None), key=str)


def problems(rows):
    return sorted(row.problem for row in rows if row.problem)


CSV = """user,item,when,weight
a,x,1.5,2
a,"y, z",2024-02-29 12:00:00.000001,
a,x,2024-02-29T13:00:00+01:00,0.5
ж,x,-1e3,1
,x,1,1
a,,1,1
a,x,,1
a,x,soon,1
a,x,12:30:00,1
a,x,NaN,1
a,x,Infinity,1
a,x,1,-1
a,x,1,NaN
a,x,1,inf
a,x,1,much
a,x,1,101
a,x,1e40,1
a,x,1
"""


def test_csv(spark, tmp_path):
    (tmp_path / "a.csv").write_bytes(CSV.encode() + b"a,bad \xff,1,1\n" + b"a," + b"x" * 5000 + b",1,1\n")
    rows = read(spark, tmp_path / "a.csv", format="csv", key="user", order="when", weight="weight")
    noon = Decimal(1709208000)
    assert good(rows) == sorted(
        [
            ("a", "x", Decimal("1.5"), 2.0),
            ("a", "y, z", noon + Decimal("0.000001"), None),
            ("a", "x", noon, 0.5),
            ("ж", "x", Decimal(-1000), 1.0),
        ],
        key=str,
    )

    def told(**values):
        return json.dumps({"key": "a", "item": "x", "order": "1", "weight": "1", **values}, separators=(",", ":"))

    no_time = "order is neither a number nor a time such as 2024-02-29 12:00:00: "
    actual = problems(rows)
    assert actual.pop(actual.index(next(text for text in actual if "4096" in text))).startswith(
        "item over 4096 bytes: {"
    )
    assert actual == sorted([
        "broken UTF-8: bad \ufffd",
        "not a row of this CSV: a,x,1",
        "no key: " + told().replace('"key":"a",', ""),
        "no item: " + told().replace('"item":"x",', ""),
        "no order: " + told().replace('"order":"1",', ""),
        *(no_time + told(order=order) for order in ("soon", "12:30:00", "NaN", "Infinity", "1e40")),
        *("weight is not a number such as 1.5: " + told(weight=weight) for weight in ("NaN", "much")),
        "weight below 0: " + told(weight="-1"),
        *("weight over 100: " + told(weight=weight) for weight in ("101", "inf")),
    ])  # fmt: skip


DAY = datetime.datetime(2024, 7, 1, 2, 3, 4, 567891)
SECONDS = Decimal("1719799384.567891")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([2**63 - 1, -5, None]), [Decimal(2**63 - 1), Decimal(-5)]),
        (pa.array([1.25, float("nan"), float("inf"), -0.1]), [Decimal("1.25"), Decimal("-0.1")]),
        (pa.array([0.1], pa.float32()), [Decimal("0.1")]),
        (pa.array([Decimal("12345678901234567890.123456")]), [Decimal("12345678901234567890.123456")]),
        (pa.array([DAY], pa.timestamp("us")), [SECONDS]),
        (pa.array([DAY], pa.timestamp("us", "UTC")), [SECONDS]),
        (pa.array([DAY.date(), datetime.date(1969, 12, 31)]), [Decimal(1719792000), Decimal(-86400)]),
        (pa.array(["7", "2024-07-01T02:03:04.567891Z", "?"]), [Decimal(7), SECONDS]),
    ],
    ids=["integers", "floats", "float32", "decimals", "no zone", "zone", "dates", "text"],
)
def test_orders_of_every_type(spark, tmp_path, values, expected):
    columns = {"key": ["a"] * len(values), "item": list(range(len(values))), "order": values}
    with setting(spark, "spark.sql.session.timeZone", "America/New_York"):
        rows = read(spark, table(tmp_path, **columns), format="parquet", order="order")
    assert sorted(row.order for row in rows if row.problem is None) == sorted(expected)
    assert len(problems(rows)) == len(values) - len(expected)


def test_seconds_beside_milliseconds_are_warned_of(spark, caplog):
    def warned(*orders):
        caplog.clear()
        rows = spark.createDataFrame([(Decimal(order),) for order in orders], "order decimal(38,6)")
        events.warn_of_mixed_units(rows)
        return caplog.messages

    (message,) = warned(1709208000, 1709208001, 1709208000123)
    assert "1709208000.000000 to 1709208001.000000 (2 rows) look like seconds since 1970" in message
    assert "1709208000123.000000 to 1709208000123.000000 (1 rows) like milliseconds" in message
    assert not warned(1, 2, 1709208000) and not warned(10**9, 2 * 10**10, 10**12)


def test_keys_and_items_of_every_type(spark, tmp_path):
    path = table(
        tmp_path, key=pa.array([1.5, float("nan"), 2.0]), item=pa.array([True, True, None]), origin=["a", "b", "c"]
    )
    rows = read(spark, path, format="parquet")
    assert good(rows) == [("1.5", "true", None, None)]
    assert problems(rows) == ['no item: {"key":"2"}', 'no key: {"item":"true"}']
    assert good(read(spark, path, format="parquet", key="item", item="origin")) == [
        ("true", "a", None, None), ("true", "b", None, None),
    ]  # fmt: skip


def test_json_lines(spark, tmp_path):
    (tmp_path / "a.json").write_text(
        '{"key": 1, "item": "a", "t": 5}\n{"key": [1], "item": "a", "t": 5}\n{"item": "b"}\n'
    )
    rows = read(spark, tmp_path / "a.json", format="json", order="t")
    assert good(rows) == [("1", "a", Decimal(5), None)]
    assert problems(rows) == ['no key: {"item":"b"}', 'no simple value under key: {"key": [1], "item": "a", "t": 5}']


def test_calls(spark, tmp_path):
    (tmp_path / "a.py").write_text("def f():\n    return sorted(len(x) for x in [])\n")
    (tmp_path / "b.py").write_text("def f(:\n")
    rows = read(spark, tmp_path, format="calls")
    assert [row[1] for row in sorted(good(rows), key=lambda row: row[2])] == ["len", "sorted"]
    (problem,) = problems(rows)
    assert problem.startswith("not Python: ")
    assert events.EventsConfig(path="x", format="calls").ordered and not events.EventsConfig(path="x").ordered


def test_wrong_options(spark, tmp_path):
    path = table(tmp_path, key=["a"], item=["a"], flag=[True], day=pa.array([DAY.date()]))
    with pytest.raises(SchemaMismatch, match=r"the column of input.order is boolean"):
        read(spark, path, format="parquet", order="flag")
    with pytest.raises(SchemaMismatch, match=r"the column of input.weight is date"):
        read(spark, path, format="parquet", weight="day")
    with pytest.raises(SchemaMismatch, match=r"no column 'when'.*set input.order"):
        read(spark, path, format="parquet", order="when")
    with pytest.raises(ConfigError, match="format calls has no columns; remove item"):
        parse(events.EventsConfig, {"path": "x", "format": "calls", "item": "call"})
    with pytest.raises(ConfigError, match="multiline: need format: csv, found format: delta; remove it"):
        parse(events.EventsConfig, {"path": "x", "multiline": True})
