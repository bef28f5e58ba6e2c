from __future__ import annotations

import gzip
import logging

import numpy as np
import pytest
from vector_tables import table

from embedall_spark.config import parse
from embedall_spark.errors import BadData, ConfigError, SchemaMismatch
from embedall_spark.sources import metadata
from embedall_spark.sources.metadata import Metadata, Names


def rows(df):
    return sorted(tuple(row) for row in df.collect())


def test_files_with_and_without_a_header(spark, tmp_path, caplog):
    (tmp_path / "bare.tsv").write_text("1\ta b\n2\tc\n1\td\n1\ta b\n\t\n3\t\n")
    actual = metadata.read(spark, Metadata(path=str(tmp_path / "bare.tsv")))
    assert rows(actual)[:3] == [("1", "a b", None), ("1", "d", None), ("2", "c", None)]
    assert [row.id for row in actual.where("label is null").collect()] == ["3"]
    names = metadata.read(spark, Metadata(path=str(tmp_path / "bare.tsv"), label=None, title="title"))
    assert ("1", None, "a b") in [tuple(row) for row in names.collect()]
    with gzip.open(tmp_path / "movies.csv.gz", "wt") as file:
        file.write('\ufeffmovieId,title,genres\r\n1,"Toy, Story",A|B.c|\r\n2,"broken" so,A\r\n3,Heat,\r\n')
    config = Metadata(path=str(tmp_path / "movies.csv.gz"), id="movieId", label="genres", title="title", split="|")
    with caplog.at_level(logging.WARNING):
        actual = metadata.read(spark, config)
    assert set(map(tuple, actual.where("label is not null and id != '2'").collect())) == {
        ("1", "A", "Toy, Story"),
        ("1", "B.c", "Toy, Story"),
    }
    assert {(row.id, row.title) for row in actual.collect()} >= {("1", "Toy, Story"), ("3", "Heat")}
    with pytest.raises(SchemaMismatch, match="no column 'id'"):
        metadata.read(spark, Metadata(path=str(tmp_path / "movies.csv.gz"), label="genres"))


def test_other_formats_ids_of_any_type_and_rows_that_cannot_be_read(spark, tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text('{"id": 7, "label": "x"}\nnot json\n{"id": null, "label": "y"}\n')
    with caplog.at_level(logging.WARNING):
        assert rows(metadata.read(spark, Metadata(path=str(tmp_path / "a.jsonl")))) == [("7", "x", None)]
    assert "1 rows cannot be read and are left out; not JSON: not json" in caplog.text
    frame = spark.createDataFrame([(7, 1.5), (8, None)], "node bigint, class double")
    frame.write.parquet(str(tmp_path / "a.parquet"))
    frame.write.format("delta").save(str(tmp_path / "a"))
    for name in ("a.parquet", "a"):
        actual = metadata.read(spark, Metadata(path=str(tmp_path / name), id="node", label="class"))
        assert {tuple(row) for row in actual.collect()} == {("7", "1.5", None), ("8", None, None)}
    with pytest.raises(BadData, match="no such file"):
        metadata.read(spark, Metadata(path=str(tmp_path / "none.tsv")))


def test_a_file_must_be_there_and_its_name_tell_the_format(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("a\tb\n")
    for path, message in (
        (file, "labels.txt: the name tells no format; need .csv, .tsv"),
        ("none.tsv", "none.tsv: no such"),
    ):
        with pytest.raises(ConfigError, match=message):
            metadata.check(Metadata(path=str(path)))
    metadata.check(Metadata(path=str(tmp_path)))


def test_labels_that_are_parts_of_the_ids(spark):
    vectors = table(spark, ["a.b.c", "a", ".d"], np.eye(3))
    actual = metadata.read(spark, Metadata(prefix="."), vectors)
    assert {tuple(row) for row in actual.collect()} == {("a.b.c", "a", None), ("a", "a", None), (".d", None, None)}
    with pytest.raises(ConfigError, match="needs a table of vectors"):
        metadata.read(spark, Metadata(prefix="."))


@pytest.mark.parametrize(
    "wrong", [{}, {"path": "a", "prefix": "."}, {"path": "a", "label": None}, {"path": "a", "split": ""}]
)
def test_one_source_with_something_in_it(wrong):
    with pytest.raises(ConfigError):
        parse(Metadata, wrong)


def test_all_columns_by_the_same_rule(spark, tmp_path, caplog):
    (tmp_path / "three.tsv").write_text("12\tred\tRose\t5\n13\tblue\tInk\t6\n")
    (tmp_path / "two.csv").write_text("12,Rose\n13,Ink\n")
    (tmp_path / "named.csv").write_text("key,price\n12,5\n13\n")
    three = metadata.read_all(spark, Names(path=str(tmp_path / "three.tsv")))
    assert three.columns == ["id", "label", "title", "column_4"]
    assert rows(three) == [("12", "red", "Rose", "5"), ("13", "blue", "Ink", "6")]
    # What similar and cluster read of the same file.
    titles = metadata.read(spark, Names(path=str(tmp_path / "three.tsv"), label=None, title="title"))
    assert rows(titles) == [("12", None, "Rose"), ("13", None, "Ink")]
    two = metadata.read_all(spark, Names(path=str(tmp_path / "two.csv")))
    assert (two.columns, rows(two)) == (["id", "title"], [("12", "Rose"), ("13", "Ink")])
    with caplog.at_level(logging.WARNING):
        named = metadata.read_all(spark, Names(path=str(tmp_path / "named.csv"), id="key"))
    assert (named.columns, rows(named)) == (["id", "price"], [("12", "5")])
    assert "named.csv: 1 rows cannot be read and are left out; not a row of this CSV" in caplog.text
    with pytest.raises(ConfigError, match=r"no column 'id' \(columns: key, price\); set --id-column"):
        metadata.read_all(spark, Names(path=str(tmp_path / "named.csv")), ["price"])


def test_a_file_without_header_that_lacks_a_column(spark, tmp_path):
    (tmp_path / "two.csv").write_text("12,Rose\n13,Ink\n")
    with pytest.raises(SchemaMismatch, match="has 2 columns and no header, need 3: id, label, title; write a header"):
        metadata.read(spark, Metadata(path=str(tmp_path / "two.csv"), title="title"))


def test_ids_that_are_stored_as_numbers(spark, tmp_path):
    frame = spark.createDataFrame([(12.0, "a"), (float("nan"), "b")], "node double, title string")
    frame.write.parquet(str(tmp_path / "a.parquet"))
    actual = metadata.read_all(spark, Names(path=str(tmp_path / "a.parquet"), id="node")).collect()
    assert [row.title for row in actual if row.id is None] == ["b"]
