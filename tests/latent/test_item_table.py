"""Items of a latent space from tables and files: titles and tags by id, and what cannot be read."""

import pytest
from fake_run import FakeRun

from embedall_spark.config import parse
from embedall_spark.errors import ConfigError, SchemaMismatch
from embedall_spark.latent import item_table
from embedall_spark.latent.config import LatentInput
from embedall_spark.sources import input_version

NAMED = {"id": "file", "title": "name", "tags": "words", "tags_separator": "|"}


def source(path, columns=None, **options):
    values = {"path": "images", "items": str(path), "item_columns": columns or {}, **options}
    return parse(LatentInput, values)


def rows(run, config):
    return sorted(tuple(row) for row in item_table.load(run, config).collect())


def test_csv_with_its_own_columns_and_bad_rows(spark, tmp_path):
    text = 'file,name,words,price\n7,"Red, hat", a |b|,1\n8,,,2\n7,Zebra,,3\nbroken\n,No id,,4\n'
    (tmp_path / "titles.csv").write_text(text)
    config, run = source(tmp_path / "titles.csv", NAMED), FakeRun(spark, tmp_path / "run")
    item_table.check(config)
    assert rows(run, config) == [("7", "Red, hat", ["a", "b"], None), ("8", None, None, None)]
    assert item_table.refuse(run, config) == 2 and run.made == ["items"]
    reasons = {(row.origin, row.reason, row.record) for row in run.rejects[0].collect()}
    assert reasons == {
        (config.items, "not a row of this CSV", "broken"),
        (config.items, "no id", '{"title":"No id"}'),
    }
    assert item_table.version(spark, config) == input_version.storage_of(config.items, "csv").version(spark)


def test_the_other_formats(spark, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 7.0, "title": "Hat", "tags": ["a", " b"]}\n{"id": 8, "tags": []}\nno\n')
    (tmp_path / "b.tsv").write_text("7\tHat\n8\tCap\n")
    items = spark.createDataFrame([(7.0, 5, "x")], "id double, title int, label string")
    items.write.parquet(str(tmp_path / "c.parquet"))
    items.selectExpr("id", "array('a', null) tags").write.format("delta").save(str(tmp_path / "d"))
    for name, need in [
        ("a.jsonl", [("7", "Hat", ["a", "b"], None), ("8", None, [], None), (None, None, None, None)]),
        ("b.tsv", [("7", "Hat", None, None), ("8", "Cap", None, None)]),
        ("c.parquet", [("7", "5", None, "x")]),
        ("d", [("7", None, ["a"], None)]),
    ]:
        items = item_table.read(spark, source(tmp_path / name)).collect()
        assert [tuple(row)[:4] for row in items] == need, name
        assert [row.problem for row in items if row.id is None] == ["not JSON: no"] * (name == "a.jsonl")


def test_what_is_missing_is_named_before_anything_is_computed(spark, tmp_path):
    (tmp_path / "titles.csv").write_text("file,name\n7,Hat\n")
    (tmp_path / "twice.csv").write_text("id,title,title\n7,Hat,Cap\n")
    (tmp_path / "titles.txt").write_text("7,Hat\n")
    for name, columns, text in [
        ("titles.csv", {"title": "name"}, r"no column 'id' \(columns: file, name\); set input\.item_columns\.id"),
        ("titles.csv", {"id": "file", "title": "nam"}, r"no column 'nam' .*set input\.item_columns\.title"),
        ("titles.csv", {"id": "file"}, r"no column 'title' or 'tags' .*: id, name\); set input\.item_columns\."),
        ("twice.csv", {}, "two columns are called 'title'"),
        ("twice.csv", {"id": "title"}, "several columns 'title'"),
    ]:
        with pytest.raises((ConfigError, SchemaMismatch), match=text):
            item_table.read(spark, source(tmp_path / name, columns))
    for name, text in [("titles.txt", "the name tells no format; need .csv"), ("no.csv", "correct input.items")]:
        with pytest.raises(ConfigError, match=text):
            item_table.check(source(tmp_path / name))
