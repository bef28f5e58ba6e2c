from __future__ import annotations

import gzip

import numpy as np
import pytest
from gensim.models import KeyedVectors
from gensim.test.utils import datapath

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.sources import word2vec_import, word2vec_parser


def write(tmp_path, content, name="vectors"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def records(path, layout="auto"):
    """Read without Spark."""
    head = word2vec_parser.head(path, layout)
    parts = list(word2vec_parser.read(path, head))
    return [name for ids, _ in parts for name in ids], np.concatenate([matrix for _, matrix in parts])


@pytest.mark.parametrize("chunk", [7, 4 << 20])
@pytest.mark.parametrize("binary", [False, True])
def test_what_gensim_writes(tmp_path, monkeypatch, chunk, binary):
    monkeypatch.setattr(word2vec_parser, "_CHUNK", chunk)
    peer = KeyedVectors(3)
    peer.add_vectors(["дом", "a", "b"], np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32))
    path = str(tmp_path / "peer")
    peer.save_word2vec_format(path, binary=binary)
    ids, matrix = records(path)
    assert ids == ["дом", "a", "b"]
    np.testing.assert_array_equal(matrix, peer.vectors)


def test_a_real_binary_file():
    path = datapath("euclidean_vectors.bin")
    peer = KeyedVectors.load_word2vec_format(path, binary=True)
    ids, matrix = records(path)
    assert ids == peer.index_to_key
    np.testing.assert_array_equal(matrix, peer.vectors)


def test_glove_compressed_and_words_with_spaces(spark, tmp_path):
    text = "the 0.1 0.2 -3e-5\n. . . 1 2 3\nat name@x.com 1 2 4\nthe 9 9 9\n"
    path = write(tmp_path, gzip.compress(text.encode()), "glove.txt.gz")
    actual = word2vec_import.read(spark, path, run_id="r")
    assert (actual.rows, actual.duplicates, actual.vector_size) == (4, 1, 3)
    rows = {row.id: row.vector for row in actual.vectors.collect()}
    assert rows == {
        "the": np.array([0.1, 0.2, -3e-5], np.float32).tolist(),
        ". . .": [1, 2, 3],
        "at name@x.com": [1, 2, 4],
    }


def test_trailing_blanks_as_the_c_tool_writes_them(tmp_path):
    ids, matrix = records(write(tmp_path, "2 2\r\n</s> 0.5 1.5 \r\na 1 2 \r\n"))
    assert ids == ["</s>", "a"]
    assert matrix.tolist() == [[0.5, 1.5], [1, 2]]


ROWS = [[1, 2, 3], [1, 2, 4]]


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("\ufeff2 3\na 1 2 3\nb 1 2 4\n", ["a", "b"]),
        ("\ufeffthe 1 2 3\nb 1 2 4\n", ["the", "b"]),
        ("2\t3\na\t1\t2\t3\nb\t1\t2\t4\n", ["a", "b"]),
        ("a\t1\t2\t3\nb 1  2 4", ["a", "b"]),
        ("2 3\nNew York 2024 1 2 3\nWindows 1 2 4\n", ["New York 2024", "Windows"]),
        ("2 3\nthe 1 2 3\nWindows 10 1 2 4\n", ["the", "Windows 10"]),
        ("New York 1 2 3\nb 1 2 4\n", ["New York", "b"]),
    ],
)
@pytest.mark.parametrize("chunk", [2, 4 << 20])
def test_marks_tabs_and_words_that_end_in_numbers(tmp_path, monkeypatch, content, ids, chunk):
    monkeypatch.setattr(word2vec_parser, "_CHUNK", chunk)
    names, matrix = records(write(tmp_path, content))
    assert names == ids and matrix.tolist() == ROWS


@pytest.mark.parametrize("header", ["2 120000\n", ""])
def test_a_row_may_be_longer_than_what_is_looked_at_first(tmp_path, header):
    values = " ".join(["0.123456789"] * 120_000)
    names, matrix = records(write(tmp_path, f"{header}a {values}\nb {values}\n"))
    assert names == ["a", "b"] and matrix.shape == (2, 120_000)


F4 = np.array([1, 2], "<f4").tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: need 'ROWS DIMENSION'"),
        ("just some words\nof text\n", "line 1: need 'ROWS DIMENSION'"),
        ("0 5\n", "holds no vectors"),
        ("2 2\na 1 2\n", "has 1 rows, its header says 2"),
        ("1 2\na 1 2\nb 1 2\n", "has 2 rows, its header says 1"),
        ("2 2\na 1 2\nb 1\n", "line 3: need a word and 2 numbers, as the header says, found b'b 1'"),
        ("2 3\na 1 2\nb 5 6\n", "line 2: need a word and 3 numbers, as the header says, found b'a 1 2'"),
        ("2 2\na 1 2 3\nb 1 2 3\n", "line 2: .* as the header says, found more in each line, such as b'a 1 2 3'"),
        ("a 1 2\nb 1 2\nc 1 2 3\n", "line 3: more than 2 numbers after the word"),
        ("2 3\na 1 2 3\n".encode("utf-16"), "in UTF-16, by its byte order mark; write it in UTF-8"),
        ("2 2\na 1 2\nb 1 x\n", "line 3: need a number, found b'x'"),
        ("a 1 2\nb 1 2\nc 1,5 2\n", "line 3: need a number, found b'1,5'"),
        ("a 1 2\nb nan 2\n", "line 2: a value is not finite"),
        ("a 1 2\n\nb 1 2\n", "line 2: need a word"),
        (b"a 1 2\n\xff\xfe 1 2\n", "line 2: the id .* is not UTF-8"),
        (b"2 2\na " + F4 + b"b " + F4[:5], "row 2: the file ends here; its header says 2 rows"),
        (b"3 2\na " + F4 + b"\nb " + F4 + b"\n", "row 3: the file ends here"),
        (b"1 2\na " + F4 + b"\nb " + F4, "goes on after row 1"),
        (b"1 2\n\xff " + F4, "row 1: the id .* is not UTF-8"),
        (b"1 2\n " + F4, "row 1: the id is empty"),
        (b"1 2\na " + np.array([1, np.nan], "<f4").tobytes(), "row 1: a value is not finite"),
        (b"9 100000\n" + b"\xff" * 500_000, "row 1: no space after the id"),
    ],
)
def test_broken_files_name_the_row(tmp_path, content, message):
    with pytest.raises(BadData, match=message):
        records(write(tmp_path, content))


def test_the_check_comes_before_any_row(spark, tmp_path):
    with pytest.raises(BadData, match="line 2: need a number, found b'y'"):
        word2vec_import.read(spark, write(tmp_path, "a 1 2\nb 1 y\n"), run_id="r")
    with pytest.raises(BadData, match="no word2vec binary file"):
        word2vec_import.read(spark, write(tmp_path, "a 1 2\n"), "binary", run_id="r")
    with pytest.raises(ConfigError, match="cannot be read"):
        word2vec_import.read(spark, str(tmp_path / "none"), run_id="r")
