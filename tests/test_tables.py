"""Tables: one commit per write, reruns without effect, and nothing of others ever overwritten."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyspark.sql import functions as F

from embedall_spark import files, tables
from embedall_spark.errors import BadData, SchemaMismatch, TableError
from embedall_spark.schemas import REJECTS, VECTORS, conform


def vectors(spark, size, count=3, value=1.5, run_id="a", first=0):
    vector = F.array_repeat(F.lit(value).cast("float"), size)
    columns = [F.concat(F.lit("слово-한국 "), "id").alias("id"), vector.alias("vector"), F.lit(1.0).alias("norm")]
    return conform(
        spark.range(first, first + count).select(*columns, F.lit("words").alias("kind"), F.lit(run_id).alias("run_id")),
        VECTORS,
    )


def put(spark, name, size=4, run_id="a", mode="overwrite", txn_version=0, count=3, value=1.5, first=0, **more):
    df = vectors(spark, size, count, value, run_id, first)
    more = {"vector_size": size} | more
    return tables.write(spark, df, name, VECTORS, mode=mode, run_id=run_id, txn_version=txn_version, **more)


@pytest.fixture(params=["path", "catalog"])
def name(request, spark, tmp_path):
    if request.param == "path":
        return str(tmp_path / "словарь with spaces")
    table = f"spark_catalog.default.t{abs(hash(str(tmp_path)))}"
    request.addfinalizer(lambda: spark.sql(f"DROP TABLE IF EXISTS {table}"))
    return table


def test_the_life_of_a_table(spark, name):
    assert not tables.exists(spark, name)
    assert tables.version(spark, name) is None
    assert put(spark, name, comment="word vectors", metadata={"mlflow_run_id": "m1"}) == 0
    rows = tables.read(spark, name).orderBy("id").collect()
    assert [row.id for row in rows] == ["слово-한국 0", "слово-한국 1", "слово-한국 2"]
    assert rows[0].vector == [1.5] * 4
    commit = tables.history(spark, name).collect()[0]
    assert (commit.version, commit.run_id, commit.txn_version) == (0, "a", 0)
    assert json.loads(commit.metadata) == {"run_id": "a", "txn_version": 0, "mlflow_run_id": "m1"}
    quoted = files.identifier(name)
    comments = {row.col_name: row.comment for row in spark.sql(f"DESCRIBE TABLE {quoted}").collect()}
    assert comments == {field.name: field.metadata["comment"] for field in VECTORS}
    assert spark.sql(f"DESCRIBE DETAIL {quoted}").collect()[0]["description"] == "word vectors"

    # The same run again: nothing happens, whatever the mode.
    assert put(spark, name) == put(spark, name, mode="error") == 0
    with pytest.raises(TableError, match="the table exists; name another, or ask for mode overwrite"):
        put(spark, name, mode="error", run_id="b")
    # Another run with another length, and the first one again.
    assert put(spark, name, size=6, run_id="b") == 1
    assert put(spark, name, size=4, run_id="a") == 0
    assert {len(row.vector) for row in tables.read(spark, name).collect()} == {6}
    assert {len(row.vector) for row in tables.read(spark, name, version=0).collect()} == {4}
    with pytest.raises(TableError, match=r"its vectors have 6 values, those to write 5; .*vector_size"):
        put(spark, name, mode="append", size=5, run_id="c")
    with pytest.raises(TableError, match=r"3 of the ids to append are in the table already, such as 'слово-한국 0'"):
        put(spark, name, mode="append", size=6, run_id="c")
    assert put(spark, name, mode="append", size=6, run_id="c", first=3) == 2
    assert put(spark, name, mode="append", size=6, run_id="c", first=3) == 2
    assert tables.read(spark, name).count() == 6
    assert tables.version(spark, name) == 2


def test_delta_itself_skips_a_commit_that_the_history_does_not_show(spark, kept, monkeypatch):
    monkeypatch.setattr(tables, "committed", lambda *_: None)
    with pytest.raises(TableError, match="run a wrote this table before, so nothing was written"):
        put(spark, kept, txn_version=1)
    assert tables.version(spark, kept) == 2


@pytest.fixture(scope="module")
def kept(spark, tmp_path_factory):
    """A table of two commits by run a, which no test changes."""
    name = str(tmp_path_factory.mktemp("kept") / "t")
    put(spark, name, mode="append", txn_version=0)
    put(spark, name, mode="append", txn_version=1, first=3)
    return name


def test_commits_of_one_run_are_numbered(spark, kept):
    # Version 0 is the table made empty, so that writers who make it at the same time lose nothing.
    assert put(spark, kept, mode="append", txn_version=0) == 1
    assert put(spark, kept, mode="append", txn_version=1) == 2
    assert tables.read(spark, kept).count() == 6


@pytest.mark.parametrize(("value", "mode"), [("nan", "overwrite"), ("inf", "append"), ("-inf", "append")])
def test_a_value_that_is_not_finite_never_gets_in(spark, kept, value, mode):
    with pytest.raises(BadData, match="some row's vector is not 4 finite values; nothing was written"):
        put(spark, kept, mode=mode, run_id="b", value=float(value), first=6)
    assert tables.version(spark, kept) == 2


def test_other_violations(spark, kept, tmp_path):
    name = str(tmp_path / "t")
    with pytest.raises(BadData, match="vector is not 5 finite values"):
        put(spark, name, size=4, vector_size=5)
    assert not tables.exists(spark, name)
    bad = {"mode": "append", "run_id": "b", "vector_size": 4}
    context = vectors(spark, 4, first=6).withColumn("context", F.array(F.lit(1.0).cast("float")))
    with pytest.raises(BadData, match="context is not 4 finite values"):
        tables.write(spark, context, kept, VECTORS, **bad)
    gap = vectors(spark, 4, first=6).withColumn("id", F.when(F.col("id") != "слово-한국 7", F.col("id")))
    with pytest.raises(BadData, match="a required column is null"):
        tables.write(spark, gap, kept, VECTORS, **bad)
    with pytest.raises(SchemaMismatch, match="vector: need array<float>, have no such column"):
        tables.write(spark, gap.drop("vector"), kept, VECTORS, **bad)
    with pytest.raises(TableError, match="vector_size is required"):
        tables.write(spark, gap, kept, VECTORS, mode="append", run_id="b")
    # What the first one left in the folder does not keep the next from writing.
    assert put(spark, name) == 0


def test_what_others_made_is_left_alone(spark, tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(TableError, match=r"holds no Delta table, but thesis\.txt"):
        put(spark, str(folder))
    with pytest.raises(TableError, match="is a file"):
        put(spark, str(folder / "thesis.txt"))
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    other = str(tmp_path / "sales")
    spark.range(3).write.format("delta").save(other)
    for mode in ("overwrite", "append"):
        with pytest.raises(
            TableError,
            match=r"the table exists with other columns and is left as it is: .*vector: need array<float>",
        ):
            put(spark, other, mode=mode)
    assert tables.read(spark, other).count() == 3


def test_a_table_of_another_format_is_left_alone(spark):
    spark.range(2).write.format("parquet").saveAsTable("default.pq")
    try:
        with pytest.raises(TableError, match="Delta table"):
            put(spark, "default.pq")
        assert spark.table("default.pq").count() == 2
    finally:
        spark.sql("DROP TABLE default.pq")


def test_tables_that_are_not_there(spark, kept, tmp_path):
    with pytest.raises(TableError, match=r"there is no such table .*a folder that holds a Delta table"):
        tables.read(spark, str(tmp_path / "none"))
    with pytest.raises(TableError, match=r"there is no such table \(need catalog\.schema\.table; a path has a slash"):
        tables.read(spark, "default.none")
    with pytest.raises(TableError, match="none"):
        tables.history(spark, str(tmp_path / "none"))
    with pytest.raises(TableError, match=r"nocat\.default\.t: "):
        tables.read(spark, "nocat.default.t")
    with pytest.raises(TableError, match="SCHEMA_NOT_FOUND"):
        put(spark, "spark_catalog.noschema.t")
    with pytest.raises(TableError, match="Cannot time travel Delta table to version 7"):
        tables.read(spark, kept, version=7)


def test_names():
    paths = ["/a/b", "vectors", "./a.b", "s3://bucket/a.b", "dbfs:/a", "demo-output/words", "a b.c"]
    assert all(files.is_path(name) for name in paths)
    assert not any(files.is_path(name) for name in ["a.b", "main.nlp.word_vectors", "spark_catalog.default.x-1"])
    assert files.identifier("main.nlp.x-1") == "`main`.`nlp`.`x-1`"
    assert files.identifier("s3://b/it's `quoted`") == "delta.`s3://b/it's ``quoted```"
    assert files.identifier("relative").startswith("delta.`/")


def test_two_drivers_of_one_run_make_one_commit(spark, tmp_path):
    name = str(tmp_path / "t")
    with ThreadPoolExecutor(3) as pool:
        actual = list(pool.map(lambda _: put(spark, name, run_id="a"), range(3)))
    assert actual == [0] * 3
    assert tables.version(spark, name) == 0


def test_two_runs_at_once_leave_a_whole_table(spark, tmp_path):
    name = str(tmp_path / "t")

    def attempt(run_id):
        try:
            return put(spark, name, run_id=run_id, mode="error")
        except TableError as error:
            assert "exists" in str(error) or "another writer" in str(error)
            return None

    with ThreadPoolExecutor(3) as pool:
        actual = list(pool.map(attempt, ["a", "b", "c"]))
    assert sorted(actual, key=str) == [0, None, None]
    assert tables.read(spark, name).count() == 3


def test_rejects(spark, tmp_path):
    name = str(tmp_path / "rejects")
    df = spark.createDataFrame(
        [("f.txt", "broken UTF-8", "\ufffdabc", "r1"), (None, "empty document", None, "r1")], REJECTS
    )
    for run_id in ("a", "a", "b"):
        tables.write(spark, df, name, REJECTS, mode="append", run_id=run_id)
    assert tables.read(spark, name).count() == 4
    assert [row.run_id for row in tables.history(spark, name).orderBy("version").collect()] == [None, "a", "b"]
