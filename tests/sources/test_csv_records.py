"""Records of CSV against Python's csv module, and quotes that are never closed. No Spark."""

import csv
import io
import random

import pytest

from embedall_spark.sources import csv_records, line_reader
from embedall_spark.sources.line_reader import Part


def read(path, max_bytes=1 << 24, separator=","):
    rows = []
    for lines in csv_records.read(Part(str(path)), "utf-8", separator, max_bytes):
        rows += [(value, lines.problem) for value in lines.values.to_pylist()]
    return rows


@pytest.mark.parametrize("separator", [",", "\t", "§"])
def test_records_are_those_of_the_csv_module(tmp_path, monkeypatch, separator):
    draw = random.Random(1)
    monkeypatch.setattr(line_reader, "CHUNK", 11)
    for ending in ("\n", "\r\n"):
        rows = [
            ["".join(draw.choices(["a", '"', "\n", separator, "ж", " "], k=draw.randrange(1, 6))) for _ in range(3)]
            for _ in range(300)
        ]
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=separator, lineterminator=ending).writerows(rows)
        path = tmp_path / "a.csv"
        path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
        records = read(path, separator=separator)
        assert not any(problem for _, problem in records)
        assert [next(csv.reader(io.StringIO(value, newline=""), delimiter=separator)) for value, _ in records] == rows


NEVER = "not a row of this CSV, a quote is never closed, line {} of the file"


@pytest.mark.parametrize("chunk", [5, 1 << 20])
def test_a_quote_that_is_never_closed_costs_its_own_line_only(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(line_reader, "CHUNK", chunk)
    path = tmp_path / "a.csv"
    rows = [f"{i},text {i}" for i in range(99)]
    path.write_text("\n".join(["id,text", *rows[:1], '1,"text 1', *rows[2:]]) + "\n")
    good = [(row, None) for row in rows]
    assert read(path) == [("id,text", None), good[0], ('1,"text 1', NEVER.format(3)), *good[2:]]
    # A later row has quotes: the first of them would close the one that is open.
    quoted = [*rows[2:50], '50,"fine, too"', '51,"a\r\nb"']
    path.write_bytes("\r\n".join(["id,text", '1,"text 1', *quoted, '52,"open']).encode())
    assert read(path) == [
        ("id,text", None), ('1,"text 1', NEVER.format(2)), *((row, None) for row in quoted[:-1]),
        ('51,"a\nb"', None), ('52,"open', NEVER.format(54)),
    ]  # fmt: skip
    path.write_text('a,"open\n' + "b,c\n" * 100 + "d,e")
    assert read(path, max_bytes=50)[:2] == [('a,"open', NEVER.format(1)), ("b,c", None)]
    assert len(read(path, max_bytes=50)) == 102
