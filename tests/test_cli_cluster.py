"""'embedall cluster' as a user runs it: a table of assignments, what is printed, and a montage."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from cli_runner import embedall
from PIL import Image
from vector_tables import table

from embedall_spark import tables
from embedall_spark.cli.shared import provenance
from embedall_spark.errors import BadData
from embedall_spark.schemas import CLUSTERS, VECTORS
from embedall_spark.sources.image_config import ImagesConfig

COLORS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def things(spark, tmp_path_factory):
    """A table of 24 vectors of three kinds, 12, 8 and 4 of each, with names and pictures."""
    folder = tmp_path_factory.mktemp("things")
    kind = np.repeat([0, 1, 2], [12, 8, 4])
    ids = [f"{COLORS[k]}/{i}" for i, k in enumerate(kind)]
    vectors = table(spark, ids, np.eye(3)[kind] + np.random.default_rng(2).normal(0, 0.1, (24, 3)))
    tables.write(spark, vectors, f"{folder}/things", VECTORS, mode="error", run_id="r", vector_size=3)
    lines = [f"{name}\tThing {i}\t{COLORS[k]}" for i, (name, k) in enumerate(zip(ids, kind, strict=True))]
    (folder / "names.tsv").write_text("id\ttitle\tkind\n" + "\n".join(lines) + "\n")
    for color in COLORS:
        (folder / "pictures" / color).mkdir(parents=True)
    for name, k in zip(ids[1:], kind[1:], strict=True):
        Image.new("RGB", (30, 30), COLORS[k]).save(folder / "pictures" / f"{name}.png")
    return folder


def test_clusters_are_written_told_and_drawn(spark, things):
    names = ["--names", f"{things}/names.tsv", "--title-column", "title", "--label-column", "kind"]
    pictures = ["--montage", f"{things}/m.png", "--images", f"{things}/pictures", "--image-pattern", "{id}.png"]
    result = embedall("cluster", f"{things}/things", "-k", 3, "-n", 2, "--output", f"{things}/c", *names, *pictures)
    assert result.code == 0, result.log
    lines = result.output.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["0", "12"], ["1", "8"], ["2", "4"]]
    assert "[red/" in lines[1] and lines[1].count("Thing") == 2
    assert "purity 1.0000, nmi 1.0000" in lines
    written = tables.read(spark, f"{things}/c")
    assert written.schema.fieldNames() == CLUSTERS.fieldNames()
    actual = {row["id"]: row["cluster"] for row in written.collect()}
    assert len(actual) == 24 and all(COLORS[cluster] == name.split("/")[0] for name, cluster in actual.items())
    pixels = np.asarray(Image.open(io.BytesIO((things / "m.png").read_bytes())).convert("RGB"))
    tops = [np.nonzero((pixels == color).all(axis=2))[0].min() for color in ((255, 0, 0), (0, 128, 0), (0, 0, 255))]
    assert tops == sorted(tops)


def test_what_cannot_be_done_is_told(things):
    assert embedall("cluster", f"{things}/things", "-k", 30).code == 3
    result = embedall("cluster", f"{things}/things", "-k", 3, "--montage", f"{things}/x.png")
    assert result.code == 2 and "give --images FOLDER" in result.log
    result = embedall("cluster", f"{things}/things", "-k", 3, "--images", str(things))
    assert result.code == 2 and "--montage" in result.log
    result = embedall("cluster", f"{things}/things", "-k", 2000, "-n", 6)
    assert result.code == 2 and "10,000" in result.log
    assert not (things / "x.png").exists()


def test_pictures_that_were_moved_are_an_error_that_names_the_option(spark, things, monkeypatch):
    gone = SimpleNamespace(input=ImagesConfig(path=f"{things}/gone"))
    monkeypatch.setattr(provenance, "image_config_of", lambda *_: gone)
    with pytest.raises(BadData, match=r"/gone, where its run read them .*; if they were moved, give --images FOLDER"):
        provenance.pictures(spark, f"{things}/things", None, "{id}")
