"""Next-item prediction: our vectors beside gensim's, popularity and co-occurrence, on one split of each data set.

d=128, 5 negatives, sample 1e-3, min_count 5, 20 epochs; of ordered stories windows of 5, of baskets the whole basket.
"""

from __future__ import annotations

import csv
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedall_spark import config as configs
from embedall_spark import session
from embedall_spark.corpus import encoded_pages
from embedall_spark.evaluate import label_metrics, next_item
from embedall_spark.kinds import sequences
from embedall_spark.launch import Options, launch
from embedall_spark.sources import metadata as metadata_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.kinds.sequences import Config

    Stories = Iterator[Sequence[str]]
    Figures = dict[str, float]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "sequences"
DIM, EPOCHS, STORIES, LIKED = 128, 20, 5000, 4
ORDERED = {"ml_latest_small", "wikispeedia_paths"}
LABELS = {
    "ml_latest_small": {"path": "ml_latest_small/movies.csv", "id": "movieId", "label": "genres", "split": "|"},
    "recipes": {"path": "ingredients.csv"},
    "wikispeedia_paths": {"path": "articles.csv"},
}
FIGURES = ("hit_rate_10", "hit_rate_20", "mrr_10", "mrr_20")
# Of 5,000 stories a hit rate has a standard error of up to .007, of the 609 of MovieLens .015.
NAMES = ["groceries_arules", "recipes", "wikispeedia_paths", "ml_latest_small", "retail_fimi"]
GOALS = {f"{name}_{figure}_minus_gensim": -0.02 for name in NAMES for figure in ("hit_rate_20", "mrr_20")}
QUICK = "groceries_arules"
QUICK_GOALS = {name: goal for name, goal in GOALS.items() if name.startswith(QUICK)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--data", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(arguments)
    ratios: Figures = {}
    if not SHARED.exists():
        print("no corpus: the shared data are not beside this checkout", flush=True)
    elif not common.absent("gensim"):
        if not options.quick:
            common.announce(30)
        with tempfile.TemporaryDirectory(prefix="embedall-sequences-") as work:
            for name in [QUICK] if options.quick else options.data:
                ratios |= compare(name, Path(work), 3 if options.quick else options.epochs)
    print(common.result("sequences", ratios, QUICK_GOALS if options.quick else GOALS))


def compare(name: str, work: Path, epochs: int) -> Figures:
    """Return our figures on one data set and how they differ from the others'."""
    overrides = settings(name, work, epochs)
    since = time.perf_counter()
    summary = launch("sequences", None, overrides, Options(master=f"local[{common.THREADS}]"))
    ours = dict(summary["metrics"])
    common.say(f"{name} ours", seconds=time.perf_counter() - since, **ours)
    spark, config = session.get("sequences"), configs.load(sequences.Config, None, overrides)
    theirs = gensim(spark, Path(summary["folder"]), config)
    common.say(f"{name} gensim", **theirs)
    ratios: Figures = {}
    for figure in FIGURES:
        ratios[f"{name}_{figure}"] = ours[f"next_item/{figure}"]
        ratios[f"{name}_{figure}_minus_gensim"] = ours[f"next_item/{figure}"] - theirs[f"next_item/{figure}"]
        for other in ("popularity", "cooccurrence"):
            ratios[f"{name}_{figure}_minus_{other}"] = ours[f"next_item/{figure}"] - ours[f"{other}/{figure}"]
    if "purity/neighbours" in ours:
        ratios[f"{name}_purity"] = ours["purity/neighbours"]
        ratios[f"{name}_purity_minus_gensim"] = ours["purity/neighbours"] - theirs["purity/neighbours"]
    return ratios


def settings(name: str, work: Path, epochs: int) -> list[str]:
    """Write a data set's events and labels; return our configuration as overrides."""
    write(work / f"{name}.csv", ("key", "item", "order"), events(name))
    values: dict[str, Any] = {
        "input.path": work / f"{name}.csv", "input.format": "csv", "output.table": work / name / "items",
        "train.vector_size": DIM, "train.epochs": epochs, "train.threads": common.THREADS, "evaluate.map_items": 0,
        "evaluate.holdout": 1.0, "evaluate.max_stories": STORIES,
    }  # fmt: skip
    if name in ORDERED:
        values["input.order"] = "order"
    for key, value in LABELS.get(name, {}).items():
        values[f"evaluate.metadata.{key}"] = f"'{value}'"
    if name in LABELS and "split" not in LABELS[name]:
        write(work / LABELS[name]["path"], ("id", "label"), categories(name))
        values["evaluate.metadata.path"] = work / LABELS[name]["path"]
    elif name in LABELS:
        values["evaluate.metadata.path"] = SHARED / LABELS[name]["path"]
    return [f"{key}={value}" for key, value in values.items()]


def write(file: Path, header: Sequence[str], rows: Stories) -> None:
    """Write rows as CSV."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(header)
        writer.writerows(rows)


def events(name: str) -> Stories:
    """Yield (key, item, order) of every event; of baskets the order is the one in the file, and is not used."""
    folder = SHARED / name
    if name == "ml_latest_small":
        with (folder / "ratings.csv").open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if float(row["rating"]) >= LIKED:
                    yield row["userid"], row["movieid"], row["timestamp"]
        return
    files = {"groceries_arules": "groceries.csv", "recipes": "allr_recipes.txt", "retail_fimi": "retail.dat"}
    with (folder / files.get(name, "paths_unfinished.tsv")).open(encoding="utf-8") as lines:
        for story, line in enumerate(lines):
            for at, item in enumerate(items(name, line.rstrip("\n"))):
                yield str(story), item, str(at)


def items(name: str, line: str) -> Sequence[str]:
    """Return the items in a line."""
    if name == "groceries_arules":
        return line.split(",")
    if name == "recipes":
        return line.split("\t")[1:]
    if name == "retail_fimi":
        return line.split()
    # Articles as they were clicked; to go back is no click.
    path = [] if line.startswith("#") or not line else line.split("\t")[3].split(";")
    return [article for article in path if article != "<"]


def categories(name: str) -> Stories:
    """Yield (item, category)."""
    file, first = ("recipes/ingr_info.tsv", 1) if name == "recipes" else ("wikispeedia_paths/categories.tsv", 0)
    with (SHARED / file).open(encoding="utf-8") as lines:
        for line in lines:
            if "\t" in line and not line.startswith("#"):
                # The category's first level, which all articles have: subject.Science.Biology is Science.
                item, category = line.rstrip("\n").split("\t")[first : first + 2]
                yield item, category.split(".")[1] if name == "wikispeedia_paths" else category


def gensim(spark: SparkSession, folder: Path, config: Config) -> Figures:
    """Train gensim's Word2Vec on what ours was trained on; return the same figures, by the same functions."""
    from gensim.models import Word2Vec

    train = config.training
    stages = {name: spark.read.parquet(str(stage(folder, name))) for name in ("holdout", "blocks", "vocabulary")}
    since = time.perf_counter()
    model = Word2Vec(
        without_holdout(folder), sg=1, hs=0, vector_size=train.vector_size, window=train.window,
        negative=train.negative, shrink_windows=train.shrink_windows, ns_exponent=train.ns_exponent,
        sample=train.sample, alpha=train.alpha, min_alpha=train.min_alpha, epochs=train.epochs,
        min_count=config.vocabulary.min_count, workers=common.THREADS, seed=1,
    )  # fmt: skip
    seconds = time.perf_counter() - since
    vectors = as_table(spark, model, folder)
    vocabulary = str(stage(folder, "vocabulary"))
    holdout, blocks, pages_vocabulary = stages["holdout"], stages["blocks"], stages["vocabulary"]
    figures = {"seconds": seconds, **next_item.evaluate(holdout, vectors, blocks, pages_vocabulary, vocabulary, train)}
    if config.evaluate.metadata is not None:
        figures |= label_metrics.purity(vectors, metadata_source.read(spark, config.evaluate.metadata))
    return figures


def stage(folder: Path, name: str) -> Path:
    """Return the folder of a run's stage."""
    return folder / "stages" / json.loads((folder / "stages" / f"{name}.json").read_text())["folder"]


def without_holdout(folder: Path) -> list[list[str]]:
    """Return the sequences of a run, without the last items that were held out."""
    holdout = set(pq.read_table(stage(folder, "holdout"), columns=["id"])["id"].to_pylist())
    stories = []
    for batch in pq.read_table(stage(folder, "pages")).to_batches():
        for page in encoded_pages.read(batch):
            tokens = np.array(page.tokens.to_pylist(), object)[page.codes]
            for key, part in zip(page.ids.tolist(), np.split(tokens, np.cumsum(page.lengths)[:-1]), strict=True):
                stories.append(part[:-1].tolist() if key in holdout else part.tolist())
    return stories


def as_table(spark: SparkSession, model: Any, folder: Path) -> DataFrame:
    """Return gensim's vectors as ours, context vectors included."""
    file = folder / "gensim.parquet"
    counts = [model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key]
    columns = {
        "id": model.wv.index_to_key,
        "vector": list(model.wv.vectors),
        "context": list(model.syn1neg),
        "norm": np.linalg.norm(model.wv.vectors, axis=1).astype(float),
        "count": pa.array(counts, pa.int64()),
    }
    pq.write_table(pa.table(columns), file)
    return spark.read.parquet(str(file))


if __name__ == "__main__":
    main()
