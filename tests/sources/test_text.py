# ruff: noqa: RUF001
"""Every format and every bad input, against the rows that were put in."""

import bz2
import gzip
import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import setting

from embedall_spark.config import parse
from embedall_spark.corpus.tokenizer import TokensConfig, tokenize
from embedall_spark.errors import BadData, ConfigError, SchemaMismatch
from embedall_spark.sources import input_version, text


def read(spark, path, **options):
    rows = text.read(spark, parse(text.TextConfig, {"path": str(path), **options})).collect()
    assert all((row.text is None) == (row.problem is not None) for row in rows)
    return rows


def texts(rows):
    return sorted(row.text for row in rows if row.text is not None)


def problems(rows):
    return sorted(row.problem for row in rows if row.problem is not None)


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_lines_of_plain_gzip_and_bz2_files(spark, tmp_path):
    put(tmp_path, "a b.txt", "\ufeffone\r\nжук\n")
    put(tmp_path, "b.txt.gz", gzip.compress(b"four\n"))
    put(tmp_path, "c.txt.bz2", bz2.compress(b"five\nfive\n"))
    rows = read(spark, tmp_path)
    assert texts(rows) == ["five", "five", "four", "one", "жук"]
    assert {row.origin.rsplit("/")[-1] for row in rows} == {"a%20b.txt", "b.txt.gz", "c.txt.bz2"}
    assert texts(read(spark, tmp_path / "*.txt")) == ["one", "жук"]


def test_ids_do_not_depend_on_how_lines_are_cut_into_files(spark, tmp_path):
    lines = [f"line {i}" for i in range(20)]
    put(tmp_path, "one/a.txt", "\n".join(lines))
    for i in range(5):
        put(tmp_path, f"five/{i}.txt", "\n".join(lines[i::5]))
    one, five = ({(row.text, row.id) for row in read(spark, tmp_path / name)} for name in ("one", "five"))
    assert one == five and len({key for _, key in one}) == 20


def test_broken_bytes_of_a_line_reach_the_rejects(spark, tmp_path):
    path = put(tmp_path, "a.txt", b"good\nbad \xff\xfe here\n\nlast\n")
    documents = text.read(spark, text.TextConfig(path=str(path)))
    assert documents.where("id <> xxhash64(text)").count() == 0
    batches = documents.toArrow().combine_chunks().to_batches()
    sequences, rejects = tokenize(batches[0], TokensConfig())
    assert sequences.tokens.to_pylist() == ["good", "last"]
    assert [(reject.reason, reject.record) for reject in rejects] == [
        ("broken UTF-8", "bad \ufffd\ufffd here"),
        ("empty document", None),
    ]
    assert all(reject.origin.endswith("/a.txt") for reject in rejects)


def test_a_document_per_file(spark, tmp_path):
    put(tmp_path, "a.txt", "one\ntwo")
    put(tmp_path, "b.txt.gz", gzip.compress(b"three\nfour"))
    put(tmp_path, "empty.txt", b"")
    put(tmp_path, "long.txt", "word ж " * 1000)
    rows = read(spark, tmp_path, per="file", max_document_bytes=1000)
    pieces = [row.text for row in rows if row.text and row.origin.endswith("long.txt")]
    assert "".join(pieces) == "word ж " * 1000 and max(len(piece.encode()) for piece in pieces) <= 1000
    assert texts(row for row in rows if row.text not in pieces) == ["one\ntwo", "three\nfour"]
    # The same where the file is one line.
    assert texts(read(spark, tmp_path / "long.txt", max_document_bytes=1000)) == sorted(pieces)


def test_json_lines(spark, tmp_path):
    records = [{"text": "one", "id": 5}, {"text": 5}, {"other": 1}, {"text": None}, {"text": "Ж\n", "id": "k"}]
    lines = [json.dumps(record).encode() for record in records]
    lines += [
        b"oops",
        b'{"text": "a", "text": "b"}',
        b"  ",
        b'["text"]',
        b'{"text": "bad \xff"}',
        b'{"text": "' + b"x" * 300 + b'"}',
    ]
    put(tmp_path, "a.json", b"\n".join(lines))
    rows = read(spark, tmp_path, format="json", max_document_bytes=200)
    assert texts(rows) == ["one", "Ж\n"]
    assert problems(rows) == [
        'a key is there twice in the object: {"text": "a", "text": "b"}',
        'broken UTF-8: {"text": "bad \ufffd"}',
        f"line over 200 bytes (input.max_document_bytes): {lines[-1].decode()[:200]}",
        'no text under text: {"other": 1}',
        'no text under text: {"text": 5}',
        'no text under text: {"text": null}',
        "not JSON: oops",
        'not a JSON object: ["text"]',
    ]
    by_text = {row.text: row.id for row in read(spark, tmp_path, format="json", id_column="id")}
    hashed = spark.sql("select xxhash64('k')").first()[0]
    assert by_text["one"] == 5 and by_text["Ж\n"] == hashed


def test_csv(spark, tmp_path):
    rows = ["id,body text,z", '1,"hello, ""you""\nagain",3', "2,a,b,c", "3,x", '4,\\n "q",1', "5,,2", "x,ok,1"]
    put(tmp_path, "a.csv", "\n".join(rows).encode() + b"\n6,bad \xff,1\n")
    actual = read(spark, tmp_path, format="csv", column="body text", id_column="id")
    assert {row.text: row.id for row in actual if row.text} == {
        'hello, "you"\nagain': 1,
        '\\n "q"': 4,
        "ok": spark.sql("select xxhash64('x')").first()[0],
    }
    assert problems(actual) == [
        "broken UTF-8: bad \ufffd",
        "not a row of this CSV: 2,a,b,c",
        "not a row of this CSV: 3,x",
        "null",
    ]


def test_parquet_and_delta(spark, tmp_path):
    table = pa.table({"n": pa.array([1, 2, None], pa.int32()), "text": ["one", None, "three"], "s": ["a", "b", "c"]})
    pq.write_table(table, put(tmp_path, "p/a.parquet", b""))
    rows = read(spark, tmp_path / "p", format="parquet", id_column="n")
    assert [(row.id, row.text) for row in rows if row.text] == [(1, "one")]
    assert problems(rows) == ["n is null", "null"] and {row.origin for row in rows} == {str(tmp_path / "p")}
    spark.read.parquet(str(tmp_path / "p")).write.format("delta").save(str(tmp_path / "d"))
    rows = read(spark, tmp_path / "d", format="delta", column="s")
    assert {row.text: row.id for row in rows} == {s: spark.sql(f"select xxhash64('{s}')").first()[0] for s in "abc"}
    config = text.TextConfig(path=str(tmp_path / "d"), format="delta")
    before = input_version.version(spark, config)
    spark.read.parquet(str(tmp_path / "p")).write.format("delta").mode("append").save(str(tmp_path / "d"))
    assert before.endswith("@0") and input_version.version(spark, config) == before[:-1] + "1"


def test_a_version_follows_the_files(spark, tmp_path):
    put(tmp_path, "a.txt", "one")
    config = text.TextConfig(path=str(tmp_path))
    before = input_version.version(spark, config)
    assert input_version.version(spark, config) == before
    put(tmp_path, "b.txt", "two")
    assert input_version.version(spark, config) != before


DAMAGED = {
    "cut.txt.gz": gzip.compress(os.urandom(200_000).hex().encode())[:100_000],
    "plain.txt.gz": b"this is not gzip\n" * 10,
    "cut.txt.bz2": bz2.compress(os.urandom(200_000).hex().encode())[:100_000],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_archive_fails_and_is_named(spark, tmp_path, name):
    put(tmp_path, "good.txt", "good\n")
    put(tmp_path, name, DAMAGED[name])
    with (
        setting(spark, "spark.sql.files.ignoreCorruptFiles", "true"),
        pytest.raises(Exception, match=re.escape(name)),
    ):
        text.read(spark, text.TextConfig(path=str(tmp_path))).collect()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": "nothing"}, BadData, "nothing: no such file or folder"),
        ({"path": "nothing*.txt"}, BadData, "nothing*.txt: no such file, or a folder without files"),
        ({"path": "empty"}, BadData, "no such file, or a folder without files"),
        ({"path": "hidden"}, BadData, "found none (1 of 0 bytes; 1: the name begins with a dot)"),
        ({"path": "empty", "format": "parquet"}, BadData, "cannot be read as parquet"),
        ({"path": "lines", "format": "delta"}, BadData, "cannot be read as delta"),
        ({"path": "nothing", "format": "delta"}, BadData, "nothing: "),
        ({"path": "lines", "format": "json"}, BadData, "is JSON"),
        ({"path": "json", "format": "json", "column": "body"}, SchemaMismatch, "keys found: text, n"),
        ({"path": "csv", "format": "csv", "column": "body"}, SchemaMismatch, "(columns: n, text); set input.column"),
        ({"path": "semicolons.csv", "format": "csv"}, SchemaMismatch, "separated by ';', set input.separator to it"),
        ({"path": "csv", "format": "csv", "id_column": "key"}, SchemaMismatch, "set input.id_column"),
        ({"path": "parquet", "format": "parquet", "column": "n"}, SchemaMismatch, "'n' is bigint, need string"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_named_at_once(spark, tmp_path, options, error, message):
    (tmp_path / "empty").mkdir()
    put(tmp_path, "hidden/.a.txt", "a")
    put(tmp_path, "hidden/b.txt", "")
    put(tmp_path, "semicolons.csv", "id;text\n1;alpha beta\n")
    put(tmp_path, "lines/a.txt", "one\ntwo\n")
    put(tmp_path, "json/a.json", '{"text": "a", "n": 1}\n')
    put(tmp_path, "csv/a.csv", "n,text\n1,a\n")
    pq.write_table(pa.table({"n": [1], "text": ["a"]}), put(tmp_path, "parquet/a.parquet", b""))
    path = tmp_path / options["path"]
    with pytest.raises(error, match=re.escape(message)) as caught:
        read(spark, path, **{key: value for key, value in options.items() if key != "path"})
    assert str(path) in str(caught.value)
    assert "SQLSTATE" not in str(caught.value)


def test_csv_with_another_separator_and_without_names(spark, tmp_path):
    put(tmp_path, "a.csv", "1;alpha beta\n2;gamma\n")
    rows = read(spark, tmp_path, format="csv", separator=";", header=False, column="_c1", id_column="_c0")
    assert {row.id: row.text for row in rows} == {1: "alpha beta", 2: "gamma"}


def test_options_that_do_not_go_together():
    with pytest.raises(ConfigError, match="no text encoding that Python knows: 'nothing'"):
        parse(text.TextConfig, {"path": "x", "encoding": "nothing"})
    with pytest.raises(ConfigError, match="'zip' encodes no text"):
        parse(text.TextConfig, {"path": "x", "encoding": "zip"})
    with pytest.raises(ConfigError, match="per: file"):
        parse(text.TextConfig, {"path": "x", "format": "csv", "per": "file"})
    with pytest.raises(ConfigError, match="id_column"):
        parse(text.TextConfig, {"path": "x", "id_column": "n"})
