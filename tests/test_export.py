from __future__ import annotations

import bz2
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gensim.models import KeyedVectors
from sklearn.decomposition import PCA
from vector_tables import here, table

from embedall_spark import export, export_files, schemas
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.search.local_table import LocalTable
from embedall_spark.sources import word2vec_import

D = 5
IDS = ["мир", "the", "서울", "e\u0301", "#", "1.5", "naïve", "</s>", "𝄞"]


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(12)
    values = (rng.normal(size=(len(IDS), D)) * 10.0 ** rng.integers(-30, 30, size=(len(IDS), D))).astype(np.float32)
    values[0] = [0.1, -0.0, 1e-45, 16777217.0, np.finfo(np.float32).max]
    return values


@pytest.fixture(scope="module")
def vectors(spark, matrix):
    return table(spark, IDS, matrix, [9, 9, 7, 6, 5, 4, 3, 2, 1], partitions=3).cache()


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_every_bit(vectors, matrix, tmp_path, binary):
    path = str(tmp_path / "vectors")
    written = export.write(vectors, path, binary=binary)
    assert written == export.Written(len(IDS), D, 0, 0)
    assert export.write(here(vectors), f"{path}.here", binary=binary) == written
    assert (tmp_path / "vectors.here").read_bytes() == (tmp_path / "vectors").read_bytes()
    peer = KeyedVectors.load_word2vec_format(path, binary=binary)
    assert peer.index_to_key == ["the", "мир", *IDS[2:]]  # equal counts in the order of ids
    np.testing.assert_array_equal(peer.vectors[2:].view(np.int32), matrix[2:].view(np.int32))
    np.testing.assert_array_equal(peer["мир"].view(np.int32), matrix[0].view(np.int32))


def read(path, suffix):
    """Return the columns of an exported file, the vectors as float32 [n, d]."""
    if suffix == "npy":
        rows = pq.read_table(str(path).replace(".npy", ".parquet"))
        return rows, np.load(path, mmap_mode="r")
    rows = pq.read_table(path)
    return rows, None if "vector" not in rows.column_names else np.stack(rows["vector"].to_numpy())


@pytest.mark.parametrize("file_format", export_files.FORMATS)
def test_files_have_titles_labels_and_places(spark, tmp_path, file_format):
    random = np.random.default_rng(5)
    matrix = random.normal(size=(40, 6)).astype(np.float32) * 3
    matrix[7] = 0
    ids = [f"é{row:02}" for row in range(40)]
    counts = [None if row % 9 == 0 else row // 2 for row in range(40)]
    vectors = table(spark, ids, matrix, counts, partitions=3)
    known = [(name, None if row % 4 else f"title {row}", f"l{row % 3}") for row, name in enumerate(ids[:30])]
    metadata = spark.createDataFrame(known, "id string, title string, label string")
    suffix = "npy" if file_format == "npy" else "parquet"
    paths = [tmp_path / "spark" / f"x.{suffix}", tmp_path / "here" / f"x.{suffix}"]
    sides = (vectors, metadata), (here(vectors), metadata.toArrow())
    for path, side in zip(paths, sides, strict=True):
        assert export_files.write(*side, str(path), file_format) == export.Written(40, 6, 0, 0)
    (rows, values), (rows_here, values_here) = (read(path, suffix) for path in paths)
    order = sorted(range(40), key=lambda row: (counts[row] is None, -(counts[row] or 0), ids[row]))
    assert rows["id"].to_pylist() == [ids[row] for row in order]
    assert rows["title"].to_pylist() == [known[row][1] if row < 30 else None for row in order]
    assert rows["label"].to_pylist() == [known[row][2] if row < 30 else None for row in order]
    assert rows["count"].to_pylist() == [counts[row] for row in order]
    if values is not None:
        np.testing.assert_array_equal(values, matrix[order])
        np.testing.assert_array_equal(values_here, matrix[order])
    # The places are scikit-learn's principal components of unit vectors.
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    units = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)[order]
    expected = PCA(2).fit_transform(units)
    for name, column in zip("xy", expected.T, strict=True):
        places = rows[name].to_numpy()
        np.testing.assert_allclose(places * np.sign(places @ column), column, atol=1e-5)
        np.testing.assert_allclose(rows_here[name].to_numpy(), places, atol=1e-6)
    assert rows.drop_columns(["x", "y"]).equals(rows_here.drop_columns(["x", "y"]))
    if file_format == "atlas":
        assert rows["text"].to_pylist() == [known[row][1] or ids[row] if row < 30 else ids[row] for row in order]


def test_files_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a file of --format npy ends in \.npy"):
        export_files.check(f"{tmp_path}/x.parquet", "npy")
    empty = LocalTable(np.empty((0, 3), np.float32), np.empty(0, np.float32), pa.table({"id": [], "count": []}))
    with pytest.raises(BadData, match="no vectors to export"):
        export_files.write(empty, None, f"{tmp_path}/x.npy", "npy")
    wide = LocalTable(np.zeros((1, 5000), np.float32), np.zeros(1, np.float32), pa.table({"id": ["a"], "count": [1]}))
    with pytest.raises(ConfigError, match="at most 4,096 dimensions"):
        export_files.write(wide, None, f"{tmp_path}/x.npy", "npy")


@pytest.mark.parametrize("binary", [False, True])
def test_round_trip(spark, vectors, matrix, tmp_path, binary):
    path = f"file://{tmp_path}/vectors"
    export.write(vectors, path, binary=binary)
    actual = word2vec_import.read(spark, path, run_id="r")
    assert (actual.rows, actual.vector_size, actual.duplicates) == (len(IDS), D, 0)
    assert schemas.conform(actual.vectors, schemas.VECTORS).columns == actual.vectors.columns
    rows = {row.id: row for row in actual.vectors.collect()}
    assert set(rows) == set(IDS)
    for name, vector in zip(IDS, matrix, strict=True):
        np.testing.assert_array_equal(np.array(rows[name].vector, np.float32).view(np.int32), vector.view(np.int32))
        assert rows[name].norm == pytest.approx(np.linalg.norm(vector.astype(np.float64)))
        assert (rows[name]["count"], rows[name].kind, rows[name].run_id) == (None, "words", "r")


def test_whitespace_becomes_an_underscore_and_the_frequent_id_wins(spark, tmp_path):
    ids = ["new york", "new_york", "a\nb\t c", "", "x\u00a0y", "plain"]
    vectors = table(spark, ids, np.eye(6), [5, 9, 3, 2, 1, 4])
    path = str(tmp_path / "out.txt")
    written = export.write(vectors, path)
    assert written == export.Written(5, 6, 4, 1)
    assert export.write(here(vectors), f"{path}.here") == written
    assert (tmp_path / "out.txt.here").read_bytes() == (tmp_path / "out.txt").read_bytes()
    assert "4 ids had whitespace" in written.text(path)
    assert "1 of them" in written.text(path)
    peer = KeyedVectors.load_word2vec_format(path)
    assert peer.index_to_key == ["new_york", "plain", "a_b_c", "_", "x_y"]
    assert peer["new_york"][1] == 1


def test_an_empty_table_is_refused(spark, vectors, tmp_path):
    with pytest.raises(BadData, match="no vectors"):
        export.write(vectors.where("false"), str(tmp_path / "x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("ending", "open_file"), [(".gz", gzip.open), (".bz2", bz2.open)])
def test_the_ending_compresses(spark, vectors, matrix, tmp_path, ending, open_file):
    path = str(tmp_path / f"x.vec{ending}")
    export.write(vectors, path)
    with open_file(path, "rt", encoding="utf-8") as file:
        assert file.readline() == f"{len(IDS)} {D}\n"
    rows = {row.id: row.vector for row in word2vec_import.read(spark, path, run_id="r").vectors.collect()}
    assert set(rows) == set(IDS)
    np.testing.assert_array_equal(np.array(rows["서울"], np.float32), matrix[2])


def test_paths_that_are_no_file_to_write(tmp_path, monkeypatch):
    (tmp_path / "file.txt").write_text("x")
    for path, message in [
        ("", "has an empty name"),
        (f"{tmp_path}", r"is a folder; give a file in it, such as .*/vectors\.txt"),
        (f"{tmp_path}/new/", "is a folder"),
        (f"{tmp_path}/file.txt/below/x.txt", r"file\.txt is a file, so nothing can be written below it"),
    ]:
        with pytest.raises(ConfigError, match=message):
            export.check(path)
    export.check(f"{tmp_path}/file.txt")
    export.check(f"file://{tmp_path}/new/x.txt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert export.check("~/new/x.txt") == f"{tmp_path}/new/x.txt"
    assert (tmp_path / "file.txt").read_text() == "x"
