"""An input of a few rows for each kind, and the arguments with which its command makes a table of it in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image
from toy_corpus import documents

if TYPE_CHECKING:
    from pathlib import Path

COLORS = ("red", "green", "blue")
TRAIN = ["train.vector_size=4", "train.epochs=1", "train.threads=1"]
ROWS = {"sequences": 8, "nodes": 17, "images": 24}
"""How many vectors a kind makes of its input."""
_OPTIONS = {
    "words": [*TRAIN, "vocabulary.min_count=2", "evaluate.map_words=0"],
    "sequences": [
        *("input.format=csv", "input.key=user", "input.item=page", "input.order=time", "vocabulary.min_count=1"),
        *(*TRAIN, "evaluate.map_items=0"),
    ],
    "nodes": ["walks.num_walks=2", *TRAIN, "evaluate.map_nodes=0"],
    "images": ["input.format=csv", "input.location=file", "input.title=title", "evaluate.map_images=0"],
    "latent": [
        *("input.min_items=1", "fit.k=2", "fit.power=[1]", "fit.regularisation=[[1, 1]]", "evaluate.map_ids=0"),
    ],
}
_FILES = {"words": "corpus.txt", "sequences": "events.csv", "nodes": "edges.tsv", "images": "titles.csv"}


def write(folder: Path) -> None:
    """Write the inputs of all kinds into a folder; that of latent is the table of images."""
    (folder / "corpus.txt").write_text("\n".join(documents(200)), encoding="utf-8")
    events = [f"{user},{page},{time}" for user in range(20) for time, page in enumerate("abcd" if user % 2 else "efgh")]
    (folder / "events.csv").write_text("\n".join(["user,page,time", *events]))
    (folder / "edges.tsv").write_text("\n".join(f"n{a}\tn{b}" for a in range(12) for b in (a + 1, a + 5)))
    titles = ["file,title"]
    for number in range(ROWS["images"]):
        color = COLORS[number % 3]
        Image.new("RGB", (32 + number, 32), color).save(folder / f"{number}.png")
        titles.append(f"{number}.png,{color} number {number // 3}")
    (folder / "titles.csv").write_text("\n".join(titles))


def arguments(kind: str, folder: Path, output: Path | None = None) -> list[str]:
    """Return the arguments of a kind's command; tables lie in ``output``, by default in the folder's ``out``."""
    output = output or folder / "out"
    source = f"{output}/images" if kind == "latent" else f"{folder}/{_FILES[kind]}"
    return [source, f"{output}/{kind}", *(part for text in _OPTIONS[kind] for part in ("--set", text))]
