"""MNIST's files: tiny ones made here, each way to be broken, and the real ones where they are at hand."""

import gzip
import io
import struct

import numpy as np
import pytest
from conftest import shared
from PIL import Image

from embedall_spark import config
from embedall_spark.errors import BadData
from embedall_spark.schemas import IMAGES
from embedall_spark.sources import images, input_version, mnist
from embedall_spark.sources.image_config import ImagesConfig

RANDOM = np.random.default_rng(0)
PIXELS = {"train": RANDOM.integers(0, 256, (7, 3, 5), np.uint8), "t10k": RANDOM.integers(0, 256, (4, 3, 5), np.uint8)}
DIGITS = {"train": bytes([5, 0, 4, 1, 9, 2, 1]), "t10k": bytes([7, 2, 1, 0])}


def idx(magic, shape, content):
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + content


@pytest.fixture
def folder(tmp_path):
    for part, pixels in PIXELS.items():
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(0x803, pixels.shape, pixels.tobytes()))
        packed = gzip.compress(idx(0x801, (len(pixels),), DIGITS[part]))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)
    return tmp_path


def read(spark, folder, **options):
    rows = images.read(spark, config.parse(ImagesConfig, {"path": str(folder), "format": "mnist", **options}))
    assert rows.schema.simpleString() == IMAGES.simpleString()
    return {row.id: row for row in rows.collect()}


def pixels_of(row):
    return np.asarray(Image.open(io.BytesIO(row.content)))


def test_pictures_and_digits(spark, folder, monkeypatch):
    # Tasks of three pictures, and batches of two.
    monkeypatch.setattr(mnist, "_PICTURES_PER_TASK", 3)
    monkeypatch.setattr(mnist, "_CHUNK", 30)
    actual = read(spark, folder)
    assert sorted(actual) == [f"t10k/{at:05d}" for at in range(4)] + [f"train/{at:05d}" for at in range(7)]
    for part, pixels in PIXELS.items():
        for at, expected in enumerate(pixels):
            row = actual[f"{part}/{at:05d}"]
            assert (pixels_of(row) == expected).all() and row.label == str(DIGITS[part][at])
            assert row.path is None and row.problem is None and row.origin.endswith(f"{part}-images-idx3-ubyte")


def test_parts_and_versions(spark, folder):
    assert len(read(spark, folder, part="train")) == 7
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"):
        (folder / name).unlink()
    test = ImagesConfig(path=str(folder), format="mnist", part="test")
    version = input_version.version(spark, test)
    assert len(read(spark, folder, part="test")) == 4
    with pytest.raises(BadData, match=r"has neither train-images-idx3-ubyte nor train-images-idx3-ubyte\.gz"):
        read(spark, folder)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    assert input_version.version(spark, test) != version


def break_file(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


LABELS, PICTURES = "t10k-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        (PICTURES, lambda old: old[:-1], "has 75 bytes, its header says 76; get the whole file"),
        (PICTURES, lambda old: old + b"x", "has 77 bytes, its header says 76"),
        (PICTURES, lambda old: old[:10], r"magic number 2051\), found magic number 2051 in 10 bytes"),
        (PICTURES, lambda old: b"\0\0\x08\1" + old[4:], r"magic number 2051\), found magic number 2049"),
        (PICTURES, lambda old: b"", "found magic number None in 0 bytes"),
        (PICTURES, lambda old: idx(0x803, (4, 0, 5), b""), "pictures of 0 x 5 pixels, need 1 to"),
        (PICTURES, lambda old: idx(0x803, (4, 60_000, 60_000), b""), "pictures of 60000 x 60000 pixels"),
        (PICTURES, lambda old: idx(0x803, (0, 3, 5), b""), "holds nothing, by its header"),
        (
            PICTURES,
            lambda old: idx(0x803, (3, 3, 5), old[16:61]),
            "3 pictures, .* has 4 labels; need the same number",
        ),
        (LABELS, lambda old: old[:-9], "ends after [0-9]+ bytes"),
        (LABELS, lambda old: old[:-8] + b"abcdefgh", "ends after [0-9]+ bytes"),
        (LABELS, lambda old: b"plain", "cannot be read .*get the file again"),
        (LABELS, lambda old: gzip.compress(gzip.decompress(old)[:-1]), "has 11 bytes, its header says 12"),
    ],
)
def test_broken_files(spark, folder, name, change, text):
    break_file(folder, name, change)
    with pytest.raises(BadData, match=text) as caught:
        read(spark, folder, part="test")
    assert name in str(caught.value)


def test_the_real_test_pictures(spark):
    folder = shared("images", "mnist")
    actual = read(spark, folder, part="test")
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as stream:
        pixels = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as stream:
        digits = stream.read()[8:]
    assert len(actual) == len(pixels) == 10_000
    for at in range(0, 10_000, 97):
        row = actual[f"t10k/{at:05d}"]
        assert (pixels_of(row) == pixels[at]).all() and row.label == str(digits[at])
