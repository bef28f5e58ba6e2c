"""Images from a folder to vectors: kinds of pictures are told apart, bad ones are rejects, reruns do what is left."""

import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from cli_runner import embedall
from mlflow import MlflowClient
from PIL import Image, ImageDraw
from vector_tables import bits

from embedall_spark import config as configs
from embedall_spark import tables
from embedall_spark.errors import ConfigError
from embedall_spark.images import featurize
from embedall_spark.kinds import images

pytestmark = pytest.mark.slow

KINDS = ("disc", "stripes", "noise")


def draw(kind, seed):
    """Return a picture of one of three kinds, none like another of its kind."""
    random = np.random.default_rng([KINDS.index(kind), seed])
    color, ground = (tuple(int(v) for v in random.integers(0, 256, 3)) for _ in range(2))
    picture = Image.new("RGB", (120, 90), ground)
    pen = ImageDraw.Draw(picture)
    if kind == "disc":
        x, y = random.integers(10, 50, 2)
        pen.ellipse((x, y, x + 35, y + 35), fill=color)
    elif kind == "stripes":
        for at in range(int(random.integers(0, 8)), 120, 12):
            pen.line((at, 0, at, 90), fill=color, width=5)
    else:
        picture = Image.fromarray(random.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    return picture


def saved(picture, kind="PNG"):
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


@pytest.fixture(scope="module")
def made(spark, own_store, tmp_path_factory):
    """A folder with three kinds of pictures, bad ones and labels, and the table that a first run has made of them.

    Tables of all tests lie beside it, where the store of runs is: a new one takes longer than a run.
    """
    folder = tmp_path_factory.mktemp("images")
    lines = ["id,label,title"]
    for kind in KINDS:
        (folder / "pictures" / kind).mkdir(parents=True)
        for at in range(6):
            (folder / "pictures" / kind / f"{at}.png").write_bytes(saved(draw(kind, at)))
            lines.append(f"{kind}/{at}.png,{kind},{kind} number {at}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "pictures" / "empty.jpg").write_bytes(b"")
    (folder / "pictures" / "text.jpg").write_bytes(b"no picture at all")
    (folder / "pictures" / "cut.png").write_bytes(saved(draw("noise", 9))[:900])
    (folder / "pictures" / "notes.txt").write_bytes(b"not looked at")
    metadata = {"path": f"{folder}/labels.csv", "title": "title"}
    evaluation = {"clusters": 3, "map_images": 18, "gates": {"clusters/purity": 0.9}, "metadata": metadata}
    done = embedall("images", "--config", configured(folder, "images", evaluate=evaluation), "--run-id", "one")
    assert done.code == 0, done.log
    return folder, done.summary


def configured(folder, table, **sections):
    """Write the configuration of a table of a folder's pictures and return its file."""
    values = {
        "input": {"path": f"{folder}/pictures"},
        "output": {"table": f"{folder}/output/{table}", "max_reject_share": 0.3},
        "evaluate": {"map_images": 0},
    }
    for name, options in sections.items():
        values[name] = values[name] | options
    file = folder / f"{table}.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


def test_a_folder_becomes_a_table_and_bad_pictures_rejects(spark, made):
    folder, summary = made
    assert (summary["rows"], summary["rejected"]) == (18, 3)
    assert summary["metrics"]["clusters/purity"] > 0.9
    assert summary["metrics"]["purity/neighbours"] > 1.5 * summary["metrics"]["purity/chance"]
    rows = tables.read(spark, f"{folder}/output/images").collect()
    assert {row.id for row in rows} == {f"{kind}/{at}.png" for kind in KINDS for at in range(6)}
    assert all(abs(np.linalg.norm(row.vector) - 1) < 1e-5 and row.norm > 0 and row.kind == "images" for row in rows)
    rejects = {
        row.origin.rpartition("/")[2]: row.reason
        for row in tables.read(spark, f"{folder}/output/images_rejects").collect()
    }
    assert rejects.keys() == {"empty.jpg", "text.jpg", "cut.png"}
    assert "empty" in rejects["empty.jpg"]
    assert "truncated" in rejects["cut.png"]
    for name in ("map.png", "clusters.png"):
        picture = Image.open(f"{summary['folder']}/artifacts/{name}")
        assert min(picture.size) > 200


def test_clusters_made_later_join_the_run(made):
    folder, summary = made
    names = ("--names", f"{folder}/labels.csv", "--label-column", "label", "--montage", f"{folder}/montage.png")
    later = embedall("cluster", summary["table"], "-k", 3, *names)
    assert later.code == 0, later.log
    client = MlflowClient(summary["mlflow_uri"])
    figures = client.get_run(summary["mlflow_run_id"]).data.metrics
    assert figures["clusters_3/purity"] == pytest.approx(summary["metrics"]["clusters/purity"], abs=0.2)
    assert 0 < figures["clusters_3/nmi"] <= 1
    assert "clusters_3.png" in {file.path for file in client.list_artifacts(summary["mlflow_run_id"])}


def test_a_rerun_embeds_only_what_has_changed(spark, made, tmp_path):
    folder, table = made[0], f"{made[0]}/output/rerun"
    pictures = shutil.copytree(folder / "pictures", tmp_path / "pictures")
    shutil.copytree(folder / "output" / "images", table)
    options = {"input": {"path": str(pictures)}, "output": {"remove_vanished": True}}
    file = configured(folder, "rerun", **options)
    before = bits(tables.read(spark, table))
    (pictures / "disc" / "0.png").write_bytes(saved(draw("disc", 77)))
    (pictures / "disc" / "new.png").write_bytes(saved(draw("disc", 78)))
    (pictures / "noise" / "1.png").unlink()
    (pictures / "noise" / "2.png").write_bytes(b"broken since")
    done = embedall("images", "--config", file, "--run-id", "three")
    assert (done.summary["version"], done.summary["rows"], done.summary["rejected"]) == (1, 2, 4)
    assert done.summary["unchanged"] == 15
    after = bits(tables.read(spark, table))
    # What cannot be read tonight keeps its vector; what is gone goes.
    assert before.keys() - after.keys() == {"noise/1.png"}
    assert after.keys() - before.keys() == {"disc/new.png"}
    assert {name for name in before if name in after and before[name] != after[name]} == {"disc/0.png"}
    assert {row.id: row.run_id for row in tables.read(spark, table).collect()}["disc/0.png"] == "three"


def test_a_killed_run_keeps_what_it_had_finished(spark, made, monkeypatch):
    monkeypatch.setattr(images, "_PART", 10)
    whole, calls = featurize.featurize, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(featurize, "featurize", dies)
    folder = made[0]
    file = configured(folder, "killed")
    assert embedall("images", "--config", file).code == 130
    again = embedall("images", "--config", file)
    assert again.code == 0, again.log
    assert "features-00000: reused" in again.log
    assert len(calls) == 3  # of two parts one was tried twice
    actual, at_once = (vectors_of(spark, f"{folder}/output/{name}") for name in ("killed", "images"))
    assert actual.keys() == at_once.keys()
    # In other batches than at once.
    np.testing.assert_allclose([actual[name] for name in actual], [at_once[name] for name in actual], atol=1e-5)


def vectors_of(spark, table):
    """Return the vector of each id."""
    return {row.id: np.array(row.vector) for row in tables.read(spark, table).collect()}


def test_pictures_in_a_table_with_their_titles(spark, made):
    folder = made[0]
    names = [(kind, at) for kind in KINDS for at in range(2)]
    columns = {
        "number": [10 * KINDS.index(kind) + at for kind, at in names],
        "picture": [saved(draw(kind, at), "JPEG") for kind, at in names],
        "words": [[kind, "small"] for kind, _ in names],
        "kind": [kind for kind, _ in names],
    }
    pq.write_table(pa.table(columns), folder / "pictures.parquet")
    input_options = {"path": f"{folder}/pictures.parquet", "format": "parquet", "content": "picture", "id": "number"}
    file = configured(folder, "held", input=input_options | {"tags": "words", "label": "kind"})
    done = embedall("images", "--config", file, "--run-id", "held-one")
    assert done.code == 0, done.log
    assert "purity/neighbours" in done.summary["metrics"]
    items = {row.id: (row.tags, row.label) for row in tables.read(spark, f"{folder}/output/held_metadata").collect()}
    assert items["11"] == (["stripes", "small"], "stripes")
    # Vectors that are made otherwise never stand beside these.
    other = ("--set", "featurize.normalize=false")
    new = embedall("images", "--config", file, *other, "--run-id", "held-two").summary
    # Where nothing has changed, nothing is embedded or written.
    still = embedall("images", "--config", file, *other, "--run-id", "held-three").summary
    assert (new["version"], new["rows"], still["version"], still["rows"]) == (1, 6, 1, 0)
    assert still["unchanged"] == 6


def test_a_file_is_embedded_as_the_table_was(spark, made):
    folder = made[0]
    mine = images.embed_file(
        configs.load(images.Config, configured(folder, "images")), f"{folder}/pictures/stripes/3.png"
    )
    np.testing.assert_allclose(mine, vectors_of(spark, f"{folder}/output/images")["stripes/3.png"], atol=1e-5)


def test_a_dry_run_tells_how_many_pictures_there_are_and_a_gate_what_it_needs(made):
    folder = made[0]
    done = embedall("images", "--config", configured(folder, "checked"), "--dry-run")
    assert (done.summary["pictures"], done.summary["vector_size"]) == (20, 1280)
    assert not (folder / "output" / "checked").exists()
    with pytest.raises(ConfigError, match=r"evaluate\.gates\.clusters/purity"):
        images.check(configs.load(images.Config, configured(folder, "x", evaluate={"gates": {"clusters/purity": 0.5}})))
