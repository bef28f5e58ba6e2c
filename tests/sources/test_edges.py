"""Edges from every source; every way in which a row can be none has its reason."""

import gzip

import pytest

from embedall_spark import config as configs
from embedall_spark.errors import BadData, ConfigError, SchemaMismatch
from embedall_spark.sources import edges, reader_errors, tabular
from embedall_spark.sources.edges import EdgesConfig


def rows(df):
    return sorted((row.src, row.dst, row.weight) for row in df.where("problem is null").collect())


def problems(df):
    return sorted(row.problem for row in df.where("problem is not null").collect())


def test_edge_lists_have_comments_tabs_blanks_and_bad_lines(spark, tmp_path):
    file = tmp_path / "edges.txt"
    file.write_bytes(b"\xef\xbb\xbf# a comment\na b\n\n  c\t d e\t2.5\n% another\nlonely\nx   y 3\n\xff\tz\t1\n")
    actual = edges.read(spark, EdgesConfig(path=str(file)))
    assert rows(actual) == [("a", "b", None), ("c", "d e", None), ("x", "y", None)]
    assert problems(actual) == ["broken UTF-8: \ufffd\tz\t1", "fewer than 2 fields: lonely"]
    weighted = edges.read(spark, EdgesConfig(path=str(file), weight="weight"))
    assert rows(weighted) == [("c", "d e", 2.5), ("x", "y", 3.0)]
    assert len(problems(weighted)) == 3


OTHERS = """a \tb
 a\tb\t
c d\t
\te f
src dst
"New York" Boston
"x" "y"
1, 2
1, 2, 3
k,l
" the
, the
the ,
to weight more 5
"""


def test_edge_lists_as_others_write_them(spark, tmp_path):
    """Aligned columns, trailing separators, Windows, names of columns, quotes and commas; nothing but edges is one."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + OTHERS.replace("\n", "\r\n").encode())
    (tmp_path / "one line.txt").write_bytes(b"p q")
    (tmp_path / "sub").mkdir()
    for number, header in enumerate(("SRC DST", '"Source"\tTarget\tWeight', "# c\n\n% d\nfrom to")):
        (tmp_path / "sub" / f"{number}.txt").write_text(f"{header}\n1\t2\n")
    for name in ("empty.txt", "_SUCCESS", ".hidden.txt"):
        (tmp_path / name).write_bytes(b"" if name == "empty.txt" else b"z z\n")
    actual = edges.read(spark, EdgesConfig(path=str(tmp_path)))
    pairs = [*[("a", "b")] * 2, ("c", "d"), ('"x"', '"y"'), ('"', "the"), (",", "the"), ("the", ","), ("p", "q")]
    pairs += [("to", "weight"), *[("1", "2")] * 3]
    assert rows(actual) == sorted((*pair, None) for pair in pairs)
    hint = "which separates nothing in an edge list (separate by tabs or set input.format=csv)"
    assert problems(actual) == sorted([
        "src is null or empty:  e f", f'a blank in quotes, {hint}: "New York" Boston', f"commas, {hint}: 1, 2",
        f"commas, {hint}: 1, 2, 3", f"commas, {hint}: k,l",
    ])  # fmt: skip


def test_an_archive_that_breaks_off_is_named(spark, tmp_path):
    lines = "\n".join(f"{at * 7919 % 100_003} {at}" for at in range(40_000)).encode()
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(lines)[:100_000])
    (tmp_path / "good.txt").write_bytes(b"a b\n")
    message = r"/cut\.txt\.gz: the file cannot be read \(Compressed file ended before .*\); mend, replace or remove it$"
    with pytest.raises(BadData, match=message), reader_errors.translate_read_errors():
        edges.read(spark, EdgesConfig(path=str(tmp_path))).collect()


def test_a_packed_csv_with_numbers_for_names(spark, tmp_path):
    file = tmp_path / "edges.csv.gz"
    lines = b"1,2,0.5\n2,,1\n3,4,nan\n5,6,-1\n7,8,0\n9,10,inf\n11,12,much\n13,14,\n15,16,1.7e308\n17,18,5e-324\n"
    file.write_bytes(gzip.compress(b"from,to,w\n" + lines + b'19,20,"1,5"\n21,22,3.5e-2\n'))
    actual = edges.read(spark, EdgesConfig(path=str(file), format="csv", src="from", dst="to", weight="w"))
    assert rows(actual) == [("1", "2", 0.5), ("21", "22", 0.035)]
    assert problems(actual) == [
        "dst is null or empty: 2 null 1",
        "weight has a comma, need a decimal point: 19 20 1,5",
        "weight is no number: 11 12 much",
        "weight is not above 0: 5 6 -1",
        "weight is not above 0: 7 8 0",
        "weight is not finite: 3 4 nan",
        "weight is not finite: 9 10 inf",
        "weight is not from 1e-100 to 1e+100: 15 16 1.7e308",
        "weight is not from 1e-100 to 1e+100: 17 18 5e-324",
        "weight is null: 13 14 null",
    ]
    refused = tabular.rejects(actual).collect()
    assert {"weight is no number", "weight is null"} <= {row.reason for row in refused}
    assert {row.record for row in refused if row.reason == "weight is no number"} == {"11 12 much"}
    assert tabular.reject_counts(actual) == (10, 12)


def test_tables_of_any_simple_type(spark, tmp_path):
    values = [(1, 1.5, 2), (2, None, 1), (3, float("nan"), 1)]
    spark.createDataFrame(values, "src long, dst double, n int").write.parquet(f"{tmp_path}/t")
    actual = edges.read(spark, EdgesConfig(path=f"{tmp_path}/t", format="parquet", weight="n"))
    assert rows(actual) == [("1", "1.5", 2.0)]
    # What pandas writes for a missing number is none.
    assert problems(actual) == ["dst is null or empty: 2 null 1", "dst is null or empty: 3 null 1"]
    with pytest.raises(SchemaMismatch, match="no column 'weight'"):
        edges.read(spark, EdgesConfig(path=f"{tmp_path}/t", format="parquet", weight="weight"))


def test_a_graph_frame_is_its_two_tables(spark):
    class Graph:
        vertices = spark.createDataFrame([("a",), ("b",)], "id string")
        edges = spark.createDataFrame([("a", "b", 2.0), ("b", None, 1.0)], "src string, dst string, w double")

    assert rows(edges.of(Graph())) == [("a", "b", None)]
    actual = edges.of(Graph(), weight="w")
    assert rows(actual) == [("a", "b", 2.0)]
    assert problems(actual) == ["dst is null or empty: b null 1.0"]
    with pytest.raises(SchemaMismatch, match="no column cost"):
        edges.of(Graph(), weight="cost")
    Graph.vertices = Graph.vertices.withColumnRenamed("id", "name")
    with pytest.raises(SchemaMismatch, match=r"the graph's vertices have no column id \(columns: \['name'\]\)"):
        edges.of(Graph())


def test_what_is_wrong_with_the_source_is_told(spark, tmp_path):
    with pytest.raises(BadData, match="no such file or folder"):
        edges.read(spark, EdgesConfig(path=f"{tmp_path}/nothing.txt"))
    with pytest.raises(ConfigError, match=r"separator"):
        configs.parse(EdgesConfig, {"path": "x", "format": "csv", "separator": ""})
    with pytest.raises(ConfigError, match="multiline: need format: csv, found format: edgelist"):
        configs.parse(EdgesConfig, {"path": "x", "multiline": True})
