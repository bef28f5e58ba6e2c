"""``embedall search`` and ``embedall index`` as a user calls them."""

from __future__ import annotations

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from cli_runner import answered_alike, embedall
from conftest import setting
from PIL import Image
from vector_tables import table

from embedall_spark import config, delta_files, session, table_cache, tables
from embedall_spark.cli.shared import provenance, search_query, table_snapshot
from embedall_spark.errors import ConfigError
from embedall_spark.kinds import images
from embedall_spark.schemas import VECTORS

IDS = ["red.png", "rose.png", "pink.png", "blue.png", "../sky.png", "ink.txt"]
ROWS = np.array([[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.3, 0], [0, 0, 1], [0, 0.1, 0.9], [0, 0.3, 0.8]], np.float32)
COLORS = {"red.png": (255, 0, 0), "rose.png": (250, 20, 40), "blue.png": (0, 0, 255)}


@pytest.fixture(scope="module")
def place(spark, tmp_path_factory):
    """Return a folder with a table of six pictures, what is known about them, and three of the pictures."""
    folder = tmp_path_factory.mktemp("search")
    write(spark, folder / "colors", "first")
    (folder / "known.csv").write_text(
        "id,title,kind,price\nred.png,Red <one>,warm,5\nrose.png,,warm,7\nblue.png,Blue,cold,9\nink.txt,Ink,cold,2\n"
    )
    (folder / "pictures").mkdir()
    for name, color in COLORS.items():
        Image.new("RGB", (40, 30), color).save(folder / "pictures" / name)
    # Outside of the folder of pictures, where an id from the data points.
    Image.new("RGB", (40, 30), (0, 200, 0)).save(folder / "sky.png")
    return folder


def write(spark, path, run_id):
    rows = table(spark, IDS, ROWS)
    return tables.write(spark, rows, str(path), VECTORS, mode="overwrite", run_id=run_id, vector_size=3)


def lines(result):
    assert result.code == 0, result.log
    return [line.split() for line in result.output.splitlines()]


def test_by_a_row_and_by_a_vector(place, tmp_path):
    colors = place / "colors"
    assert lines(embedall("search", colors, "--id", "red.png", "-n", 2)) == [
        ["red.png"], ["1", "rose.png", "0.994"], ["2", "pink.png", "0.936"],
    ]  # fmt: skip
    assert lines(embedall("search", colors, "--id", "red.png", "-n", 1, "--with-self"))[1:] == [
        ["1", "red.png", "1.000"]
    ]
    np.save(tmp_path / "v.npy", np.array([[0, 0, 2.0]]))
    (tmp_path / "v.json").write_text("[0, 0, 2]")
    (tmp_path / "v.txt").write_text("0, 0\n2\n")
    for name in ("v.npy", "v.json", "v.txt"):
        actual = lines(embedall("search", colors, "--vector", tmp_path / name, "-n", 2))
        assert actual == [[name], ["1", "blue.png", "1.000"], ["2", "../sky.png", "0.994"]]


def test_where_and_metadata(spark, place):
    colors, metadata_file = place / "colors", place / "known.csv"
    actual = lines(embedall("search", colors, "--id", "red.png", "--where", "id LIKE '%.txt' OR vector[2] > 0.95"))
    assert [row[1] for row in actual[1:]] == ["blue.png", "ink.txt"]
    options = ["--names", metadata_file, "--where", "names.kind = 'cold' AND price < 5", "--show", "kind,price"]
    assert lines(embedall("search", colors, "--id", "red.png", *options)) == [
        ["Red", "<one>", "[red.png]", "score", "kind", "price"],
        ["1", "Ink", "[ink.txt]", "0.000", "cold", "2"],
    ]
    titled = lines(embedall("search", colors, "--id", "Blue", "-n", 1, "--names", metadata_file))
    assert titled == [["Blue", "[blue.png]"], ["1", "../sky.png", "0.994"]]
    assert "neither an id nor a title" in embedall("search", colors, "--id", "Bleu", "--names", metadata_file).log
    for bad, why in [
        (["--where", "color = 1"], "UNRESOLVED_COLUMN"),
        (["--where", "vector[9] > 0"], "The index 9 is out of bounds"),
        (["--where", "id IN (1, 2)"], "the column id is text (string) and is compared with BIGINT, which the value '"),
        (
            ["--names", metadata_file, "--where", "title = 'Red' OR title < 5 AND price < 5"],
            "put what it is compared with in quotes, or write TRY_CAST(title AS DOUBLE)",
        ),
        (["--where", "id ="], "PARSE_SYNTAX_ERROR"),
        (["--names", metadata_file, "--where", "kind = 'cold'"], "AMBIGUOUS_REFERENCE"),
        (
            ["--names", metadata_file, "--show", "color"],
            "the metadata have no column color (columns: id, title, kind, price)",
        ),
        (["--show", "kind"], "give --names"),
        (["--names", metadata_file, "--id-column", "key"], "no column 'key'"),
    ]:
        # In a plan that is run as a whole, Spark hides the reason behind another exception.
        with setting(spark, "spark.sql.adaptive.enabled", "true"):
            result = embedall("search", colors, "--id", "red.png", *bad)
        assert (result.code, why in result.log) == (2, True), result.log
        # Spark's plans and stacks are no part of it.
        assert (len(result.log.splitlines()), "Filter" in result.log, "SQLSTATE" in result.log) == (1, False, False)
    assert embedall("search", colors, "--id", "rad.png").log.count("nearest spellings: red.png") == 1
    nothing = embedall("search", colors, "--id", "red.png", "--where", "id = 'red.png'")
    assert nothing.output.splitlines() == [
        "red.png",
        "   no row found: the table has no other row that fulfills --where",
    ]
    bare = place / "bare.csv"
    bare.write_text("red.png,warm,Red\nblue.png,cold,Blue\n")
    titled = lines(embedall("search", colors, "--id", "Blue", "-n", 1, "--names", bare, "--show", "label"))
    assert titled[0] == ["Blue", "[blue.png]", "score", "label"]


QUESTIONS = [
    ["--id", "red.png"],
    ["--id", "red.png", "-n", 2, "--with-self"],
    ["--id", "rad.png"],
    ["--id", "zero"],
    ["--vector", "v.json", "--show", "price,kind"],
    ["--id", "red.png", "--where", "norm BETWEEN 0.9 AND 1.0 AND id NOT LIKE '%.txt' OR id IN ('blue.png', 'x')"],
    ["--id", "red.png", "--where", "NOT (vectors.count IS NOT NULL) AND vectors.`kind` = 'words'"],
    ["--id", "Blue", "--where", "names.kind = 'cold' OR price >= 7", "--show", "price"],
    ["--id", "red.png", "--where", "names.kind != 'cold' AND NOT title = 'Red <one>'"],
    ["--id", "Bleu"],
]


def test_answers_without_spark_are_the_same(spark, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.json").write_text("[0, 0.3, 2]")
    # Ties, vectors of very different lengths, and one without a direction.
    ids = [*IDS, "tie", "tiny", "huge", "zero"]
    rows = np.vstack([ROWS, ROWS[1], ROWS[1] * 1e-30, ROWS[3] * 1e25, ROWS[0] * 0]).astype(np.float32)
    table(spark, ids, rows).write.format("delta").save(str(tmp_path / "many"))
    for options in QUESTIONS:
        answered_alike("search", tmp_path / "many", *options, "--names", place / "known.csv")
    first = embedall("search", place / "colors", "--id", "red.png", "--csls", 2)
    assert first == answered_alike("search", place / "colors", "--id", "red.png", "--csls", 2)
    answered_alike("analogy", tmp_path / "many", "red.png", "rose.png", "ink.txt", "--mul", "-n", 5)


def test_tables_that_need_spark_say_so(spark, place, tmp_path, monkeypatch):
    name, asked = str(tmp_path / "mapped"), []
    rows = table(spark, IDS, ROWS, partitions=1)
    rows.write.format("delta").option("delta.columnMapping.mode", "name").save(name)
    rows.unionByName(rows).write.format("delta").save(str(tmp_path / "twice"))

    def open_snapshot(*_):
        asked.append(1)
        return table_snapshot.open_local(str(place / "colors"), 1.0)

    monkeypatch.setattr(session, "is_running", lambda: False)
    monkeypatch.setattr(table_snapshot, "open_snapshot", open_snapshot)
    for table_name, option, why in [
        (name, [], "its columns are mapped"),
        (tmp_path / "twice", [], "it has several rows of some ids"),
        (place / "colors", ["--limit", 1e-9], "more than --limit 1e-09"),
        ("catalog.schema.table", [], "named in a catalog"),
        ("s3://bucket/table", [], "not in this machine's file tree"),
    ]:
        result = embedall("similar", table_name, "red.png", *option)
        assert (result.code, why in result.log, "answered by Spark" in result.log) == (0, True, True), result.log
    assert len(asked) == 5
    assert "there is no such table" in embedall("similar", tmp_path / "none", "x").log


def test_copies_are_kept_per_version_and_limited(spark, place, tmp_path, own_copies, monkeypatch):
    def copies():
        return {folder.name for folder in own_copies.iterdir()}

    name, before = tmp_path / "growing", copies()
    table(spark, IDS, ROWS).write.format("delta").save(str(name))
    lines(embedall("similar", name, "red.png"))
    [first] = copies() - before
    with monkeypatch.context() as patch:
        patch.setattr(delta_files.DeltaFiles, "dataset", None)
        lines(embedall("similar", name, "red.png"))
    table(spark, IDS, ROWS).write.format("delta").mode("overwrite").save(str(name))
    monkeypatch.setattr(table_cache, "MAX_BYTES", 0)
    lines(embedall("similar", name, "red.png"))
    assert (first[-1], copies()) == ("0", {f"{first[:-1]}1"})


def test_a_table_of_something_else_is_named(spark, tmp_path):
    spark.createDataFrame([(1, "x")], "number int, text string").write.format("delta").save(str(tmp_path / "other"))
    for command in (["similar", tmp_path / "other", "x"], ["search", tmp_path / "other", "--id", "x"]):
        result = embedall(*command)
        assert result.code == 3
        assert f"{tmp_path}/other: is not a table of vectors: " in result.log
        assert "'embedall import'" in result.log


def test_page_and_montage_show_what_was_found(place, tmp_path):
    options = ["--names", place / "known.csv", "--show", "price", "--images", place / "pictures"]
    options += ["--html", tmp_path / "page.html", "--montage", tmp_path / "montage.png"]
    lines(embedall("search", place / "colors", "--id", "red.png", *options))
    page = (tmp_path / "page.html").read_text()
    # Titles are escaped, and nothing is loaded from elsewhere.
    assert "Red &lt;one&gt; [red.png]" in page
    assert "<one>" not in page
    assert not re.search(r"https?://|<script|<link", page)
    items = re.findall(r"<li>(.*?)</li>", page)
    assert [re.search("<b>(.*?)</b>", item)[1] for item in items] == [
        "rose.png", "pink.png", "../sky.png", "Blue [blue.png]", "Ink [ink.txt]",
    ]  # fmt: skip
    assert "<dt>score</dt><dd>0.994</dd><dt>price</dt><dd>7</dd>" in items[0]
    assert ["<img" in item for item in items] == [True, False, False, True, False]
    coded = re.search('data:image/jpeg;base64,([^"]+)', items[0])[1]
    picture = Image.open(io.BytesIO(base64.b64decode(coded)))
    assert np.abs(np.array(picture)[15, 20].astype(int) - COLORS["rose.png"]).max() < 20
    with Image.open(tmp_path / "montage.png") as montage:
        colors = {color for _, color in montage.convert("RGB").getcolors(1 << 20)}
    # Pictures are drawn as they are, and not what lies beside their folder.
    assert set(COLORS.values()) <= colors
    assert (0, 200, 0) not in colors


def test_names_of_pictures_by_a_pattern(spark, place, tmp_path):
    rows = table(spark, ["red", "blue"], ROWS[[0, 3]])
    tables.write(spark, rows, str(tmp_path / "t"), VECTORS, mode="overwrite", run_id="p", vector_size=3)
    options = ["--images", place / "pictures", "--image-pattern", "{id}.png", "--html", tmp_path / "page.html"]
    lines(embedall("search", tmp_path / "t", "--id", "red", *options))
    assert (tmp_path / "page.html").read_text().count("<img") == 2


def test_a_table_of_queries(spark, place, tmp_path):
    colors, output = place / "colors", tmp_path / "near"
    result = embedall("search", colors, "--queries", colors, "--output", output, "-n", 1, "--where", "id != 'rose.png'")
    assert result.output == f"{output}: version 0, 6 neighbors\n"
    rows_by_query = {row["query"]: (row["rank"], row["id"]) for row in tables.read(spark, str(output)).collect()}
    assert rows_by_query["red.png"] == (1, "pink.png")
    assert rows_by_query["rose.png"] == (1, "red.png")
    assert rows_by_query["blue.png"] == (1, "../sky.png")
    # Other tables' rows with the same ids are found.
    write(spark, tmp_path / "other", "other")
    lines(embedall("search", colors, "--queries", tmp_path / "other", "--output", output, "-n", 1))
    assert all(row["query"] == row["id"] for row in tables.read(spark, str(output)).collect())
    lines(embedall("search", colors, "--queries", colors, "--output", output, "-n", 1, "--with-self"))
    assert all(row["query"] == row["id"] for row in tables.read(spark, str(output)).collect())
    assert tables.version(spark, str(output)) == 2
    assert not list(tmp_path.glob(".search*"))
    assert embedall("search", colors, "--queries", colors, "--output", colors).code != 0
    assert tables.version(spark, str(colors)) == 0


def test_csls_takes_hubs_down(spark, tmp_path):
    colors, output = tmp_path / "colors", tmp_path / "near"
    write(spark, colors, "first")
    units = ROWS / np.linalg.norm(ROWS, axis=1)[:, None]
    cosines = units @ units.T
    mean_similarity = np.sort(cosines - 9 * np.eye(6), axis=0)[-2:].mean(axis=0)
    expected = {
        name: sorted((-(2 * cosines[at] - mean_similarity)[to], other) for to, other in enumerate(IDS) if other != name)
        for at, name in enumerate(IDS)
    }
    actual = lines(embedall("search", colors, "--id", "red.png", "-n", 5, "--csls", 2))
    assert [row[1:] for row in actual[1:]] == [[name, f"{-score:.3f}"] for score, name in expected["red.png"]]
    # Kept for the next search, made anew for another K and another version.
    lines(embedall("search", colors, "--id", "pink.png", "--csls", 2, "--where", "id != 'red.png'"))
    assert tables.version(spark, f"{colors}_hubs") == 0
    lines(embedall("search", colors, "--id", "pink.png", "--csls", 1))
    assert tables.read(spark, f"{colors}_hubs").count() == 12
    write(spark, colors, "second")
    lines(embedall("search", colors, "--id", "pink.png", "--csls", 1))
    assert tables.read(spark, f"{colors}_hubs").count() == 6
    # A table of queries is the queries' side itself.
    lines(embedall("search", colors, "--queries", colors, "--output", output, "-n", 5, "--csls", 2))
    rows = tables.read(spark, str(output)).orderBy("query", "rank").collect()
    assert [row["id"] for row in rows] == [name for query in sorted(IDS) for _, name in expected[query]]
    assert not list(tmp_path.glob(".search*"))


def test_index_and_search_by_it(spark, tmp_path):
    colors = tmp_path / "colors"
    write(spark, colors, "first")
    result = embedall("search", colors, "--id", "red.png", "--approximate")
    assert result.code == 1
    assert f"{colors}_index: holds no index; build it with: embedall index" in result.log
    result = embedall("index", colors, "--parts", 2)
    assert lines(result)[0][0] == f"{colors}_index:"
    assert result.output.endswith("all rows compared; recall of the 10 nearest 1.000 on 6 rows\n")
    expected = [["red.png"], ["1", "rose.png", "0.994"], ["2", "pink.png", "0.936"]]
    assert lines(embedall("search", colors, "--id", "red.png", "-n", 2, "--approximate")) == expected
    only = ["--where", "id != 'rose.png'"]
    assert lines(embedall("search", colors, "--id", "red.png", "-n", 1, "--approximate", *only))[1][1] == "pink.png"
    output = tmp_path / "near"
    lines(embedall("search", colors, "--queries", colors, "--output", output, "-n", 1, "--approximate"))
    rows = {row["query"]: row["id"] for row in tables.read(spark, str(output)).collect()}
    assert (len(rows), rows["red.png"], rows["blue.png"]) == (6, "rose.png", "../sky.png")
    write(spark, colors, "second")
    result = embedall("search", colors, "--id", "red.png", "--approximate")
    assert result.code == 1
    assert f"the index is of version 0 of {colors}, the table is at version 1, and" in result.log
    assert "build it with: embedall index" in result.log
    actual = embedall("search", colors, "--id", "red.png", "-n", 2, "--approximate", "--rebuild")
    assert "6 rows in" in actual.output
    assert lines(actual)[1:] == expected
    assert lines(embedall("search", colors, "--id", "red.png", "-n", 2, "--approximate")) == expected


def test_wrong_options_show_before_spark_starts(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("Spark was started")

    monkeypatch.setattr(session, "get", refuse)
    for options, why in [
        ([], "give one of --image, --id, --vector, --text, --queries"),
        (["--id", "a", "--vector", "b"], "give one of"),
        (["--queries", "t"], "--queries and --output go together"),
        (["--queries", "t", "--output", "o", "--html", "p"], "show one search"),
        (["--id", "a", "--csls", 5, "--approximate"], "--csls needs an exact search"),
        (["--id", "a", "--images", "f"], "give one of them"),
        (["--id", "a", "--image-pattern", "x"], "need {id} in it"),
        (["--id", "a", "--names", tmp_path / "none.csv"], "no such file"),
        (["--vector", tmp_path / "none.npy"], "cannot be read as a vector"),
        (["--text", " "], "--text: is empty"),
    ]:
        result = embedall("search", tmp_path / "t", *options)
        assert (result.code, why in result.log) == (2, True), result.log
    result = embedall("search", "a.table", "--id", "x", "--approximate")
    assert "--index: required" in result.log


@pytest.mark.parametrize("text", ["1 two", "", "0 0", "[[1, 2], [3, 4]]", "1 nan", '{"a": 1}', "[[1], [2, 3]]"])
def test_what_is_no_vector(tmp_path, text):
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(ConfigError, match=r"v\.txt: "):
        search_query.read_vector(str(tmp_path / "v.txt"))


def test_no_pickle_is_executed(tmp_path):
    with (tmp_path / "v.npy").open("wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot be read as a vector"):
        search_query.read_vector(str(tmp_path / "v.npy"))


def test_a_picture_needs_a_table_of_pictures(place):
    result = embedall("search", place / "colors", "--image", place / "pictures" / "red.png")
    assert result.code == 2
    assert "was not made by 'embedall images'; give --id or --vector" in result.log
    result = embedall("search", place / "colors", "--id", "red.png", "--montage", "m.png")
    assert (result.code, "give --images FOLDER" in result.log) == (2, True), result.log


def test_by_a_picture_with_the_network_of_the_run(spark, place, tmp_path, monkeypatch):
    path = str(tmp_path / "t")
    run_config = config.parse(
        images.Config, {"input": {"path": "x", "limits": {"max_bytes": 5000}}, "output": {"table": path}}
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(config.dump(run_config))
    facts = {"kind": "images", "run_folder": str(tmp_path / "run")}
    options = {"mode": "overwrite", "vector_size": 3}
    tables.write(spark, table(spark, IDS, ROWS), path, VECTORS, run_id="a", metadata=facts, **options)
    calls = []

    def embed_file(config, path):
        calls.append((config, path))
        return np.array([0, 0, 1], np.float32)

    monkeypatch.setattr(images, "embed_file", embed_file)
    picture = str(place / "pictures" / "red.png")
    page = tmp_path / "page.html"
    actual = lines(embedall("search", path, "--image", picture, "-n", 1, "--html", page))
    assert actual == [["red.png"], ["1", "blue.png", "1.000"]]
    assert calls == [(run_config, picture)]
    assert page.read_text().count("<img") == 1
    (tmp_path / "run" / "config.yaml").unlink()
    result = embedall("search", path, "--image", picture)
    assert (result.code, "the run that made" in result.log) == (2, True)


def test_learned_words_are_those_of_the_tables_own_run(spark, tmp_path):
    """A later run, which may have failed its gates, has replaced the table of words."""
    name = str(tmp_path / "latent_words")
    for run_id, sign in (("night-1", 1.0), ("night-2", -1.0)):
        rows = table(spark, ["red", "blue"], sign * np.eye(2))
        tables.write(spark, rows, name, VECTORS, mode="overwrite", run_id=run_id, vector_size=2)
    seen = []
    model = SimpleNamespace(
        words=str.split,
        tower=None,
        text=SimpleNamespace(composed=True, table=name),
        project_text=lambda text, vectors: seen.append(vectors) or np.ones(1),
    )
    for run_id in ("night-1", "night-2", "another"):
        provenance.project_text(spark, provenance.LatentTable({}, model, run_id), "red dress")
    first, second, current = seen
    assert set(first) == {"red"} and first["red"].tolist() == [1, 0]
    assert second["red"].tolist() == current["red"].tolist() == [-1, 0]
