"""Every format and every bad row, against the rows that were put in."""

import datetime
import decimal
import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedall_spark.errors import BadData, SchemaMismatch
from embedall_spark.sources import tabular


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(spark, path, format, columns, **options):
    rows = tabular.read(spark, str(path), format, columns, **options).collect()
    for row in rows:
        values = row.asDict()
        origin, problem = values.pop("origin"), values.pop("problem")
        assert origin and list(values) == [tabular.name(option) for option in columns]
        assert problem is None or set(values.values()) == {None}
    good = sorted((tuple(row)[:-2] for row in rows if row.problem is None), key=str)
    return good, sorted(row.problem for row in rows if row.problem is not None)


USER_ITEM = {"input.key": "user id", "input.item": "item"}


def test_csv(spark, tmp_path):
    lines = ["user id,x,item", '1,,"a, ""b"""', "2,0,ж", "3,0", "4,0,z,1", '5,0,""', ",0,c"]
    put(tmp_path, "in/a.csv", b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n6,1,bad \xff\r\n7,\xff,fine\r\n")
    put(tmp_path, "in/b.csv.gz", gzip.compress(b"user id,x,item\n8,0,zip\n"))
    good, problems = read(spark, tmp_path / "in", "csv", USER_ITEM)
    assert good == sorted([("1", 'a, "b"'), ("2", "ж"), ("5", None), (None, "c"), ("7", "fine"), ("8", "zip")], key=str)
    assert problems == ["broken UTF-8: bad \ufffd", "not a row of this CSV: 3,0", "not a row of this CSV: 4,0,z,1"]


BROKEN = """user id,item
1,"a
b"
2,c
3,"x ""y\"""
4,"open
5,5" disc
user id,item
6,"p,"
7,d,e
8,"
"""


def test_a_quote_that_is_open_at_the_end_of_a_line_is_told(spark, tmp_path):
    path = put(tmp_path, "a.csv", BROKEN)
    good, problems = read(spark, path, "csv", USER_ITEM, multiline=False)
    assert good == [("2", "c"), ("3", 'x "y"'), ("5", '5" disc'), ("6", "p,")]
    lines = ['1,"a', 'b"', '4,"open', '8,"']
    expected = ["not a row of this CSV: 7,d,e", "the names of the columns once more: user id,item"]
    hint = "not a row of this CSV, a quote is open at its end (set input.multiline=true): "
    assert problems == sorted([*expected, *(hint + line for line in lines)])
    # Where there is no such option.
    _, problems = read(spark, path, "csv", USER_ITEM)
    assert problems == sorted([*expected, *(hint.replace(" (set input.multiline=true)", "") + line for line in lines)])


def test_line_breaks_in_quotes(spark, tmp_path):
    put(tmp_path, "in/a.csv", 'item,x y,user id\r\n"a\r\nb",,1\r\nc,,2\r\nd,3\r\ne,,4,5\r\n')
    put(tmp_path, "in/b.csv", b'\xef\xbb\xbf"item","x y","user id"\n"""q"",\n",0,6\n\n"bad \xff",,7\n')
    good, problems = read(spark, tmp_path / "in", "csv", USER_ITEM, multiline=True)
    assert good == [("1", "a\nb"), ("2", "c"), ("6", '"q",\n')]
    assert problems == ["broken UTF-8: bad \ufffd", "not a row of this CSV: d,3", "not a row of this CSV: e,,4,5"]


def test_names_of_columns_that_are_no_names_elsewhere(spark, tmp_path):
    path = put(tmp_path, "a.csv", "a.b,c`d,_metadata,origin,_not_a_row,E\n1,2,3,4,5,6\n")
    columns = dict(zip("uvwxyz", ["a.b", "c`d", "_metadata", "origin", "_not_a_row", "E"], strict=True))
    assert read(spark, path, "csv", columns) == ([("1", "2", "3", "4", "5", "6")], [])


def test_csv_without_a_header_and_with_tabs(spark, tmp_path):
    path = put(tmp_path, "a.tsv", "1\tone, two\n2\tthree\n")
    good, problems = read(spark, path, "csv", {"key": "_c0", "item": "_c1"}, separator="\t", header=False)
    assert good == [("1", "one, two"), ("2", "three")] and not problems


def test_json_lines(spark, tmp_path):
    records = [
        {"user id": 1, "item": "a"}, {"user id": 1.5, "item": True}, {"user id": None, "item": "\ud83d\ude00"},
        {"item": 10**20}, {"user id": [1], "item": "a"}, {"user id": 2, "item": {"a": 1}},
    ]  # fmt: skip
    lines = [json.dumps(record).encode() for record in records]
    lines += [b"", b"oops", b'["item"]', b'{"item": "\xff"}']
    path = put(tmp_path, "a.json", b"\xef\xbb\xbf" + b"\n".join(lines))
    good, problems = read(spark, path, "json", USER_ITEM)
    smile = "\U0001f600"
    assert good == sorted([("1", "a"), ("1.5", "true"), (None, smile), (None, "1" + "0" * 20)], key=str)
    assert problems == [
        'broken UTF-8: {"item": "\ufffd"}',
        "no simple value under item: " + lines[5].decode(),
        "no simple value under user id: " + lines[4].decode(),
        "not JSON: oops",
        'not a JSON object: ["item"]',
    ]


def test_tables_keep_their_types(spark, tmp_path):
    when = datetime.datetime(2026, 11, 21, 1, 2, 3, 456789)
    table = pa.table({
        "origin": pa.array([1, None], pa.int16()), "problem": ["a", None],
        "t": pa.array([when, None], pa.timestamp("us")),
        "d": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(5, 2)), "day": pa.array([when.date(), None]),
        "f": [True, None], "list": [[1], [2]],
    })  # fmt: skip
    pq.write_table(table, put(tmp_path, "p/a.parquet", b""))
    # The first two names are those of the result's own columns.
    columns = {"input.src": "origin", "input.dst": "problem", "when": "t", "d": "d", "day": "day", "f": "f"}
    expected = [(1, "a", when, decimal.Decimal("1.50"), when.date(), True), (None,) * 6]
    typed = {"typed": list(columns)}
    assert read(spark, tmp_path / "p", "parquet", columns, **typed) == (expected, [])
    frame = spark.read.parquet(str(tmp_path / "p"))
    frame.write.format("delta").save(str(tmp_path / "d"))
    assert read(spark, tmp_path / "d", "delta", columns, **typed) == (expected, [])
    frame.write.saveAsTable("tabular_here")
    assert read(spark, "default.tabular_here", "parquet", columns, **typed) == (expected, [])
    spark.sql("drop table tabular_here")
    with pytest.raises(BadData, match=r"found a Delta table, need Parquet files; set input.format=delta"):
        tabular.read(spark, str(tmp_path / "d"), "parquet", {"input.src": "origin"})
    with pytest.raises(SchemaMismatch, match=r"column 'list' is array<bigint>, need text.*; set input.item"):
        tabular.read(spark, str(tmp_path / "p"), "parquet", {"input.item": "list"})


def test_text_of_tables_may_be_broken(spark, tmp_path):
    # Arrow does not look at the bytes either.
    text = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"okx\xff")]
    )
    pq.write_table(pa.table({"user id": [1, 2], "item": text}), put(tmp_path, "p/a.parquet", b""))
    good, problems = read(spark, tmp_path / "p", "parquet", USER_ITEM)
    assert good == [("1", "ok")] and problems == ["broken UTF-8: x\ufffd"]


@pytest.mark.parametrize(
    ("path", "format", "columns", "error", "message"),
    [
        ("nothing", "csv", {}, BadData, "nothing: no such file or folder"),
        ("nothing", "delta", {}, BadData, "nothing: "),
        ("empty", "json", {}, BadData, "no such file, or a folder without files"),
        ("empty", "parquet", {}, BadData, "cannot be read as parquet"),
        ("packed", "csv", {}, BadData, "b.csv.gz: the file cannot be read (Not a gzipped file"),
        ("orders", "csv", {}, BadData, "is m,n: the first line has not the names of columns of the other files (n, m)"),
        ("nanos", "parquet", {}, BadData, "(TIMESTAMP(NANOS,false)), column n; write the column as text, or times"),
        ("csv", "delta", {}, BadData, "cannot be read as delta"),
        ("csv", "parquet", {}, BadData, "cannot be read as parquet: it is no Parquet file; correct path or format"),
        ("csv", "json", {"input.key": "n"}, BadData, "none of the first 2 lines is JSON"),
        ("json", "json", {"input.key": "m"}, SchemaMismatch, "has a key 'm' (keys found: n); set input.key"),
        ("csv", "csv", {"input.key": "m"}, SchemaMismatch, "no column 'm' (columns: n, text); set input.key"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_named_at_once(spark, tmp_path, path, format, columns, error, message):
    (tmp_path / "empty").mkdir()
    put(tmp_path, "json/a.json", '{"n": 1}\n')
    put(tmp_path, "csv/a.csv", "n,text\n1,a\n")
    put(tmp_path, "packed/b.csv.gz", "n,text\n1,a\n")
    put(tmp_path, "orders/a.csv", "n,m\n1,a\n" * 9)
    put(tmp_path, "orders/b.csv", "m,n\na,1\n")
    pq.write_table(pa.table({"n": pa.array([1], pa.timestamp("ns"))}), put(tmp_path, "nanos/a.parquet", b""))
    with pytest.raises(error, match=re.escape(message)) as caught:
        tabular.read(spark, str(tmp_path / path), format, columns or {"input.key": "n"})
    assert str(tmp_path / path) in str(caught.value) and "SQLSTATE" not in str(caught.value)
