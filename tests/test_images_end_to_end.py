"""Images from a folder to vectors: kinds of pictures are told apart, bad ones are rejects, reruns do what is left."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image, ImageDraw
from plain_run import PlainRun
from toy_words import bits, embedall

from embedall_spark import config as configs
from embedall_spark import tables
from embedall_spark.errors import ConfigError
from embedall_spark.images import featurize
from embedall_spark.kinds import images

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]

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


@pytest.fixture
def folder(tmp_path):
    """Eighteen pictures of three kinds below ``pictures``, their labels in a file."""
    place = tmp_path / "pictures"
    lines = ["id,label,title"]
    for kind in KINDS:
        (place / kind).mkdir(parents=True)
        for at in range(6):
            (place / kind / f"{at}.png").write_bytes(saved(draw(kind, at)))
            lines.append(f"{kind}/{at}.png,{kind},{kind} number {at}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def configured(folder, **sections):
    """Write a configuration of the pictures in a folder and return its file."""
    values = {
        "input": {"path": f"{folder}/pictures"},
        "output": {"table": f"{folder}/output/images", "max_reject_share": 0.3},
        "evaluate": {"map_images": 0, "metadata": {"path": f"{folder}/labels.csv", "title": "title"}},
    }
    for name, some in sections.items():
        values[name] = values.get(name, {}) | some
    file = folder / "images.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


def test_a_folder_becomes_a_table_and_bad_pictures_rejects(spark, folder):
    (folder / "pictures" / "empty.jpg").write_bytes(b"")
    (folder / "pictures" / "text.jpg").write_bytes(b"no picture at all")
    (folder / "pictures" / "cut.png").write_bytes(saved(draw("noise", 9))[:900])
    (folder / "pictures" / "notes.txt").write_bytes(b"not looked at")
    file = configured(folder, evaluate={"clusters": 3, "map_images": 18, "gates": {"clusters/purity": 0.9}})
    done = embedall("images", "--config", file, "--run-id", "one")
    assert done.code == 0, done.log
    assert (done.summary["rows"], done.summary["rejected"]) == (18, 3)
    assert done.summary["metrics"]["clusters/purity"] > 0.9
    assert done.summary["metrics"]["purity/neighbours"] > 1.5 * done.summary["metrics"]["purity/chance"]
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
        picture = Image.open(f"{done.summary['folder']}/artifacts/{name}")
        assert min(picture.size) > 200
    clusters_join_the_run(done.summary, folder)


def clusters_join_the_run(summary, folder):
    """Cluster a run's table later: figures and montage join its run in MLflow."""
    names = ("--names", f"{folder}/labels.csv", "--label-column", "label", "--montage", f"{folder}/montage.png")
    later = embedall("cluster", summary["table"], "-k", 3, *names)
    assert later.code == 0, later.log
    client = MlflowClient(summary["mlflow_uri"])
    figures = client.get_run(summary["mlflow_run_id"]).data.metrics
    assert figures["clusters_3/purity"] == pytest.approx(summary["metrics"]["clusters/purity"], abs=0.2)
    assert 0 < figures["clusters_3/nmi"] <= 1
    assert "clusters_3.png" in {file.path for file in client.list_artifacts(summary["mlflow_run_id"])}


def test_a_rerun_embeds_only_what_has_changed(spark, folder):
    table = f"{folder}/output/images"
    file = configured(folder, output={"remove_vanished": True})
    assert embedall("images", "--config", file, "--run-id", "one").summary["rows"] == 18
    before = bits(tables.read(spark, table))
    still = embedall("images", "--config", file, "--run-id", "two").summary
    assert (still["version"], still["rows"]) == (0, 0)
    pictures = folder / "pictures"
    (pictures / "disc" / "0.png").write_bytes(saved(draw("disc", 77)))
    (pictures / "disc" / "new.png").write_bytes(saved(draw("disc", 78)))
    (pictures / "noise" / "1.png").unlink()
    (pictures / "noise" / "2.png").write_bytes(b"broken since")
    done = embedall("images", "--config", file, "--run-id", "three")
    assert (done.summary["version"], done.summary["rows"], done.summary["rejected"]) == (1, 2, 1)
    after = bits(tables.read(spark, table))
    # What cannot be read tonight keeps its vector; what is gone goes.
    assert before.keys() - after.keys() == {"noise/1.png"}
    assert after.keys() - before.keys() == {"disc/new.png"}
    assert {name for name in before if name in after and before[name] != after[name]} == {"disc/0.png"}
    assert {row.id: row.run_id for row in tables.read(spark, table).collect()}["disc/0.png"] == "three"


def test_a_killed_run_keeps_what_it_had_finished(spark, folder, monkeypatch):
    monkeypatch.setattr(images, "_PART", 6)
    whole, calls = featurize.featurize, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(featurize, "featurize", dies)
    file = configured(folder)
    assert embedall("images", "--config", file).code == 130
    again = embedall("images", "--config", file)
    assert again.code == 0, again.log
    assert "features-00000: done before" in again.log
    assert len(calls) == 4  # of three parts one was tried twice
    whole_table = bits(tables.read(spark, f"{folder}/output/images"))
    once = embedall("images", "--config", file, "--set", f"output.table={folder}/output/once")
    assert once.code == 0, once.log
    assert bits(tables.read(spark, f"{folder}/output/once")) == whole_table


def test_pictures_in_a_table_with_their_titles(spark, folder):
    names = [(kind, at) for kind in KINDS for at in range(2)]
    held = {
        "number": [10 * KINDS.index(kind) + at for kind, at in names],
        "picture": [saved(draw(kind, at), "JPEG") for kind, at in names],
        "words": [[kind, "small"] for kind, _ in names],
        "kind": [kind for kind, _ in names],
    }
    pq.write_table(pa.table(held), folder / "pictures.parquet")
    given = {"path": f"{folder}/pictures.parquet", "format": "parquet", "content": "picture", "id": "number"}
    given |= {"tags": "words", "label": "kind"}
    file = configured(folder, input=given, evaluate={"metadata": None})
    done = embedall("images", "--config", file, "--run-id", "one")
    assert done.code == 0, done.log
    assert "purity/neighbours" in done.summary["metrics"]
    items = {row.id: (row.tags, row.label) for row in tables.read(spark, f"{folder}/output/images_metadata").collect()}
    assert items["11"] == (["stripes", "small"], "stripes")
    assert embedall("images", "--config", file, "--run-id", "two").summary["rows"] == 0
    # Vectors that are made otherwise never stand beside these.
    other = ("--set", "featurize.normalize=false")
    assert embedall("images", "--config", file, *other, "--run-id", "three").summary["rows"] == 6
    assert embedall("images", "--config", file, *other, "--run-id", "four").summary["rows"] == 0


def test_a_file_is_embedded_as_the_table_was(spark, folder):
    config = configs.load(images.Config, configured(folder))
    vectors = images.embed(PlainRun(spark, folder / "run"), images.read(spark, config), config)
    row = vectors.where("id = 'stripes/3.png'").first()
    mine = images.embed_file(config, f"{folder}/pictures/stripes/3.png")
    np.testing.assert_allclose(mine, row.vector, atol=1e-5)


def test_a_dry_run_tells_how_many_pictures_there_are_and_a_gate_what_it_needs(folder):
    done = embedall("images", "--config", configured(folder), "--dry-run")
    assert (done.summary["pictures"], done.summary["vector_size"]) == (18, 1280)
    assert not (folder / "output").exists()
    with pytest.raises(ConfigError, match=r"evaluate\.gates\.clusters/purity"):
        images.check(configs.load(images.Config, configured(folder, evaluate={"gates": {"clusters/purity": 0.5}})))
