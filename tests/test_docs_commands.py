"""The code blocks of README and of the guides, and the notebooks, are run in one folder, as a reader would run them."""

from __future__ import annotations

import gzip
import json
import struct
import time
import traceback

import numpy as np
import pytest
import yaml
from cli_runner import embedall
from doc_blocks import ROOT, USER_DOCS, blocks
from PIL import Image, ImageDraw
from processes import call_here

from embedall_spark import config, kinds, torch_processes

pytestmark = pytest.mark.slow

BLOCKS = [block for path in USER_DOCS for block in blocks(path)]
NOTEBOOKS = sorted((ROOT / "notebooks").iterdir())
# The tables that README's examples make, in place of the demo's.
TABLES = {"sequences": "output/pages"}
# Commands with these words are only checked: by --dry-run, and what only asks by test_docs.py. Other tests do the same.
CHECKED = {
    "output/cbow": "train/test_trainer.py",
    "output/subwords": "test_subwords_end_to_end.py",
    "pipeline.yaml": "test_pipeline.py",
}


def write(folder):
    """Write what the blocks name, tiny: a corpus, events, a graph, pictures, evaluation files, their own YAML files."""
    random = np.random.default_rng(1)
    for name in ("corpus", "events", "graph", "products", "mnist"):
        (folder / name).mkdir()
    # A rotation needs as many words as there are dimensions.
    water = ["river", "rivers", "lake", "lakes", *(f"water{number}" for number in range(60))]
    land = ["mountain", "mountains", "hill", "hills", "tree", *(f"land{number}" for number in range(60))]
    lines = [" ".join(random.choice(water if at % 2 else land, 9)) for at in range(1200)]
    for part in range(2):
        (folder / "corpus" / f"{part}.txt").write_text("\n".join(lines[part::2]) + "\n")
    (folder / "analogies.txt").write_text(": plural\nriver rivers lake lakes\nmountain mountains hill hills\n")
    (folder / "similarity.tsv").write_text("river\tlake\t9\nriver\thill\t2\ntree\tmountain\t8\ntree\twater3\t1\n")
    for part in range(2):
        rows = [
            f"u{user},{'home' if step == 0 else f'page{user % 4}-{random.integers(6)}'},{1_700_000_000 + 60 * step}"
            for user in range(part, 300, 2)
            for step in range(8)
        ]
        (folder / "events" / f"{part}.csv").write_text("\n".join(["user,page,time", *rows]) + "\n")
    edges = [f"{side}{at}\t{side}{random.integers(20)}" for side in "ab" for at in range(20) for _ in range(4)]
    (folder / "graph" / "edges.tsv").write_text("\n".join([*edges, "a1\tb1"]) + "\n")
    names = [f"{side}{at}" for side in "ab" for at in range(20)]
    (folder / "graph" / "labels.tsv").write_text("".join(f"{name}\t{name[0]}\n" for name in names))
    draw_pictures(folder, random)
    draw_digits(folder / "mnist", random)
    (folder / "conf").symlink_to(ROOT / "conf")
    for block in BLOCKS:
        if block.language == "yaml":
            (folder / block.body.partition("\n")[0].removeprefix("# ")).write_text(block.body)


def draw_pictures(folder, random):
    """Draw discs and stripes; and products with titles of a color, a shape, and some of many other words."""
    for kind in ("disc", "stripes"):
        (folder / "pictures" / kind).mkdir(parents=True)
        for at in range(4):
            color = tuple(random.integers(0, 255, 3).tolist())
            shape(kind, color).save(folder / "pictures" / kind / f"{at}.png")
    shape("disc", "red").save(folder / "query.png")
    rows = ["file,title,color"]
    for at in range(160):
        color, kind = ("red", "blue", "green", "black")[at % 4], ("circle", "square", "triangle")[at % 3]
        picture = shape(kind, color, int(random.integers(20)))
        # No two pictures are alike, or they would be near-duplicates of a few.
        for x, y, size in random.integers(2, 62, (8, 3)).tolist():
            ImageDraw.Draw(picture).line((x, y, y, size), fill=tuple(random.integers(0, 255, 3).tolist()), width=3)
        picture.save(folder / "products" / f"{at:03}.png")
        rows.append(f"{at:03}.png,{color} {kind} {' '.join(f'word{w}' for w in random.integers(0, 70, 4))},{color}")
    (folder / "products" / "titles.csv").write_text("\n".join(rows) + "\n")


def shape(kind, color, shift=0):
    """Return a picture of one shape."""
    picture = Image.new("RGB", (64, 64), "white")
    pen, left, right = ImageDraw.Draw(picture), 4 + shift, 40 + shift
    if kind == "stripes":
        for line in range(0, 64, 8):
            pen.line((line, 0, line, 64), fill=color, width=3)
    elif kind == "square":
        pen.rectangle((left, 12, right, 48), fill=color)
    elif kind == "triangle":
        pen.polygon(((left, 48), (right, 48), ((left + right) / 2, 12)), fill=color)
    else:
        pen.ellipse((left, 12, right, 48), fill=color)
    return picture


def draw_digits(folder, random):
    """Write MNIST's four files with a few digits."""
    for part, count in (("train", 300), ("t10k", 60)):
        labels = np.arange(count) % 10
        digits = np.zeros((count, 28, 28), np.uint8)
        for at, label in enumerate(labels):
            digit = Image.new("L", (28, 28))
            ImageDraw.Draw(digit).text(tuple(random.integers(4, 9, 2)), str(label), fill=255, font_size=16)
            digits[at] = np.asarray(digit)
        for name, magic, data in (("images-idx3", 2051, digits), ("labels-idx1", 2049, labels.astype(np.uint8))):
            head = struct.pack(f">{1 + data.ndim}i", magic, *data.shape)
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + data.tobytes()))


def commands(block):
    """Yield the arguments of the commands that are run for a block."""
    if block.skipped or block.language != "sh":
        return
    for program, *arguments in block.commands:
        assert program == "embedall", f"{program}: mark its block with <!-- not run: why -->"
        if not CHECKED.keys() & {*arguments}:
            yield arguments
        elif arguments[0] in (*kinds.names(), "pipeline"):
            yield [*arguments, *(["--dry-run"] if "--dry-run" not in arguments else [])]
        # Else it asks about a table that is not there.


def steps():
    """Yield what is run, in order: a command that stands in several documents once, and then the notebooks."""
    ran = set()
    for block in BLOCKS:
        if not block.skipped and block.language == "python":
            yield {"document": block.document, "code": block.body}
        for arguments in commands(block):
            if tuple(arguments) not in ran:
                ran.add(tuple(arguments))
                yield {"document": block.document, "command": arguments}
    for path in NOTEBOOKS:
        table = TABLES.get(path.stem, f"output/{path.stem}")
        tables = "output/words output/pages output/nodes output/images output/latent"
        for cell in cells(path):
            if cell["cell_type"] == "code":
                environment = {"EMBEDALL_TABLE": table, "EMBEDALL_TABLES": tables}
                yield {"document": path.name, "code": "".join(cell["source"]), "environment": environment}


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.fixture(scope="module")
def folder(jvm_folder):
    write(jvm_folder)
    return jvm_folder


@pytest.fixture(scope="module")
def ran(spark, own_store, folder):
    """Return the folder where all is run, and what went wrong by document, of which the rest is then left out."""
    failed, names = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MPLBACKEND", "Agg")
        patch.setattr(torch_processes, "run", call_here)
        for step in steps():
            document = step["document"]
            if document not in failed:
                begun = time.monotonic()
                for key, value in step.get("environment", {}).items():
                    patch.setenv(key, value)
                try:
                    run(step, names.setdefault(document, {"__name__": "__main__"}))
                except Exception:
                    failed[document] = traceback.format_exc()
                what = " ".join(step.get("command", [step.get("code", "")[:40].replace("\n", " ")]))
                print(f"{time.monotonic() - begun:6.1f} s  {document}: {what}")
    return folder, failed


def run(step, names):
    """Run one step; raise what goes wrong."""
    if "code" in step:
        exec(compile(step["code"], step["document"], "exec"), names)
        return
    result = embedall(*step["command"])
    if result.code != 0:
        raise RuntimeError(f"{' '.join(step['command'])}: exit code {result.code}: {result.log[-2000:]}")


@pytest.mark.parametrize("name", [path.name for path in [*USER_DOCS, *NOTEBOOKS]])
def test_a_document_runs_from_top_to_bottom(ran, name):
    assert name not in ran[1], ran[1][name]


def test_results_are_there(ran):
    folder, _ = ran
    assert (folder / "output" / "imported" / "_delta_log").is_dir()
    assert json.loads((folder / "summary.json").read_text())["status"] == "done"
    assert "disc/" in (folder / "found.html").read_text()
    assert all(Image.open(folder / name).width > 100 for name in ("found.png", "clusters.png"))


def test_the_configurations_are_valid(folder):
    tables = [config.load(kinds.load(kind).Config, folder / f"{kind}.yaml").output.table for kind in kinds.names()]
    assert tables == ["output/images", "output/latent", "output/nodes", "output/pages", "output/words"]
    assert yaml.safe_load((folder / "words.yaml").read_text())["train"]["workers"] == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_committed_without_outputs(path):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells(path) if "outputs" in cell)


def test_what_is_only_checked_is_done_by_other_tests():
    assert all((ROOT / "tests" / name).is_file() for name in CHECKED.values())


def test_there_is_a_notebook_for_each_kind():
    assert {path.stem for path in NOTEBOOKS} == {"00_tour", *kinds.names()}
