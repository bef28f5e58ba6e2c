# ruff: noqa: RUF001
"""Lines of files in every encoding and division, against Python's own reading of them. No Spark."""

import bz2
import codecs
import gzip
import random

import pyarrow as pa
import pytest

from embedall_spark.errors import BadData
from embedall_spark.sources import line_reader
from embedall_spark.sources.input_files import InputFile


def read(path, step=None, encoding="utf-8", max_bytes=1 << 24, option=None, monkeypatch=None):
    """Return (value, first, problem) of each line, read in parts of ``step`` bytes."""
    if step:
        monkeypatch.setattr(line_reader, "_MAX_PART", step)
        monkeypatch.setattr(line_reader, "_MIN_PART", step)
        monkeypatch.setattr(line_reader, "_FILE_COST", 0)
    bins = line_reader.divide([InputFile(str(path), path.stat().st_size, 0)], encoding, 1)
    rows = []
    for part in (part for parts in bins for part in parts):
        for lines in line_reader.read(part, encoding, max_bytes, option):
            values = [bytes(value.as_buffer()) for value in lines.values]
            rows += [(value, lines.first and at == 0, lines.problem) for at, value in enumerate(values)]
    return rows


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_each_line_is_read_once_however_a_file_is_divided(tmp_path, monkeypatch, mark):
    draw = random.Random(5)
    monkeypatch.setattr(line_reader, "CHUNK", 7)
    path = tmp_path / "a.txt"
    for _ in range(60):
        pieces = [draw.choice(["a", "bc", "ж", "\n", "\n", "\r\n", "\r", " "]) for _ in range(draw.randrange(1, 40))]
        content = "a" + "".join(pieces) + draw.choice(["", "\n"])
        path.write_bytes(mark + content.encode())
        expected = content.replace("\r\n", "\n").replace("\r", "\n").encode().removesuffix(b"\n").split(b"\n")
        for step in (1, 3, 8, 1000):
            rows = read(path, step, max_bytes=1000, monkeypatch=monkeypatch)
            assert [row[0] for row in rows] == expected
            assert [row[1] for row in rows] == [True, *[False] * (len(rows) - 1)][: len(rows)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1251"])
def test_encodings_by_their_mark_or_by_name(tmp_path, monkeypatch, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes("жук one\r\n\nдом\n".encode(encoding))
    name = "utf-8" if encoding in ("utf-16", "utf-32") else encoding
    lines = ["жук one".encode(), b"", "дом".encode()]
    assert [row[0] for row in read(path, 5, name, monkeypatch=monkeypatch)] == lines
    if encoding == "utf-16-le":
        path.write_bytes(codecs.BOM_UTF16_LE + path.read_bytes())
        assert [row[0] for row in read(path, None, name)] == lines


def test_what_is_no_utf8_is_refused_with_what_to_do(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.txt").write_bytes("alpha beta\n".encode(encoding))
        with pytest.raises(BadData, match=rf"a\.txt: .*if it is UTF-16 set input\.encoding={encoding}$"):
            read(tmp_path / "a.txt")
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + bytes(100) + b"abc")
    with pytest.raises(BadData, match=r"a\.db: not a text file in UTF-8.*move it out of the input"):
        read(tmp_path / "a.db")
    # What an encoding has not is refused as broken bytes are.
    (tmp_path / "a.txt").write_bytes("ok\n".encode("cp932") + b"bad \x85\n")
    assert [row[0] for row in read(tmp_path / "a.txt", None, "cp932")] == [b"ok", b"bad \xff"]


@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_a_long_line_is_read_in_pieces_or_refused(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(line_reader, "CHUNK", chunk)
    words = [f"w{i % 4999}ж" for i in range(3000)]
    path = tmp_path / "a.txt"
    path.write_text("short\n" + " ".join(words) + "\nlast\n" + "x" * 999 + "\n")
    for step in (None, 500):
        values = [row[0].decode() for row in read(path, step, max_bytes=100, monkeypatch=monkeypatch)]
        assert max(len(value.encode()) for value in values) <= 100
        assert values[0] == "short" and " ".join(values).split()[1:3002] == [*words, "last"]
        assert "".join(values[-10:]) == "x" * 999
    rows = read(path, None, max_bytes=100, option="input.limit")
    assert [row[0] for row in rows if row[2] is None] == [b"short", b"last"]
    assert [row[2] for row in rows if row[2]] == ["line over 100 bytes (input.limit)"] * 2


def test_archives_and_what_is_broken_about_them(tmp_path):
    for name, content in (
        ("a.gz", gzip.compress(b"one\n") + gzip.compress(b"two")),
        ("a.bz2", bz2.compress(b"one\ntwo")),
    ):
        (tmp_path / name).write_bytes(content)
        assert [row[0] for row in read(tmp_path / name)] == [b"one", b"two"]
        (tmp_path / name).write_bytes(content[:-5])
        with pytest.raises(BadData, match=rf"{name}: the file cannot be read \(.*\); mend, replace or remove it"):
            read(tmp_path / name)


def test_an_archive_of_far_more_than_its_size_is_refused(tmp_path):
    content = b"the same line\n" * (1 << 17)
    for name, packed in (("a.bz2", bz2.compress(content)), ("a.zst", pa.compress(content, "zstd", asbytes=True))):
        assert len(content) > 1000 * len(packed)
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(
            BadData, match=rf"{name}: unpacks to more than 1100 times its size; unpack it, or remove it"
        ):
            read(tmp_path / name, max_bytes=100)
    # The most that gzip can do.
    (tmp_path / "a.gz").write_bytes(gzip.compress(content, 9))
    assert len(read(tmp_path / "a.gz", max_bytes=100)) == 1 << 17
