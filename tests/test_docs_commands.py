"""README's code blocks are run, in their order, in one folder, as a reader would run them."""

import gzip
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import QUICK_JAVA
from PIL import Image, ImageDraw

from embedall_spark import config, kinds

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- not run[^>]*-->\n)?```(\w+)\n(.*?)```", README, re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the blocks name: a corpus, evaluation files, and words.yaml from README's own block."""
    place = tmp_path_factory.mktemp("readme")
    (place / "corpus").mkdir()
    # Several workers want some dozens of words.
    water = ["river", "rivers", "lake", "lakes", *(f"water{number}" for number in range(40))]
    land = ["mountain", "mountains", "hill", "hills", "tree", *(f"land{number}" for number in range(40))]
    random = np.random.default_rng(1)
    lines = [" ".join(random.choice(water if at % 2 else land, 9)) for at in range(1200)]
    for part in range(2):
        (place / "corpus" / f"{part}.txt").write_text("\n".join(lines[part::2]) + "\n")
    (place / "analogies.txt").write_text(": plural\nriver rivers lake lakes\nmountain mountains hill hills\n")
    (place / "similarity.tsv").write_text("river\tlake\t9\nriver\thill\t2\ntree\tmountain\t8\ntree\twater3\t1\n")
    (place / "events").mkdir()
    for part in range(2):
        rows = [
            f"u{user},{'home' if step == 0 else f'page{user % 4}-{random.integers(6)}'},{1_700_000_000 + 60 * step}"
            for user in range(part, 300, 2)
            for step in range(8)
        ]
        (place / "events" / f"{part}.csv").write_text("\n".join(["user,page,time", *rows]) + "\n")
    (place / "graph").mkdir()
    edges = [f"{side}{at}\t{side}{random.integers(20)}" for side in "ab" for at in range(20) for _ in range(4)]
    (place / "graph" / "edges.tsv").write_text("\n".join([*edges, "a1\tb1"]) + "\n")
    names = [f"{side}{at}" for side in "ab" for at in range(20)]
    (place / "graph" / "labels.tsv").write_text("".join(f"{name}\t{name[0]}\n" for name in names))
    draw_pictures(place, random)
    for _, language, body in BLOCKS:
        if language == "yaml":
            (place / body.partition("\n")[0].removeprefix("# ")).write_text(body)
    return place


def draw_pictures(place, random):
    """Draw discs and stripes, and MNIST's files with a few digits; conf/ is where README has it."""
    for kind in ("disc", "stripes"):
        (place / "pictures" / kind).mkdir(parents=True)
        for at in range(4):
            picture = Image.new("RGB", (64, 64), tuple(random.integers(0, 255, 3).tolist()))
            pen = ImageDraw.Draw(picture)
            for line in range(0, 64, 8) if kind == "stripes" else ():
                pen.line((line, 0, line, 64), fill="white", width=3)
            if kind == "disc":
                pen.ellipse((10, 10, 40 + at, 40 + at), fill="white")
            picture.save(place / "pictures" / kind / f"{at}.png")
    picture.save(place / "query.png")
    (place / "mnist").mkdir()
    for part, count in (("train", 300), ("t10k", 60)):
        labels = np.arange(count) % 10
        digits = np.zeros((count, 28, 28), np.uint8)
        for at, label in enumerate(labels):
            digit = Image.new("L", (28, 28))
            ImageDraw.Draw(digit).text(tuple(random.integers(4, 9, 2)), str(label), fill=255, font_size=16)
            digits[at] = np.asarray(digit)
        for name, magic, data in (("images-idx3", 2051, digits), ("labels-idx1", 2049, labels.astype(np.uint8))):
            head = struct.pack(f">{1 + data.ndim}i", magic, *data.shape)
            (place / "mnist" / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + data.tobytes()))
    (place / "conf").symlink_to(ROOT / "conf")


def test_the_configurations_are_valid(folder):
    tables = [config.load(kinds.load(kind).Config, folder / f"{kind}.yaml").output.table for kind in kinds.names()]
    assert tables == ["output/images", "output/latent", "output/nodes", "output/pages", "output/words"]
    assert yaml.safe_load((folder / "words.yaml").read_text())["train"]["workers"] == 1


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make ([\w-]+)$", README, re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_blocks_run_in_their_order(folder):
    """In one process, so that Spark is started once; commands through the function that ``embedall`` calls."""
    script = ["from embedall_spark.cli import call"]
    ran = []
    for skipped, language, body in BLOCKS:
        if not skipped and language == "python":
            script.append(body)
        elif not skipped and language == "sh":
            for program, *arguments in _commands(body):
                assert program == "embedall", f"{program}: mark its block with <!-- not run: why -->"
                ran.append(arguments[0])
                script.append(f"assert call({arguments}) == 0, {shlex.join(arguments)!r}")
    assert ran == [
        *("words", "words", "words", "sequences", "similar", "nodes", "similar", "evaluate"),
        *("images", "search", "search", "cluster", "train-backbone", "images", "search", "index", "search"),
        *("similar", "analogy", "evaluate", "export", "import", "projector", "projector", "clean"),
    ]
    environment = {**os.environ, "JAVA_TOOL_OPTIONS": QUICK_JAVA}
    command = [sys.executable, "-c", "\n".join(script)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    assert (folder / "output" / "imported" / "_delta_log").is_dir()
    assert (folder / "summary.json").exists()
    assert "stripes/" in (folder / "found.html").read_text()
    assert all(Image.open(folder / name).width > 100 for name in ("found.png", "clusters.png"))


def _commands(body):
    """Yield a block's commands but those of make, which this very test is part of."""
    for line in body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] != "make":
            yield words
