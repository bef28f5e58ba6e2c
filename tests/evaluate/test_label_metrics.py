from __future__ import annotations

import gzip
import logging

import numpy as np
import pytest
from vector_tables import table

from embedall_spark.config import parse
from embedall_spark.errors import BadData, ConfigError, SchemaMismatch
from embedall_spark.evaluate import label_metrics, node_classification
from embedall_spark.evaluate.label_metrics import Metadata

IDS = [f"é{i:03}" for i in range(120)]


def rows(df):
    return sorted(tuple(row) for row in df.collect())


@pytest.fixture(scope="module")
def data():
    """Return vectors of three groups, and the labels of all but every tenth id: its group, and odd ones "odd" too."""
    rng = np.random.default_rng(3)
    group = np.arange(120) % 3
    matrix = (rng.normal(size=(3, 8))[group] * 1.5 + rng.normal(size=(120, 8))).astype(np.float32)
    has = {
        name: {f"g{group[i]}"} | ({"odd"} if i % 2 else set()) for i, name in enumerate(IDS) if i % 10 and i % 3 != 2
    } | {name: {"g2"} for i, name in enumerate(IDS) if i % 10 and i % 3 == 2}
    return matrix, has


@pytest.fixture(scope="module")
def tables(spark, data):
    matrix, has = data
    pairs = [(name, label, None) for name, some in has.items() for label in some] + [("not in the table", "g1", None)]
    known = spark.createDataFrame([*pairs, (IDS[0], None, "a title")], "id string, label string, title string")
    return table(spark, IDS, matrix, partitions=3).cache(), known.cache()


def test_files_with_and_without_a_header(spark, tmp_path, caplog):
    (tmp_path / "bare.tsv").write_text("1\ta b\n2\tc\n1\td\n1\ta b\n\t\n3\t\n")
    found = label_metrics.read(spark, Metadata(path=str(tmp_path / "bare.tsv")))
    assert rows(found)[:3] == [("1", "a b", None), ("1", "d", None), ("2", "c", None)]
    assert [row.id for row in found.where("label is null").collect()] == ["3"]
    names = label_metrics.read(spark, Metadata(path=str(tmp_path / "bare.tsv"), label=None, title="title"))
    assert ("1", None, "a b") in [tuple(row) for row in names.collect()]
    with gzip.open(tmp_path / "movies.csv.gz", "wt") as file:
        file.write('\ufeffmovieId,title,genres\r\n1,"Toy, Story",A|B.c|\r\n2,"broken" so,A\r\n3,Heat,\r\n')
    config = Metadata(path=str(tmp_path / "movies.csv.gz"), id="movieId", label="genres", title="title", split="|")
    with caplog.at_level(logging.WARNING):
        found = label_metrics.read(spark, config)
    assert set(map(tuple, found.where("label is not null and id != '2'").collect())) == {
        ("1", "A", "Toy, Story"),
        ("1", "B.c", "Toy, Story"),
    }
    assert {(row.id, row.title) for row in found.collect()} >= {("1", "Toy, Story"), ("3", "Heat")}
    with pytest.raises(SchemaMismatch, match="no column 'id'"):
        label_metrics.read(spark, Metadata(path=str(tmp_path / "movies.csv.gz"), label="genres"))


def test_other_formats_ids_of_any_type_and_rows_that_cannot_be_read(spark, tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text('{"id": 7, "label": "x"}\nnot json\n{"id": null, "label": "y"}\n')
    with caplog.at_level(logging.WARNING):
        assert rows(label_metrics.read(spark, Metadata(path=str(tmp_path / "a.jsonl")))) == [("7", "x", None)]
    assert "1 rows cannot be read and are left out; not JSON: not json" in caplog.text
    frame = spark.createDataFrame([(7, 1.5), (8, None)], "node bigint, class double")
    frame.write.parquet(str(tmp_path / "a.parquet"))
    frame.write.format("delta").save(str(tmp_path / "a"))
    for name in ("a.parquet", "a"):
        found = label_metrics.read(spark, Metadata(path=str(tmp_path / name), id="node", label="class"))
        assert {tuple(row) for row in found.collect()} == {("7", "1.5", None), ("8", None, None)}
    with pytest.raises(BadData, match="no such file"):
        label_metrics.read(spark, Metadata(path=str(tmp_path / "none.tsv")))


def test_a_file_must_be_there_and_its_name_tell_the_format(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("a\tb\n")
    for path, message in (
        (file, "labels.txt: the name tells no format; need .csv, .tsv"),
        ("none.tsv", "none.tsv: no such"),
    ):
        with pytest.raises(ConfigError, match=message):
            label_metrics.check(Metadata(path=str(path)))
    label_metrics.check(Metadata(path=str(tmp_path)))


def test_labels_that_are_parts_of_the_ids(spark):
    vectors = table(spark, ["a.b.c", "a", ".d"], np.eye(3))
    found = label_metrics.read(spark, Metadata(prefix="."), vectors)
    assert {tuple(row) for row in found.collect()} == {("a.b.c", "a", None), ("a", "a", None), (".d", None, None)}
    with pytest.raises(ConfigError, match="needs a table of vectors"):
        label_metrics.read(spark, Metadata(prefix="."))


@pytest.mark.parametrize(
    "wrong", [{}, {"path": "a", "prefix": "."}, {"path": "a", "label": None}, {"path": "a", "split": ""}]
)
def test_one_source_with_something_in_it(wrong):
    with pytest.raises(ConfigError):
        parse(Metadata, wrong)


def test_purity_same_as_brute_force(tables, data):
    matrix, has = data
    at = [i for i, name in enumerate(IDS) if name in has]
    units = matrix[at] / np.linalg.norm(matrix[at], axis=1, keepdims=True)
    cosines = units @ units.T - 2 * np.eye(len(at))
    sets = [has[IDS[i]] for i in at]
    near = [[bool(sets[row] & sets[j]) for j in np.argsort(-cosines[row])[:7]] for row in range(len(at))]
    pairs = [bool(a & b) for i, a in enumerate(sets) for j, b in enumerate(sets) if i != j]
    found = label_metrics.purity(*tables, 7)
    assert found == pytest.approx({"purity/neighbours": np.mean(near), "purity/chance": np.mean(pairs)})
    few = label_metrics.purity(*tables, 7, limit=40, seed=2)
    assert few == label_metrics.purity(tables[0].repartition(7), tables[1].repartition(1), 7, limit=40, seed=2)
    assert few != found
    assert few["purity/neighbours"] == pytest.approx(found["purity/neighbours"], abs=0.1)


def test_classification_is_that_of_the_labelled_ids_whatever_the_partitioning(tables, data):
    matrix, has = data
    at = [i for i, name in enumerate(IDS) if name in has]
    names = ["g2", "g0", "g1", "odd"]
    counts = {name: sum(name in has[IDS[i]] for i in at) for name in names}
    names = sorted(names, key=lambda name: (-counts[name], name))
    member = np.array([[name in has[IDS[i]] for name in names] for i in at])
    expected = node_classification.learn(matrix[at], member, (0.5, 0.05), 2, 9)
    found = label_metrics.classification(tables[0].repartition(5), tables[1].repartition(3), (0.5, 0.05), 2, seed=9)
    assert list(found) == label_metrics.figures((0.5, 0.05))
    assert list(found.values()) == [value for learnt in expected for f1 in learnt for value in f1]
    assert found["classification/micro_f1_50"] > found["classification/majority_micro_f1_50"] + 0.2
    assert found["classification/macro_f1_5"] > 0


def test_limits_and_tables_without_labels(tables, caplog, monkeypatch):
    vectors, known = tables
    nothing = known.where("label = 'none such'")
    assert label_metrics.purity(vectors, nothing) == {}
    assert label_metrics.classification(vectors, nothing) == {}
    assert "0 ids of the table have one" in caplog.text
    monkeypatch.setattr(label_metrics, "MAX_LABELS", 2)
    with caplog.at_level(logging.INFO):
        label_metrics.classification(vectors, known, (0.5,), 1, limit=50)
    assert "4 different ones; the most frequent 2 are looked at" in caplog.text
