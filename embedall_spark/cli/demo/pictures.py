"""The demo's parts about pictures: OpenMoji alone, and in one space with their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import functions as F

from embedall_spark import committed_files, files, progress, run_manifest, tables
from embedall_spark.cli.demo.part import Part, embed, heading, layout, print_rows, save
from embedall_spark.images import thumbnails
from embedall_spark.latent import latent_model
from embedall_spark.search import exact, title_lookup
from embedall_spark.sources import openmoji
from embedall_spark.sources.image_limits import Limits
from embedall_spark.visualize import montage
from embedall_spark.visualize.montage import Tile
from embedall_spark.visualize.results_sheet import Grid, Mosaic

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from PIL import Image
    from pyspark.sql import DataFrame

    from embedall_spark.cli.demo.part import Demo
    from embedall_spark.run_result import Summary

CREDIT = "Pictures: OpenMoji (openmoji.org), license CC BY-SA 4.0"
_PICTURES = (
    *("red apple", "cat face", "fire engine", "guitar", "house", "sunflower"),
    *("soccer ball", "airplane", "hamburger", "one o\u2019clock", "snail", "key"),
)
_TYPED = ("cat", "car", "heart", "clock", "flower", "music", "food")
_UNTITLED = 8  # pictures for which titles are suggested
_PRINTED = 5  # hits of a query on the screen; pictures show more
_PREFIX = "images:"  # of the pictures' ids in the latent space


def images(demo: Demo) -> Part:
    """Embed the pictures of OpenMoji."""
    heading(demo, "Images: the OpenMoji pictures, through EfficientNet-Lite0")
    summary, vectors = embed(demo, "images", "images", openmoji.PACKAGE, "pictures")
    metadata = tables.read(vectors.sparkSession, files.metadata_of(summary["table"]))
    with progress.activity("searching"):
        ids = {title: names[0] for title, names in title_lookup.ids_by_title(metadata, vectors, _PICTURES).items()}
        queries = [title for title in _PICTURES if title in ids]
        hits = exact.neighbors(vectors, [ids[title] for title in queries], 8)
        neighbors = [[name for name, _ in row] for row in hits]
        mapped, places = layout(vectors)
        shown = {*ids.values(), *(name for row in neighbors for name in row)}
        titles, small = _titles(metadata, shown), _thumbnails(vectors, shown | {*mapped})
    rows = list(zip(queries, neighbors, strict=True))
    print_rows(
        demo,
        "Nearest pictures, by cosine similarity",
        [(title, [titles[name] for name in row[:_PRINTED]]) for title, row in rows],
    )
    sheet = montage.draw([(title, _tiles([ids[title], *row], titles, small)) for title, row in rows])
    save(
        demo,
        summary,
        {
            "images-search.png": (sheet, "each query and its eight nearest pictures"),
            "images-clusters.png": (_artifact(summary, "clusters.png"), "20 clusters (k-means)"),
        },
    )
    drawn = [index for index, name in enumerate(mapped) if name in small]
    pictures = [small[mapped[index]] for index in drawn]
    return Part(summary, Mosaic("Pictures, arranged by what they show", places[drawn], pictures))


def latent(demo: Demo) -> Part:
    """Bring the pictures and their names into one space."""
    heading(demo, "Two kinds in one latent space: the pictures and their names")
    summary, vectors = embed(demo, "latent", "latent", f"{demo.folder}/images", "pictures, titles and words")
    figures = summary["metrics"]
    demo.console.print(
        f"Searched by its title among {figures['right_to_left/candidates']:.0f} pictures that were not trained on, a"
        f" picture is the first hit in {figures['right_to_left/recall_1']:.0%} of cases, and among the first ten in"
        f" {figures['right_to_left/recall_10']:.0%} (by chance {figures['right_to_left/chance_recall_10']:.0%})"
    )
    with progress.activity("searching"):
        unseen = _unseen(vectors, summary)
        space = latent_model.load(summary["folder"])
        typed = {word: vector for word in _TYPED if (vector := space.project_text(word)) is not None}
        matches = exact.top_k(unseen, np.stack(list(typed.values())), 8)
        untitled = unseen.orderBy(F.xxhash64("id"), "id").limit(_UNTITLED).select("id", "vector").collect()
        suggested = exact.top_k(
            _seen_titles(vectors, unseen), np.array([row["vector"] for row in untitled], np.float32), 4
        )
        names = {*(row["id"] for row in untitled), *(name for row in [*matches, *suggested] for name, _ in row)}
        titles = _titles(tables.read(vectors.sparkSession, files.metadata_of(summary["table"])), names)
        small = _thumbnails(vectors, {name.removeprefix(_PREFIX) for row in matches for name, _ in row})
    rows = [(word, [name for name, _ in row]) for word, row in zip(typed, matches, strict=True)]
    print_rows(
        demo,
        "Words typed, and the nearest pictures that were not trained on",
        [(word, [titles[name] for name in row[:_PRINTED]]) for word, row in rows],
    )
    print_rows(
        demo,
        "Pictures that were not trained on, and titles suggested for them",
        [
            (titles[row["id"]], dict.fromkeys(titles[name] for name, _ in hits))
            for row, hits in zip(untitled, suggested, strict=True)
        ],
    )
    tiles = [
        (word, _tiles(row, titles, {f"{_PREFIX}{name}": image for name, image in small.items()})) for word, row in rows
    ]
    save(
        demo,
        summary,
        {
            "latent-search.png": (montage.draw(tiles), "the nearest pictures of each word"),
            "latent-pairs.png": (_artifact(summary, "pairs.png"), "cosines of pictures and titles"),
        },
    )
    return Part(summary, Grid("Pictures found by a word; none was trained on", tiles))


def _unseen(vectors: DataFrame, summary: Summary) -> DataFrame:
    """Return the vectors of the pictures that were not trained on."""
    parts = committed_files.read(vectors.sparkSession.read, [run_manifest.stage_path(summary["folder"], "split")])
    ids = parts.where("part = 'test'").select(F.concat(F.lit(_PREFIX), "id").alias("id"))
    return vectors.join(ids, "id", "left_semi")


def _seen_titles(vectors: DataFrame, unseen: DataFrame) -> DataFrame:
    """Return the vectors of the titles of all other pictures."""
    title_ids = unseen.select(F.replace("id", F.lit(_PREFIX), F.lit("titles:")).alias("id"))
    return vectors.where("kind = 'titles'").join(title_ids, "id", "left_anti")


def _tiles(names: Sequence[str], titles: dict[str, str], small: dict[str, Image.Image]) -> list[Tile]:
    return [Tile(small.get(name), titles[name]) for name in names]


def _titles(metadata: DataFrame, ids: Collection[str]) -> dict[str, str]:
    """Return the title of each id, or the id itself, without the id that titles_by_id() adds."""
    titles = title_lookup.titles_by_id(metadata, ids)
    return {name: titles[name].rpartition(" [")[0] if name in titles else name for name in ids}


def _thumbnails(vectors: DataFrame, ids: Collection[str]) -> dict[str, Image.Image]:
    return thumbnails.thumbnails_by_id(openmoji.read(vectors.sparkSession), ids, Limits(svg=True))


def _artifact(summary: Summary, name: str) -> bytes:
    return files.read_bytes(f"{summary['folder']}/artifacts/{name}")
