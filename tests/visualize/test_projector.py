"""The projector's files: read back as the projector's own server and script read them."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyspark.sql import functions as F
from vector_tables import here, table

from embedall_spark.errors import BadData, ConfigError, UnknownId
from embedall_spark.schemas import IMAGES, conform
from embedall_spark.visualize import projector, projector_format, sprites

COLORS = {"red": (220, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 220)}


def lines(content):
    """Return the metadata as the projector's script splits it: blank lines are skipped."""
    rows = [line for line in content.decode().split("\n") if line.strip("\ufeff \t\r\n\v\f\u2028\u2029\xa0")]
    return [line.split("\t") for line in rows]


def metadata(tensor):
    return lines(tensor.files[f"{tensor.name}_metadata.tsv"])


def numbers(tensor):
    return np.frombuffer(tensor.files[f"{tensor.name}.bytes"], np.float32).reshape(tensor.rows, tensor.vector_size)


def pictures(spark, names):
    """Return IMAGES of one color each, wider than high; a name without a color is no picture."""
    rows = []
    for name in names:
        content = io.BytesIO()
        Image.new("RGB", (200, 100), COLORS.get(name, "white")).save(content, "PNG")
        rows.append((name, content.getvalue() if name in COLORS else b"no picture"))
    data = pa.table(
        {
            "id": pa.array([name for name, _ in rows], pa.string()),
            "content": pa.array([row for _, row in rows], pa.binary()),
        }
    )
    return conform(spark.createDataFrame(data), IMAGES)


@pytest.mark.parametrize(
    ("text", "name"), [("a b&c", "a_b_c"), ("слова", "слова"), ("#?", "vectors"), ("v1.2", "v1.2")]
)
def test_names_fit_into_addresses(text, name):
    assert projector_format.name(text) == name


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(4).normal(size=(60, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def words(spark, matrix):
    """Sixty words, the first the most frequent, the last ten not counted."""
    counts = [*range(500, 0, -10), *[None] * 10]
    return table(spark, [f"w{at}" for at in range(60)], matrix, counts).cache()


def test_vectors_are_the_tables_in_the_order_of_their_counts(words, matrix):
    tensor = projector.tensor(words, 20)
    assert (tensor.rows, tensor.vector_size, tensor.tile) == (20, 12, 0)
    np.testing.assert_array_equal(numbers(tensor), matrix[:20])
    assert metadata(tensor) == [["id", "count"], *([f"w{at}", str(500 - 10 * at)] for at in range(20))]


def test_uncounted_ids_are_the_same_sample_however_they_are_partitioned(spark, matrix):
    names = [f"p{at}" for at in range(60)]
    results = [projector.tensor(table(spark, names, matrix, partitions=parts), 15) for parts in (1, 5)]
    results.append(projector.tensor(here(table(spark, names, matrix)), 15))
    assert results[0].files == results[1].files == results[2].files
    chosen = [row[0] for row in metadata(results[0])]
    assert len(set(chosen)) == 15 and set(chosen) < set(names) and set(chosen) != set(names[:15])
    np.testing.assert_array_equal(numbers(results[0]), matrix[[int(name[1:]) for name in chosen]])


def test_kinds_share_the_points_evenly_as_far_as_they_reach(spark, words, matrix):
    images = table(spark, ["red", "green", "w1"], matrix[50:53]).withColumn("kind", F.lit("images"))
    both = words.unionByName(images)
    kinds = [row[-1] for row in metadata(projector.tensor(both, 4))[1:]]
    assert sorted(kinds) == ["images", "images", "words", "words"]
    tensor = projector.tensor(both, 30)
    kinds = [row[-1] for row in metadata(tensor)[1:]]
    assert (kinds.count("images"), kinds.count("words")) == (3, 27)
    # The same id in both kinds is two points, each with its own vector.
    at = {(row[0], row[-1]): place for place, row in enumerate(metadata(tensor)[1:])}
    np.testing.assert_array_equal(numbers(tensor)[at["w1", "words"]], matrix[1])
    np.testing.assert_array_equal(numbers(tensor)[at["w1", "images"]], matrix[52])


def test_named_ids_only(words, matrix, caplog):
    tensor = projector.tensor(words, ids=["w7", "w3", "nobody", "w3"])
    assert [row[0] for row in metadata(tensor)[1:]] == ["w3", "w7"]
    np.testing.assert_array_equal(numbers(tensor), matrix[[3, 7]])
    assert "1 ids are not in the table: nobody" in caplog.text
    with pytest.raises(UnknownId, match="nobody"):
        projector.tensor(words, ids=["nobody"])


def test_what_is_known_becomes_columns_and_the_title_is_first(spark, words):
    titles = spark.createDataFrame(
        [
            ("w0", "a title\twith a tab", ["x", "y"], 3, "kind one", b"1"),
            ("w1", None, None, None, "kind\none", b"2"),
            ("w1", None, None, None, "another", b"2"),
            ("w99", "not shown", None, 1, "c", b"3"),
        ],
        "id string, title string, tags array<string>, year int, label string, bytes binary",
    )
    actual = metadata(projector.tensor(words, 3, metadata=titles))
    assert actual == metadata(projector.tensor(here(words), 3, metadata=titles.toArrow()))
    assert actual == [
        ["title", "id", "tags", "year", "label", "count"],
        ["a title with a tab", "w0", "x, y", "3", "kind one", "500"],
        ["w1", "w1", "", "", "another|kind one", "490"],
        ["w2", "w2", "", "", "", "480"],
    ]


NASTY = [
    "tab\tin",
    "line\nbreak",
    "cr\r\n",
    "",
    "   ",
    "\u2028",
    "\ufeff",
    "\x85",
    "long" * 200,
    "ok",
    "\x00",
    "a\x1cb",
]


def test_every_id_is_one_line(spark, matrix):
    many = table(spark, NASTY, matrix[: len(NASTY)])
    tensor = projector.tensor(many, 100)
    assert tensor.rows == len(NASTY)
    actual = metadata(tensor)
    # One column has no line of names.
    assert [len(row) for row in actual] == [1] * len(NASTY)
    assert (
        ["(blank)"] in actual
        and ["tab in"] in actual
        and ["ok"] in actual
        and max(len(row[0]) for row in actual) == 300
    )


def test_the_configuration_is_what_the_projector_reads(spark, words):
    text_format = pytest.importorskip("google.protobuf.text_format")
    pb = pytest.importorskip("tensorboard.plugins.projector", reason="needs TensorBoard")
    tensors = [projector.tensor(words, 5, name="some words"), projector.tensor(words, 7, pictures=pictures(spark, []))]
    contents = dict(projector.contents(tensors))
    assert list(contents)[-1] == projector.CONFIG
    config = text_format.Parse(contents[projector.CONFIG].decode(), pb.ProjectorConfig())
    first, second = config.embeddings
    assert (first.tensor_name, list(first.tensor_shape)) == ("some_words", [5, 12])
    assert (second.tensor_name, list(second.tensor_shape)) == ("vectors", [7, 12])
    assert not first.sprite.image_path and list(second.sprite.single_image_dim) == [64, 64]
    named = [first.tensor_path, first.metadata_path, second.tensor_path, second.metadata_path, second.sprite.image_path]
    assert sorted(contents) == sorted([*named, projector.CONFIG])


def test_the_server_reads_the_numbers_whatever_they_are(tmp_path, matrix):
    plugin = pytest.importorskip("tensorboard.plugins.projector.projector_plugin", reason="needs TensorBoard")
    round_ones = np.array([[2.0, 0.0, 32.5], [0.0, 2.0, -0.125]], np.float32)
    for values in (matrix, round_ones, np.zeros((3, 4), np.float32)):
        ending, content = projector_format.vector_file(values)
        path = tmp_path / f"tensor.{ending}"
        path.write_bytes(content)
        try:
            actual = plugin._read_tensor_tsv_file(str(path))
        except UnicodeDecodeError:
            actual = plugin._read_tensor_binary_file(str(path), values.shape)
        np.testing.assert_array_equal(actual, values)


def test_each_point_has_its_picture_or_its_text(spark, matrix, tmp_path):
    names = ["red", "a word", "green", "broken", "blue"]
    titles = spark.createDataFrame([("broken", "its title")], "id string, title string")
    rows, shown = table(spark, names, matrix[:5], range(50, 0, -10)), pictures(spark, [*names, "other"])
    tensor = projector.tensor(rows, metadata=titles, pictures=shown)
    for row in shown.collect():
        (tmp_path / row.id).write_bytes(row.content)
    paths = {name: str(tmp_path / name) for name in names}
    assert tensor == projector.tensor(here(rows), metadata=titles.toArrow(), pictures=paths)
    assert tensor.tile == 64
    sheet = np.asarray(Image.open(io.BytesIO(tensor.files["vectors_sprites.jpg"]))).astype(int)
    # Five tiles need three beside each other; the sheet is a square.
    assert sheet.shape == (192, 192, 3)
    for place, name in enumerate(names):
        tile = sheet[place // 3 * 64 :, place % 3 * 64 :][:64, :64]
        if name in COLORS:
            assert np.abs(tile[18:46, 2:62] - COLORS[name]).max() <= 12, name
            assert tile[:14].min() > 240 and tile[50:].min() > 240
        else:
            assert np.abs(tile[1:6] - 230).max() < 20 and tile.min() < 90
    assert sheet[130:, 130:].min() == 255


SHEETS = [
    (1, 1, 64),
    (4, 2, 64),
    (5, 3, 64),
    (10_000, 100, 64),
    (16_384, 128, 64),
    (16_385, 129, 63),
    (50_000, 224, 36),
]


@pytest.mark.parametrize(("count", "across", "edge"), SHEETS)
def test_a_sheet_never_exceeds_the_projectors_limit(count, across, edge):
    assert (sprites.side(count), sprites.tile(count)) == (across, edge)
    assert across**2 >= count > (across - 1) ** 2 and across * edge <= 8192


def test_texts_stay_in_their_tiles():
    texts = ["i", "W" * 40, "many short words in one title", "", "ok"]
    sheet = np.asarray(Image.open(io.BytesIO(sprites.sheet(texts, {}, texts))))
    # Tiles of text alone are gray; a letter over an edge would darken the border between them.
    for border in (64, 128):
        assert sheet[:64, border - 1 : border + 1].min() > 100
        assert sheet[border - 1 : border + 1, :64].min() > 100


def test_limits_are_named(spark, words, matrix, monkeypatch):
    with pytest.raises(ConfigError, match="50,001: need 1 to 50,000"):
        projector.tensor(words, 50_001)
    monkeypatch.setattr(projector, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="give -n 20 or less"):
        projector.tensor(words, 30)
    with pytest.raises(BadData, match="no row"):
        projector.tensor(words.where("id = 'nobody'"))
    bad = matrix[:3].copy()
    bad[1, 2] = np.nan
    with pytest.raises(BadData, match="'b' is not finite"):
        projector.tensor(table(spark, ["a", "b", "c"], bad))
