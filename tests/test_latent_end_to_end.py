"""Two kinds in one space: words find pictures and pictures titles, on pictures that were not trained on."""

import json
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_runner import answered_alike, embedall
from fake_run import FakeRun
from mlflow import MlflowClient
from PIL import Image
from processes import call_here
from pyspark.sql import functions as F
from vector_tables import table

from embedall_spark import config as configs
from embedall_spark import tables, torch_processes
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.kinds import latent
from embedall_spark.latent import input_tables, latent_model
from embedall_spark.schemas import ITEMS, PAIRS, VECTORS, conform

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]

COLORS = ("red", "blue", "green", "black", "white")
THINGS = ("dress", "shoe", "hat", "bag", "belt", "coat")
COUNT, SIZE = 240, 24
NAME = "pictures-and-titles"  # as docs/guide/latent.md has it
FIT = {"k": 9, "regularisation": [[0.01, 0.01], [0.1, 0.1]], "power": [0.0, 1.0]}


def planted(seed=3):
    """Return (id, color, thing) of each picture, and vectors: the color's plus the thing's plus noise."""
    random = np.random.default_rng(seed)
    facts = [(f"{index:03d}.png", COLORS[index % 5], THINGS[index // 5 % 6]) for index in range(COUNT)]
    basis = {name: random.standard_normal(SIZE) for name in (*COLORS, *THINGS)}
    vectors = np.stack([basis[color] + basis[thing] for _, color, thing in facts])
    return facts, vectors + 0.3 * random.standard_normal(vectors.shape)


@pytest.fixture(scope="module")
def input_folder(spark, tmp_path_factory):
    """Return a folder with the pictures' table and their items; some rows of both are bad."""
    folder = tmp_path_factory.mktemp("latent")
    facts, vectors = planted()
    broken = vectors.copy()
    broken[7, 3] = np.nan
    rows = table(spark, [name for name, *_ in facts], broken)
    save(spark, rows.selectExpr("id", "vector", "norm", "'images' kind", "run_id"), folder / "images")
    items = [(name, f"A {color} {thing}", ["fashion"], color) for name, color, thing in facts]
    items[8] = (items[8][0], "Unheard-of", None, None)
    items[9] = (items[9][0], None, None, None)
    # Its title is unique, but its extra word is in too few items to be in the vocabulary.
    items[20] = (items[20][0], f"{items[20][1]} deluxe", *items[20][2:])
    items.append(("lost.png", "red dress", None, None))
    tables.write(spark, spark.createDataFrame(items, ITEMS), f"{folder}/images_metadata", ITEMS, mode="overwrite",
                 run_id="test")  # fmt: skip
    return folder


def save(spark, rows, path):
    """Write a table without our checks, as others may."""
    conform(rows, VECTORS).write.format("delta").save(str(path))


def configured(input_folder, folder, **sections):
    """Write a configuration and return its file."""
    values = {
        "input": {"path": f"{input_folder}/images"},
        "output": {"table": f"{folder}/out"},
        "split": {"validation": 0.15, "test": 0.25, "same": 1},
        "fit": FIT,
        "evaluate": {"map_ids": 0},
    }
    for name, section in sections.items():
        values[name] = {**values[name], **section}
    file = folder / "latent.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


@pytest.fixture(scope="module")
def done(spark, input_folder, tmp_path_factory):
    """Return the summary of ``embedall latent`` on the pictures and their titles; the run failed, and was resumed."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "pictures").mkdir()
    for name, color, _ in planted()[0]:
        Image.new("RGB", (8, 8), color).save(folder / "pictures" / name)
    output = {"table": f"{folder}/out", "registered_model": NAME}
    evaluate = {"pictures": {"path": f"{folder}/pictures"}}
    undrawn = {"map_ids": 0, "heat_pairs": 0, "examples": 0}
    for least, drawn, code in ((1.01, undrawn, 4), (0.5, {"map_ids": 60}, 0)):
        evaluation = {**evaluate, **drawn, "gates": {"right_to_left/recall_10": least}}
        file = configured(input_folder, folder, evaluate=evaluation, output=output, fit={"k": [FIT["k"], 3]})
        result = embedall("latent", "--config", file)
        assert result.code == code, result.log
    return result.summary


def test_titles_and_pictures_retrieve_each_other(spark, input_folder, done):
    figures = done["metrics"]
    for way in ("left_to_right", "right_to_left"):
        # Two of some 60 test pictures share a title, so that the first place is partly chance.
        assert figures[f"{way}/recall_10"] > 0.95
        assert figures[f"{way}/recall_1"] > 4 * figures[f"{way}/chance_recall_1"]
        assert figures[f"{way}/median_rank"] <= 3
    rows = tables.read(spark, done["table"]).collect()
    kinds = {kind: [row.id for row in rows if row.kind == kind] for kind in ("images", "titles", "words")}
    # "a" and "fashion" are words of every picture.
    assert sorted(kinds["words"]) == sorted(f"words:{word}" for word in (*COLORS, *THINGS, "a", "fashion"))
    assert len(kinds["images"]) == COUNT - 1
    assert "titles:lost.png" in kinds["titles"]
    assert all(abs(np.linalg.norm(row.vector) - 1) < 1e-5 for row in rows)
    assert all(len(row.vector) == FIT["k"] for row in rows)


def test_words_find_pictures_and_bad_rows_are_rejects(spark, input_folder, done):
    rows = {row.id: np.array(row.vector) for row in tables.read(spark, done["table"]).collect()}
    facts = {f"images:{name}": (color, thing) for name, color, thing in planted()[0]}
    pictures = [name for name in facts if name in rows]
    matrix = np.stack([rows[name] for name in pictures])
    fitted = latent_model.load(done["folder"])
    hits = 0
    for color in COLORS:
        for thing in THINGS:
            query = fitted.project_text(f"{color} {thing}")
            hits += sum(facts[pictures[at]] == (color, thing) for at in np.argsort(-(matrix @ query))[:3])
    assert hits > 0.9 * 90
    assert fitted.project_text("unheard of") is None
    rejects = {(row.origin, row.reason) for row in tables.read(spark, f"{done['table']}_rejects").collect()}
    assert rejects == {
        ("007.png", "a value of the vector is not finite"),
        ("007.png", "no vector of this id on the left side"),
        ("008.png", "no vector of this id on the right side"),
        ("009.png", "no vector of this id on the right side"),
        ("lost.png", "no vector of this id on the left side"),
    }
    assert done["rejected"] == 5


def test_plots_of_the_space_are_artifacts(done):
    plots = {
        name: np.asarray(Image.open(f"{done['folder']}/artifacts/{name}.png").convert("RGB"))
        for name in ("map", "pairs", "searches", "suggestions")
    }
    red = (255, 0, 0)
    for name, picture in plots.items():
        assert (picture == red).all(axis=2).sum() > 500, name
    # A search by a color finds pictures of this color, one by a thing those of many; "a" and "fashion" are in all.
    rows = [picture[48, 62::104] for picture in np.split(plots["searches"][46:-14], 8)]
    colors = [len({tuple(pixel) for pixel in row[:10]}) for row in rows]
    assert sum(count <= 2 for count in colors) >= 2 and sum(count >= 3 for count in colors) >= 3


def test_the_projector_shows_the_pictures(done, tmp_path):
    ids = ["--id", "images:000.png", "--id", "titles:000.png"]
    result = answered_alike("projector", done["table"], *ids, "--output", tmp_path)
    assert "2 points" in result.output + result.log and "pictures of" in result.output + result.log
    [sheet] = tmp_path.rglob("*.jpg")
    tile = np.asarray(Image.open(sheet)).reshape(-1, 3).astype(int)
    assert (np.abs(tile - (255, 0, 0)).max(axis=1) < 60).sum() >= 30


def test_the_model_projects_as_the_run_did(spark, input_folder, done):
    fitted = latent_model.load(done["folder"])
    rows = {row.id: row for row in tables.read(spark, done["table"]).collect()}
    vectors = np.array(planted()[1], np.float32)
    mapped, length = fitted.project_left(vectors[11])
    np.testing.assert_allclose(mapped, rows["images:011.png"].vector, atol=1e-6)
    assert abs(length - rows["images:011.png"].norm) < 1e-6
    np.testing.assert_allclose(fitted.project_text("RED"), rows["words:red"].vector, atol=1e-6)
    np.testing.assert_allclose(fitted.project_text("fashion, a blue dress"), rows["titles:001.png"].vector, atol=1e-6)
    color, thing = planted()[0][11][1:]
    suggested = [word for word, _ in fitted.suggest_words(mapped, length)]
    assert {color, thing} <= set(suggested[:4])
    # The model needs no package of ours: arrays, and a line of JSON.
    with np.load(f"{done['folder']}/artifacts/model.npz", allow_pickle=False) as arrays:
        assert arrays["left.matrix"].shape == (SIZE, FIT["k"])
        assert json.loads(arrays["about"].tobytes())["left"] == "images"
    with pytest.raises(BadData, match="dimensions; vectors of the left side have 24"):
        fitted.project_left(vectors[0][:5])
    with pytest.raises(BadData, match="not a model"):
        latent_model.from_bytes(b"something else")


def test_a_resumed_run_logs_its_trials_and_its_model_once(spark, done):
    client = MlflowClient(tracking_uri=done["mlflow_uri"])
    run = client.get_run(done["mlflow_run_id"])
    child_runs = f"tags.mlflow.parentRunId = '{done['mlflow_run_id']}'"
    trials = {trial.info.run_name: trial for trial in client.search_runs([run.info.experiment_id], child_runs)}
    names = ("regularisation_left", "regularisation_right", "power", "k")
    options = {tuple(float(trial.data.params[name]) for name in names) for trial in trials.values()}
    grid = product(FIT["regularisation"], FIT["power"], (FIT["k"], 3))
    assert options == {(*regularisation, power, k) for regularisation, power, k in grid}
    assert len(client.search_runs([run.info.experiment_id], child_runs)) == 8
    scores = {name: trial.data.metrics["mrr"] for name, trial in trials.items()}
    assert scores[f"try-{run.data.metrics['chosen/try']:.0f}"] == max(scores.values())
    (model_,) = client.search_logged_models([run.info.experiment_id])
    (model_version,) = client.search_model_versions(f"name = '{NAME}'")
    assert done["registered_model"] == f"models:/{NAME}/{model_version.version}"
    uris = {row.model_uri for row in tables.read(spark, done["table"]).select("model_uri").distinct().collect()}
    assert uris == {f"models:/{model_.model_id}"}
    last = tables.history(spark, done["table"]).where("run_id IS NOT NULL").first()
    assert json.loads(last["metadata"])["registered_model"] == done["registered_model"]


def test_the_logged_model_needs_only_its_requirements_and_projects_as_the_tables(spark, input_folder, done, tmp_path):
    """The lines of the guide, in a fresh process that can import only the declared packages."""
    rows = {row.id: row.vector for row in tables.read(spark, done["table"]).collect()}
    facts, vectors = planted()
    texts = {f"titles:{name}": f"A {color} {thing}, fashion" for name, color, thing in facts}
    texts |= {f"words:{word}": word.upper() for word in (*COLORS, *THINGS)}
    vectors[7, 3] = np.nan
    texts["titles:008.png"], texts["titles:009.png"] = "Unheard-of", ""
    inputs = {"vector": np.float32(vectors).tolist(), "text": list(texts.values())}
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    artifacts = MlflowClient(tracking_uri=done["mlflow_uri"]).get_model_version(NAME, "1").source
    declared = Path(artifacts.removeprefix("file://"), "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in declared} == {"mlflow", "numpy", "pandas", "pyarrow"}
    guide = (Path(__file__).resolve().parents[1] / "docs" / "guide" / "latent.md").read_text()
    (block,) = re.findall(r"```python\n([^`]*mlflow\.pyfunc\.load_model[^`]*)```", guide)
    code = f"""{block.replace("sqlite:///output/mlflow.db", done["mlflow_uri"])}
import json
import numpy as np
for name, values in json.load(open("inputs.json")).items():
    np.save(name + ".npy", space.predict(pd.DataFrame({{name: values}})))
"""
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, "-I", Path(__file__).with_name("run_isolated.py"), "run.py", *declared]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    predictions = {f"images:{at:03d}.png": prediction for at, prediction in enumerate(np.load(tmp_path / "vector.npy"))}
    predictions |= dict(zip(texts, np.load(tmp_path / "text.npy"), strict=True))
    assert len(predictions) == 2 * COUNT + len(COLORS) + len(THINGS)
    for name, prediction in predictions.items():
        # Rows that cannot be projected are not in the table.
        np.testing.assert_allclose(prediction, rows.get(name, np.zeros(FIT["k"])), atol=1e-6, err_msg=name)
    missing = predictions.keys() - rows.keys()
    assert missing == {"images:007.png", "titles:008.png", "titles:009.png"}


def test_the_fit_does_not_see_test_items(spark, tmp_path):
    """Other vectors and titles of test items give the same model to the bit; near-duplicates are in one part."""
    facts, vectors = planted()
    random = np.random.default_rng(8)
    names = [name for name, *_ in facts] + [f"copy-{at:02d}.png" for at in range(40)]
    vectors = np.float32(np.vstack([vectors, vectors[:40] + 0.01 * random.standard_normal((40, SIZE))]))
    titles = [f"A {color} {thing}" for _, color, thing in facts]
    titles += titles[:40]
    models, parts = [], {}
    for attempt in range(2):
        if attempt:
            test_items = [at for at, name in enumerate(names) if parts[name] == "test"]
            # All changed alike, so that near-duplicates stay near.
            vectors[test_items] = -3 * vectors[test_items][:, ::-1]
            for at in test_items:
                titles[at] = f"Zebra stripes {at % 3}"
        folder = tmp_path / str(attempt)
        # In several partitions the rows' content would decide their order, and sums would differ in the last digits.
        rows = table(spark, names, vectors, partitions=1).selectExpr("id", "vector", "norm", "'images' kind", "run_id")
        save(spark, rows, folder / "images")
        items = spark.createDataFrame([(*row, None, None) for row in zip(names, titles, strict=True)], ITEMS)
        conform(items, ITEMS).write.format("delta").save(f"{folder}/images_metadata")
        file = configured(folder, tmp_path, split={"same": 0.997, "validation": 0.15, "test": 0.25})
        config = configs.load(latent.Config, file)
        run = FakeRun(spark, folder / "run", 0.5)
        latent.embed(run, latent.read(spark, config), config)
        models.append(run.artifacts["model.npz"])
        before, parts = parts, {row.id: row.part for row in run.stage("split", rows.limit).collect()}
        assert not attempt or parts == before
    assert {parts[f"{at:03d}.png"] == parts[f"copy-{at:02d}.png"] for at in range(40)} == {True}
    assert {parts[f"copy-{at:02d}.png"] for at in range(40)} == {"train", "validation", "test"}
    fitted = latent_model.from_bytes(models[0])
    assert fitted.text is not None
    assert "zebra" not in fitted.text.bags.tokens
    assert models[0] == models[1]


@pytest.fixture(scope="module")
def again(spark, input_folder, done, tmp_path_factory):
    """Return a run of the same options over other partitions, its configuration and its rows."""
    folder = tmp_path_factory.mktemp("again")
    config = configs.load(latent.Config, configured(input_folder, folder, fit={"k": [FIT["k"], 3]}))
    run = FakeRun(spark, folder, 0.5)
    rows = latent.embed(run, latent.read(spark, config).repartition(5, "norm"), config)
    return run, config, {row.id: row.vector for row in rows.collect()}


def test_reruns_and_partitioning_change_nothing(spark, done, again):
    run, _, rows = again
    first = MlflowClient(tracking_uri=done["mlflow_uri"]).get_run(done["mlflow_run_id"]).data.metrics
    assert [value for name, value, _ in run.metrics if name == "chosen/try"] == [first["chosen/try"]]
    before = {row.id: row.vector for row in tables.read(spark, done["table"]).collect()}
    assert before.keys() == rows.keys()
    for name, vector in before.items():
        np.testing.assert_allclose(vector, rows[name], atol=1e-5)


def test_another_table_is_the_right_side(spark, input_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_processes, "run", call_here)
    facts, _ = planted()
    random = np.random.default_rng(9)
    names = [f"{color} {thing}" for color in COLORS for thing in THINGS]
    basis = {name: random.standard_normal(SIZE) for name in (*COLORS, *THINGS)}
    rows = table(spark, names, np.stack([basis[name.split()[0]] + basis[name.split()[1]] for name in names]))
    save(spark, rows, tmp_path / "queries")
    pairs = [(name, f"{color} {thing}", 1.0 + at % 3) for at, (name, color, thing) in enumerate(facts)]
    pairs += [("000.png", "nothing", None), ("001.png", "blue dress", -1.0)]
    tables.write(spark, spark.createDataFrame(pairs, PAIRS), f"{tmp_path}/pairs", PAIRS, mode="overwrite",
                 run_id="test")  # fmt: skip
    right_input = {"right": f"{tmp_path}/queries", "right_kind": "queries", "pairs": f"{tmp_path}/pairs"}
    file = configured(input_folder, tmp_path, input=right_input, fit={"refine": {"epochs": 2, "batch": 64}})
    result = embedall("latent", "--config", file)
    assert result.code == 0, result.log
    assert result.summary["metrics"]["left_to_right/recall_1"] > 0.8
    assert "contrastive refinement: epoch" in result.log
    kinds = {row.kind for row in tables.read(spark, result.summary["table"]).select("kind").distinct().collect()}
    assert kinds == {"images", "queries"}
    # Without pictures no searches are drawn.
    plots = {path.name for path in Path(result.summary["folder"], "artifacts").iterdir()}
    assert plots == {"model.npz", "pairs.png"}
    # Picture 007 is not finite: neither it nor its pair can be used.
    assert result.summary["rejected"] == 4
    fitted = latent_model.load(result.summary["folder"])
    with pytest.raises(BadData, match="a table of queries, not text"):
        fitted.project_text("red dress")


def test_word_vectors_are_concatenated_to_the_bags(spark, input_folder, tmp_path):
    random = np.random.default_rng(4)
    names = [*COLORS, *THINGS, "crimson"]
    vectors = dict(zip(names, random.standard_normal((len(names), SIZE)), strict=True))
    vectors["crimson"] = vectors["red"] + 0.1 * random.standard_normal(SIZE)
    save(spark, table(spark, names, np.stack([vectors[name] for name in names])), tmp_path / "words")
    lines = "\n".join(f"{name},a {color} {thing}" for name, color, thing in planted()[0])
    (tmp_path / "titles.csv").write_text(f"file,name\n{lines}\n,no id\n")
    columns = {"id": "file", "title": "name"}
    input_options = {"words": f"{tmp_path}/words", "items": f"{tmp_path}/titles.csv", "item_columns": columns}
    config = configs.load(latent.Config, configured(input_folder, tmp_path, input=input_options))
    run = FakeRun(spark, tmp_path / "run", 0.5)
    rows = {row.id: np.array(row.vector) for row in latent.embed(run, latent.read(spark, config), config).collect()}
    fitted = latent_model.from_bytes(run.artifacts["model.npz"])
    vectors_by_word = {name: vector.astype(np.float32) for name, vector in vectors.items()}
    np.testing.assert_allclose(fitted.project_text("red", vectors_by_word), rows["words:red"], atol=1e-5)
    # A word that no picture has is near the word whose vector is near its own.
    query = fitted.project_text("crimson", vectors_by_word)
    nearest = max(COLORS, key=lambda color: float(rows[f"words:{color}"] @ query))
    assert nearest == "red"
    # A picture that is not finite with its pair, and the line without an id.
    assert run.rejected == 3


def test_words_beyond_the_dense_ones_have_learned_vectors(spark, input_folder, tmp_path):
    config = configs.load(latent.Config, configured(input_folder, tmp_path, input={"dense_words": 7}))
    latent.check(config)
    run = FakeRun(spark, tmp_path / "run", 0.5)
    rows = {row.id: row for row in latent.embed(run, latent.read(spark, config), config).collect()}
    fitted = latent_model.from_bytes(run.artifacts["model.npz"])
    table = {row.id: np.array(row.vector, np.float32) for row in run.tables[f"{tmp_path}/out_words"].collect()}
    dense = fitted.text.bags.tokens
    assert (len(dense), len(table)) == (7, 13 - 7)
    assert set(dense) | set(table) == {*COLORS, *THINGS, "a", "fashion"}
    assert sorted(name for name in rows if name.startswith("words:")) == sorted(
        f"words:{name}" for name in (*dense, *table)
    )
    facts = {f"images:{name}": (color, thing) for name, color, thing in planted()[0]}
    pictures = [name for name in facts if name in rows]
    matrix = np.stack([rows[name].vector for name in pictures])
    for color, thing in {fact for fact in facts.values() if set(fact) & set(table)}:
        query = fitted.project_text(f"{color} {thing}", {name: table[name] for name in (color, thing) if name in table})
        assert all(facts[pictures[at]] == (color, thing) for at in np.argsort(-(matrix @ query))[:3])
    np.testing.assert_allclose(
        fitted.project_text("fashion, a blue dress", table), rows["titles:001.png"].vector, atol=1e-5
    )
    suggested = fitted.suggest_words(np.array(rows["images:011.png"].vector), rows["images:011.png"].norm)
    assert {word for word, _ in suggested} == set(dense)


def test_contradictory_options_are_refused(spark, input_folder, tmp_path):
    for sections, text in [
        ({"input": {"kind": "words"}}, "set input.kind"),
        ({"input": {"items": f"{input_folder}/nothing"}}, "no such file or folder"),
        ({"input": {"right": f"{input_folder}/images"}}, "input.right and input.pairs go together"),
        ({"input": {"dense_words": 5, "words": "words"}}, "input.dense_words goes with"),
        ({"evaluate": {"gates": {"recall": 0.5}}}, "no such figure"),
        ({"fit": {"power": [-1]}}, "need 0 or above"),
    ]:
        result = embedall("latent", "--config", configured(input_folder, tmp_path, **sections))
        assert result.code in (2, 3), result.log
        assert text in result.summary["message"], result.summary["message"]
    assert not (tmp_path / "out").exists()


def test_errors_say_why_nothing_can_be_fitted(spark, again, tmp_path):
    """Uses the stages of a run that succeeded."""
    run, config, _ = again
    rows = latent.read(spark, config)
    with pytest.raises(ConfigError, match="the two sides relate along"):
        wide = config.model_copy(update={"fit": config.fit.model_copy(update={"k": (23,)})})
        latent.embed(FakeRun(spark, run.folder, 0.5), rows, wide)
    resumed = FakeRun(spark, shutil.copytree(f"{run.folder}/stages", tmp_path / "stages").parent, 0.5)
    shutil.rmtree(resumed.stage_path("pairs"))
    resumed.stage("pairs", lambda: run.read_stage("pairs").where("part != 'validation'"))
    with pytest.raises(BadData, match="no validation pair to choose options by"):
        latent.embed(resumed, rows, config)


def test_ids_and_sizes_are_compared_before_anything_is_computed(spark, input_folder, tmp_path):
    items = spark.createDataFrame([("pictures/001.png",)], "id string")
    config = configs.load(latent.Config, configured(input_folder, tmp_path, input={"items": f"{tmp_path}/items"}))
    left = spark.createDataFrame([("001.png",), ("002.png",)], "id string")
    with pytest.raises(
        BadData, match=r"items has 'pictures/001\.png'; .*images has '001\.png', '002\.png'\. Ids must be"
    ):
        input_tables.check_ids(left, items, config.input)
    parts = left.withColumn("part", F.lit("train"))
    with pytest.raises(BadData, match=r"fit\.k=9 needs more than 9 training items, and there are 2"):
        input_tables.check_size(parts, 9)


def test_a_dry_run_estimates_the_sizes(input_folder, tmp_path):
    result = embedall("latent", "--config", configured(input_folder, tmp_path), "--dry-run")
    assert (result.summary["left"], result.summary["right"]) == (COUNT, COUNT + 1)
    assert not (tmp_path / "out").exists()


def printed(*arguments):
    """Return the words of each line that a command printed."""
    result = embedall(*arguments)
    assert result.code == 0, result.log
    return [line.split() for line in result.output.splitlines()]


def test_search_by_words(spark, input_folder, done):
    facts = {f"{name}": (color, thing) for name, color, thing in planted()[0]}
    lines = printed("search", done["table"], "--text", "A Black Coat", "-n", 5)
    assert lines[0] == ["A", "Black", "Coat"]
    # A row is a title and, in brackets, its id.
    assert [row[1:5] for row in lines[1:]] == [["A", "black", "coat", row[4]] for row in lines[1:]]
    assert all(facts[row[4].strip("[]").removeprefix("images:")] == ("black", "coat") for row in lines[1:])
    titles = printed("search", done["table"], "--text", "black coat", "-n", 2, "--where", "vectors.kind = 'words'")
    assert {row[1] for row in titles[1:]} == {"words:black", "words:coat"}
    corrected = printed("search", done["table"], "--text", "A Black Coat", "-n", 5, "--csls", 10)
    assert all(facts[row[4].strip("[]").removeprefix("images:")] == ("black", "coat") for row in corrected[1:])
    # Titles, which are of the query's kind, are the queries' side.
    latent, hub_table = tables.read(spark, done["table"]), tables.read(spark, f"{done['table']}_hubs")
    assert {(row.side, row.near) for row in hub_table.select("side", "near").distinct().collect()} == {("titles", 10)}
    assert hub_table.count() == latent.count()
    failed = embedall("search", done["table"], "--text", "blakc")
    assert failed.code != 0
    assert "nearest spellings: black" in failed.log
    assert "was made neither by 'embedall latent'" in embedall("search", input_folder / "images", "--text", "black").log


def test_titles_and_words_are_suggested(done):
    facts = planted()[0]
    color, thing = facts[20][1:]
    lines = printed("suggest", done["table"], "--id", facts[20][0], "-n", 4)
    blank = lines.index([])
    assert lines[0] == ["titles"]
    assert lines[1][1:4] == ["A", color, thing]
    titles = [tuple(row[1:4]) for row in lines[1:blank]]
    assert len(set(titles)) == 4
    assert lines[blank + 1] == ["words"]
    assert {color, thing} <= {row[1] for row in lines[blank + 2 :]}
    # Its own title is left out without --with-self.
    assert not any("deluxe" in row for row in lines)
    with_self = printed("suggest", done["table"], "--id", facts[20][0], "-n", 13, "--with-self")
    assert ["A", color, thing, "deluxe"] in [row[1:5] for row in with_self]
    shares = {row[1]: float(row[2]) for row in with_self[with_self.index([]) + 2 :]}
    prefixed = printed("suggest", done["table"], "--id", f"images:{facts[20][0]}", "--prefix", "a white b", "-n", 3)
    blank = prefixed.index([])
    assert all(row[1:3] == ["A", "white"] and row[3][0] == "b" for row in prefixed[1:blank])
    reranked = {row[1]: float(row[2]) for row in prefixed[blank + 2 :]}
    assert len(reranked) == 3
    # Things are as frequent beside "white" as elsewhere, other colors never stand there.
    assert reranked["belt"] == pytest.approx(shares["belt"], abs=0.05)
    assert all(reranked[word] <= 0.5 * shares[word] + 0.001 for word in reranked if word in COLORS)
    failed = embedall("suggest", done["table"], "--id", "nothing.png")
    assert "'images:nothing.png' is not in the table" in failed.log


def test_titles_for_a_table_of_untitled_pictures(spark, done, tmp_path):
    facts, vectors = planted()
    chosen = [3, 20, 41, 7]
    new = vectors[chosen].astype(np.float32)
    new[3, 0] = np.nan
    save(spark, table(spark, [f"new/{facts[at][0]}" for at in chosen], new), tmp_path / "new")
    output = tmp_path / "suggested"
    result = embedall("suggest", done["table"], "--queries", tmp_path / "new", "--output", output, "-n", 3)
    assert result.code == 0, result.log
    assert result.output == (
        f"{output}: version 0, titles and words for 3 rows\nrefused: 1 row: a value of the vector is not finite\n"
    )
    rows = tables.read(spark, str(output)).orderBy("id", "kind", "rank").collect()
    assert [(row.kind, row.rank) for row in rows] == 3 * [
        *(("title", at) for at in (1, 2, 3)),
        *(("word", at) for at in (1, 2, 3)),
    ]
    for at in chosen[:3]:
        color, thing = facts[at][1:]
        mine = [row.text for row in rows if row.id == f"new/{facts[at][0]}"]
        assert mine[0].startswith(f"A {color} {thing}")
        assert len(set(mine[:3])) == 3
    # Rows of the latent table itself: as one by one, their own titles left out.
    result = embedall("suggest", done["table"], "--queries", done["table"], "--output", output, "-n", 3)
    assert result.output == f"{output}: version 1, titles and words for {COUNT - 1} rows\n"
    rows = tables.read(spark, str(output)).where("id = 'images:020.png'").orderBy("kind", "rank").collect()
    lines = printed("suggest", done["table"], "--id", "020.png", "-n", 3)
    blank = lines.index([])
    assert [[*row.text.split(), f"{row.score:.3f}"] for row in rows] == [
        row[1:] for row in lines[1:blank] + lines[blank + 2 :]
    ]
    assert not list(tmp_path.glob(".search*"))
    for options, why in [
        ([], "give one of --id, --image, --queries"),
        (["--queries", "t"], "--queries and --output go together"),
        (["--queries", "t", "--output", "o", "--prefix", "a"], "--prefix begins one title"),
        (["--queries", done["table"], "--output", done["table"]], "the table exists with other columns"),
    ]:
        failed = embedall("suggest", done["table"], *options)
        assert failed.code != 0
        assert why in failed.log


def test_arithmetic_across_kinds(done):
    facts = {f"images:{name}": (color, thing) for name, color, thing in planted()[0]}
    name = next(name for name, fact in facts.items() if fact == ("red", "hat"))
    lines = printed("analogy", done["table"], "--positive", name, "words:blue", "--negative", "words:red", "-n", 3)
    assert lines[0] == ["A", "red", "hat", f"[{name}]", "+", "words:blue", "-", "words:red"]
    assert [facts[row[4].strip("[]")] for row in lines[1:]] == [("blue", "hat")] * 3
    words = printed("analogy", done["table"], "--positive", name, "--kind", "words", "-n", 2)
    assert {row[1] for row in words[1:]} == {"words:red", "words:hat"}
    assert len(printed("analogy", done["table"], "words:red", "words:blue", name, "-n", 2)) == 3
    for arguments, text in [
        (["--negative", "words:red"], "give three ids A B C, or --positive"),
        (["words:red", "--positive", "words:red"], "replace A B C and --mul"),
        (["--positive", "words:red", "--negative", "words:red"], "these ids cancel each other out"),
        (["--positive", "words:rde"], "nearest spellings: words:red"),
    ]:
        assert text in embedall("analogy", done["table"], *arguments).log
