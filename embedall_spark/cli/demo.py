"""The demo: what any fresh machine has, embedded and shown."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pyspark.sql import functions as F
from rich.console import Console
from rich.text import Text

from embedall_spark import files, run_store, session, tables
from embedall_spark.cli import demo_summary
from embedall_spark.images import thumbnails
from embedall_spark.images.decode import Limits
from embedall_spark.latent import latent_model
from embedall_spark.launch import Options, Summary, launch
from embedall_spark.search import analogy, exact, title_lookup
from embedall_spark.sources import openmoji
from embedall_spark.visualize import montage
from embedall_spark.visualize.montage import Tile

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pyspark.sql import DataFrame

    from embedall_spark.search.exact import Hit

# Words that everyday English knows otherwise: what stands beside them tells what the text is about.
_WORDS = (
    *("array", "dataframe", "gradient", "probability", "kernel", "tree"),
    *("thread", "exception", "cookie", "socket", "unicode", "plot", "monday", "deprecated"),
)
_CALLS = (
    *("numpy.zeros", "os.path.join", "json.loads", "re.compile", "open", "threading.Thread", "time.time"),
    *("subprocess.run", "hashlib.sha256", "math.sqrt", "datetime.datetime.now", "torch.nn.Linear", ".fit", ".append"),
)
_MODULES = (
    *("numpy.linalg", "pandas", "torch.nn", "sklearn.cluster", "matplotlib.pyplot", "pyspark.sql", "asyncio"),
    *("threading", "sqlite3", "json", "re", "argparse"),
)
_PICTURES = (
    *("red apple", "cat face", "fire engine", "guitar", "house", "sunflower"),
    *("soccer ball", "airplane", "hamburger", "one o\u2019clock", "snail", "key"),
)
_TYPED = ("cat", "car", "heart", "clock", "flower", "music", "food")
# Pictures never seen for which titles are suggested.
_UNTITLED = 8
# Among so many most frequent ids: rarer ones are names that only their authors know.
_KNOWN_WORDS, _KNOWN_CALLS, _KNOWN_MODULES = 8000, 2000, 2000
_ANALOGIES = (
    ("rows", "row", "columns"),
    ("min", "max", "lower"),
    ("read", "reader", "write"),
    ("encode", "decode", "serialize"),
    ("numpy", "array", "pandas"),
    ("x", "y", "width"),
)


class _Place(NamedTuple):
    """What all parts share: where they print, read and write."""

    console: Console
    folder: str
    packages: str
    master: str | None


def run(folder: str, master: str | None, kinds: Collection[str]) -> None:
    """Embed things of some of the kinds in PARTS into tables below ``folder``; print what came out, and a tour."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    place = _Place(console, folder.rstrip("/"), sysconfig.get_paths()["purelib"], master)
    console.print("Embedding what the installed Python packages hold:", os.path.relpath(place.packages))
    found = {name: part(place) for name, part in PARTS.items() if name in kinds}
    demo_summary.show(place.console, place.folder, found)


def _words(place: _Place) -> Summary:
    """Embed the words of docstrings."""
    place.console.print("\n== Words: the text of docstrings")
    found, vectors = _embed(place, "words", "words")
    place.console.print(f"{found['rows']:,} words in {found['seconds']:.0f} s; documents refused: {found['rejected']}")
    _neighbours(place.console, vectors, _WORDS, _KNOWN_WORDS)
    place.console.print("\nAnalogies (3CosAdd):")
    answers = analogy.answer(vectors, _ANALOGIES, 3, restrict=_KNOWN_WORDS)
    for (a, b, c), hits in zip(_ANALOGIES, answers, strict=True):
        place.console.print(Text(f"  {a} is to {b} as {c} is to ", "bold"), Text(_names(hits)), sep="")
    _end(place, found, "words")
    return found


def _calls(place: _Place) -> Summary:
    """Embed what functions call, one call after the other."""
    place.console.print("\n== Sequences: the calls inside each function")
    found, vectors = _embed(place, "sequences", "calls")
    place.console.print(
        f"{found['rows']:,} different calls in {found['seconds']:.0f} s; events refused: {found['rejected']}"
    )
    _neighbours(place.console, vectors, _CALLS, _KNOWN_CALLS)
    _end(place, found, "calls")
    return found


def _modules(place: _Place) -> Summary:
    """Embed modules by what they import."""
    place.console.print("\n== Nodes: which module imports which")
    found, vectors = _embed(place, "nodes", "nodes")
    place.console.print(f"{found['rows']:,} modules in {found['seconds']:.0f} s; files refused: {found['rejected']}")
    _neighbours(place.console, vectors, _MODULES, _KNOWN_MODULES)
    figures = found["metrics"]
    place.console.print(
        "\nA module's package told from its vector, half of the modules learnt from: micro F1"
        f" {figures['classification/micro_f1_50']:.2f}"
        f" (always the largest package: {figures['classification/majority_micro_f1_50']:.2f})"
        f"\nOf a module's 10 nearest, {figures['purity/neighbours']:.0%} are of its own package"
        f" (by chance {figures['purity/chance']:.0%})"
    )
    _end(place, found, "nodes")
    return found


def _pictures(place: _Place) -> Summary:
    """Embed the pictures of OpenMoji."""
    place.console.print("\n== Images: the OpenMoji pictures, through EfficientNet-Lite0")
    found, vectors = _embed(place, "images", "images", openmoji.PACKAGE)
    place.console.print(
        f"{found['rows']:,} pictures embedded in {found['seconds']:.0f} s; refused: {found['rejected']}"
    )
    spark = vectors.sparkSession
    known = tables.read(spark, files.metadata_of(found["table"]))
    meant = {title: ids[0] for title, ids in title_lookup.ids_by_title(known, vectors, _PICTURES).items()}
    asked = [title for title in _PICTURES if title in meant]
    hits = exact.neighbors(vectors, [meant[title] for title in asked], 8)
    ids = {*meant.values(), *(name for some in hits for name, _ in some)}
    named = _called(known, ids)
    place.console.print("\nNearest pictures, by cosine:")
    width = max(map(len, asked))
    for title, some in zip(asked, hits, strict=True):
        near = ", ".join(named.get(name, name) for name, _ in some[:5])
        place.console.print(Text(f"  {title:>{width}}  ", "bold"), Text(near), sep="")
    small = thumbnails.thumbnails_by_id(openmoji.read(spark), ids, Limits())
    rows = [
        (title, [Tile(small.get(name), named.get(name, name)) for name in (meant[title], *(name for name, _ in some))])
        for title, some in zip(asked, hits, strict=True)
    ]
    Path(place.folder, "images-search.png").write_bytes(montage.draw(rows))
    Path(place.folder, "images-clusters.png").write_bytes(files.read_bytes(f"{found['folder']}/artifacts/clusters.png"))
    place.console.print(
        f"\nSearches:   {place.folder}/images-search.png (each query and its eight nearest)"
        f"\nClusters:   {place.folder}/images-clusters.png"
    )
    _end(place, found, "images")
    return found


def _space(place: _Place) -> Summary:
    """Bring the pictures and their names into one space."""
    place.console.print("\n== Two kinds in one space: the pictures and their names")
    found, vectors = _embed(place, "latent", "latent", f"{place.folder}/images")
    spark, figures = vectors.sparkSession, found["metrics"]
    place.console.print(
        f"{found['rows']:,} pictures, titles and words in one space in {found['seconds']:.0f} s"
        f"\nAmong {figures['right_to_left/candidates']:.0f} pictures never seen a title finds its own first in"
        f" {figures['right_to_left/recall_1']:.0%} of cases, and among the first ten in"
        f" {figures['right_to_left/recall_10']:.0%} (by chance {figures['right_to_left/chance_recall_10']:.0%})"
    )
    parts = spark.read.parquet(run_store.stage_path(found["folder"], "split"))
    unseen = parts.where("part = 'test'").select(F.concat(F.lit("images:"), "id").alias("id"))
    pictures = vectors.join(unseen, "id", "left_semi")
    space, known = latent_model.load(found["folder"]), tables.read(spark, files.metadata_of(found["table"]))
    typed = {word: vector for word in _TYPED if (vector := space.of_text(word)) is not None}
    hits = exact.top_k(pictures, np.stack(list(typed.values())), 8)
    some = pictures.orderBy(F.xxhash64("id"), "id").limit(_UNTITLED).select("id", "vector").collect()
    others = vectors.where("kind = 'titles'").join(
        unseen.select(F.replace("id", F.lit("images:"), F.lit("titles:")).alias("id")), "id", "left_anti"
    )
    near = exact.top_k(others, np.array([row["vector"] for row in some], np.float32), 4)
    ids = {*(name for one in [*hits, *near] for name, _ in one), *(row["id"] for row in some)}
    named = _called(known, ids)
    place.console.print("\nWords typed, pictures never seen:")
    for word, one in zip(typed, hits, strict=True):
        place.console.print(Text(f"  {word:>7}  ", "bold"), Text(", ".join(named[name] for name, _ in one[:5])), sep="")
    place.console.print("\nTitles of others suggested for pictures never seen:")
    for row, one in zip(some, near, strict=True):
        suggested = ", ".join(dict.fromkeys(named[name] for name, _ in one))
        place.console.print(Text(f"  {named[row['id']]}: ", "bold"), Text(suggested), sep="")
    shown = openmoji.read(spark).withColumn("id", F.concat(F.lit("images:"), "id"))
    small = thumbnails.thumbnails_by_id(shown, ids, Limits())
    rows = [
        (word, [Tile(small.get(name), named[name]) for name, _ in one]) for word, one in zip(typed, hits, strict=True)
    ]
    Path(place.folder, "latent-search.png").write_bytes(montage.draw(rows))
    Path(place.folder, "latent-pairs.png").write_bytes(files.read_bytes(f"{found['folder']}/artifacts/pairs.png"))
    place.console.print(
        f"\nSearches:   {place.folder}/latent-search.png (the pictures found for each word)"
        f"\nPairs:      {place.folder}/latent-pairs.png (cosines of pictures and titles)"
    )
    _end(place, found, "latent")
    return found


def _embed(place: _Place, kind: str, name: str, path: str | None = None) -> tuple[Summary, DataFrame]:
    """Run a kind with its demo's configuration; return the run's summary and its vectors."""
    table = f"{place.folder}/{name}"
    overrides = [f"input.path={path or place.packages}", f"output.table={table}"]
    found = launch(kind, str(session.conf_file(f"demo-{kind}.yaml")), overrides, Options(master=place.master))
    return found, tables.read(session.get("embedall demo"), table)


def _neighbours(console: Console, vectors: DataFrame, ids: Sequence[str], known: int) -> None:
    # What a machine has not installed is not asked for.
    there = exact.find_vectors(vectors, ids)
    asked = [name for name in ids if name in there]
    if not asked:
        return
    near = exact.top_k(
        vectors, np.stack([there[name] for name in asked]), 7, exclude=[{name} for name in asked], restrict=known
    )
    width = max(map(len, asked))
    console.print("\nNearest neighbours, by cosine:")
    for name, hits in zip(asked, near, strict=True):
        console.print(Text(f"  {name:>{width}}  ", "bold"), Text(_names(hits)), sep="")


def _end(place: _Place, found: Summary, name: str) -> None:
    picture = Path(place.folder, f"{name}-map.png")
    picture.write_bytes(files.read_bytes(f"{found['folder']}/artifacts/map.png"))
    place.console.print(
        f"\nThe table:  {found['table']} (Delta, version {found['version']})"
        f"\nThe map:    {picture}"
        f"\nThe run:    {found['run_id']} in MLflow, {found['mlflow_uri']}"
    )


def _called(known: DataFrame, ids: Collection[str]) -> dict[str, str]:
    """Return the titles of ids, without the ids that titles.of() adds."""
    return {name: text.rpartition(" [")[0] for name, text in title_lookup.titles_by_id(known, ids).items()}


def _names(hits: list[Hit]) -> str:
    return ", ".join(name for name, _ in hits)


PARTS = {"words": _words, "sequences": _calls, "nodes": _modules, "images": _pictures, "latent": _space}
"""The demo's parts, by kind, in their order."""
