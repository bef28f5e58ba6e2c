"""Two kinds in one space: photos of products and their titles, each found by the other on products never seen.

Options are chosen on validation products; the figures are of test products, about 800 each beside the other.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import common
import latent_measures as measures
import numpy as np
import products
from products import STAGES

from embedall_spark.latent.preprocessing import Preparation, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from products import Product
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.latent.fit.cca import Maps
    from embedall_spark.latent.fit.covariance import Moments
    from embedall_spark.latent.text.text_features import TextModel

    Matrix = NDArray[np.float32]
    Figures = dict[str, float]
    Parts = dict[str, NDArray[np.int64]]

LAST = ("mobilenet",)
BOTH = ("mobilenet", "squeezenet")
DEEP = ("mobilenet", *(f"stage{stage}" for stage in STAGES))
ALL = (*BOTH, *(f"stage{stage}" for stage in STAGES))
SIDES = {"title": "", "title+attributes": "attributes_"}
WAYS = {"right_to_left": "text_to_image", "left_to_right": "image_to_text"}
GOALS = {"text_to_image_recall_10": 0.85, "image_to_text_recall_10": 0.85}


class Trial(NamedTuple):
    """Hyperparameters of one fit."""

    left: tuple[str, ...]
    right: str
    power: float
    regularization: tuple[float, float]
    k: int
    strength: float
    csls: int = 0


class Data(NamedTuple):
    """Both sides, row by row in the order of the products."""

    products: list[Product]
    features: dict[str, Matrix]
    bags: dict[str, Matrix]
    models: dict[str, TextModel]
    parts: Parts


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--figure", type=Path, help="write a montage of colors exchanged by words to this PNG")
    parser.add_argument("--moments", type=int, metavar="ROWS", help="only measure the moments pass over so many rows")
    options = parser.parse_args(arguments)
    ratios: Figures = {}
    if options.moments or options.quick:
        from covariance_rate import rate

        ratios = rate(options.moments or 40_000, options.quick)
        print(common.result("latent", ratios, {}))
        return
    if not products.PHOTOS.exists():
        print("no photos: the shared data are not beside this checkout", flush=True)
    else:
        common.announce(30)
        ratios = compare(options.figure)
    print(common.result("latent", ratios, GOALS))


def compare(figure: Path | None) -> Figures:
    """Return all figures."""
    from embedall_spark import session

    spark = session.get("latent", master=f"local[{common.THREADS}]")
    data = load(spark)
    ratios: Figures = {}
    for right, prefix in SIDES.items():
        best = choose(data, right)
        figures, maps = measure(spark, data, best)
        ratios |= {f"{prefix}{WAYS[way]}_{name}": value for way, name, value in _named(figures)}
        nearest = measures.nearest_product(data, right)
        common.say(f"nearest training product, {right}", **nearest)
        ratios |= {f"{prefix}{name}_minus_nearest": ratios[prefix + name] - value for name, value in nearest.items()}
        if right == "title":
            ratios |= measures.exactness(data) | measures.suggestions(data, best, maps)
            ratios |= measures.completions(data, best, maps)
            ratios |= measures.color_arithmetic(data, best, maps, figure) | measures.refinement(data, best)
    return ratios


def load(spark: SparkSession) -> Data:
    """Return both sides, and which products train, choose and measure."""
    from embedall_spark.latent import split

    items = products.products()
    features = products.features([item.id for item in items])
    divided = split.split(
        table(spark, items, features["mobilenet"]), split.SplitConfig(test=0.2, validation=0.1, same=0.97)
    ).toArrow()
    by_id = dict(zip(divided["id"].to_pylist(), divided["part"].to_pylist(), strict=True))
    parts = {part: np.array([i for i, item in enumerate(items) if by_id[item.id] == part]) for part in split.PARTS}
    common.say(
        "products", **{part: len(rows) for part, rows in parts.items()}, groups=len(set(divided["same"].to_pylist()))
    )
    bags, models = {}, {}
    for name, use in {"title": ("title",), "title+attributes": ("title", "tags")}.items():
        bags[name], models[name] = _bags(spark, items, parts["train"], use)
    return Data(items, features, bags, models, parts)


def _bags(spark: SparkSession, items: list[Product], train: NDArray[np.int64], use: Any) -> tuple[Matrix, TextModel]:
    """Return every product's bag of words, zeros where it has none; what is counted is counted over ``train``."""
    from embedall_spark.latent.text import item_tokens, text_features
    from embedall_spark.schemas import ITEMS

    rows = [
        (item.id, item.title, [f"{name}: {value}" for name, value in item.attributes.items()], None) for item in items
    ]
    tokens = item_tokens.tokenize_items(
        spark.createDataFrame(rows, ITEMS), item_tokens.ItemTextConfig(use=use, split_tags=False)
    ).cache()
    train_ids = spark.createDataFrame([(items[i].id,) for i in train], "id string")
    model = text_features.fit_bags(tokens.join(train_ids, "id", "left_semi"), min_items=2)
    common.say(
        f"right side: {use}",
        dimensions=len(model.tokens),
        **item_tokens.report(tokens, text_features.vocabulary(tokens, model)),
    )
    bags = text_features.bags_of_words(tokens, model).toArrow()
    by_id = dict(zip(bags["id"].to_pylist(), common.matrix(bags["vector"]), strict=True))
    nothing = np.zeros(len(model.tokens), np.float32)
    return np.stack([by_id.get(item.id, nothing) for item in items]), model


def table(spark: SparkSession, items: Sequence[Product], vectors: Matrix) -> DataFrame:
    """Return a matrix as VECTORS."""
    import pyarrow as pa

    from embedall_spark.schemas import vectors_of

    norms = np.linalg.norm(vectors, axis=1).astype(float)
    columns = {
        "id": [item.id for item in items],
        "vector": pa.array(list(vectors), pa.list_(pa.float32())),
        "norm": norms,
    }
    return vectors_of(spark.createDataFrame(pa.table(columns)), "images", "benchmark", None)


def left_side(data: Data, names: Sequence[str], power: float) -> Matrix:
    """Return networks' features side by side, each prepared and of length 1."""
    return np.hstack([prepare(data.features[name], Preparation(power, unit=True)) for name in names]).astype(np.float32)


def latent_left(data: Data, trial: Trial, maps: Maps) -> Matrix:
    """Return all photos in the latent space, of length 1."""
    from embedall_spark.vectors import unit

    return unit(((left_side(data, trial.left, trial.power) - maps.mean_left) @ maps.p).astype(np.float32))


def trials(right: str) -> Iterator[Trial]:
    """Yield the trials, simple ones first; those that differ only in k and strength share one fit."""
    for left, power in ((LAST, 1.0), (BOTH, 1.0), (DEEP, 1.0), (ALL, 1.0), (ALL, 0.5)):
        for regularization in ((0.1, 0.1), (0.3, 0.3), (0.1, 1.0), (1.0, 1.0)):
            for k in (64, 128, 256):
                for strength in (0.0, 1.0, 2.0, 3.0):
                    for csls in (0, 10):
                        yield Trial(left, right, power, regularization, k, strength, csls)


def choose(data: Data, right: str) -> Trial:
    """Return the trial with the best recall@10 of validation products, both ways; print each fit's best."""
    train, validation = data.parts["train"], data.parts["validation"]
    scored: dict[Trial, float] = {}
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials(right):
        groups.setdefault(trial[:4], []).append(trial)
    fitted: tuple[Any, Moments | None] = (None, None)
    for (left, _, power, regularization), group in groups.items():
        x, y = left_side(data, left, power), data.bags[right]
        if fitted[0] != (left, power):
            fitted = ((left, power), moments_of(x[train], y[train]))
        maps = _fit(fitted[1], None, regularization, 0.0)
        shown = {}
        for trial in group:
            truncated = maps.truncated(min(trial.k, len(maps.strengths)), trial.strength)
            figures = retrieve(x[validation], y[validation], truncated, trial.csls)
            scored[trial] = sum(figures[f"{way}/recall_10"] for way in WAYS) / 2
            shown[trial] = figures
        best = max(group, key=lambda trial: scored[trial])
        facts = {f"{WAYS[way]}_{name}": value for way, name, value in _named(shown[best]) if name.startswith("recall")}
        common.say(f"validation: {'+'.join(left)} ^{power}, {right}, {regularization}: best k={best.k} "
                   f"strength={best.strength} csls={best.csls}", **facts)  # fmt: skip
    _marginals(scored)
    fit_rows, test = np.concatenate([train, validation]), data.parts["test"]
    for left in dict.fromkeys(trial.left for trial in scored):
        # Test products are only reported for each set of features; nothing is chosen by them.
        trial = max((trial for trial in scored if trial.left == left), key=lambda trial: scored[trial])
        x, y = left_side(data, left, trial.power), data.bags[right]
        maps = _fit(moments_of(x[fit_rows], y[fit_rows]), trial.k, trial.regularization, trial.strength)
        figures = retrieve(x[test], y[test], maps, trial.csls)
        facts = {f"{WAYS[way]}_{name}": value for way, name, value in _named(figures) if name.startswith("recall")}
        common.say(f"test products, {right} and {'+'.join(left)}", **facts)
    best = max(scored, key=lambda trial: scored[trial])
    common.say("chosen", **best._asdict())
    return best


def _marginals(scored: dict[Trial, float]) -> None:
    """Print the best recall of each value of each hyperparameter."""
    for name in ("left", "power", "regularization", "k", "strength", "csls"):
        values: dict[str, float] = {}
        for trial, score in scored.items():
            value = str(getattr(trial, name))
            values[value] = max(values.get(value, 0), score)
        common.say(f"validation recall@10, best by {name}", **values)


def moments_of(x: Matrix, y: Matrix) -> Moments:
    """Return the moments of rows that lie beside each other."""
    from embedall_spark.latent.fit import covariance

    return covariance.of_arrays(np.hstack([x, y]).astype(np.float64), x.shape[1])


def _fit(moments: Any, k: int | None, regularization: tuple[float, float], strength: float) -> Maps:
    from embedall_spark.latent.fit import cca

    return cca.cca(moments, k, regularization, strength)


def retrieve(x: Matrix, y: Matrix, maps: Maps, csls: int) -> Figures:
    """Return the figures of products' photos and titles, each the other's only partner."""
    from embedall_spark.evaluate import retrieval

    left, right = (
        ((x - maps.mean_left) @ maps.p).astype(np.float32),
        ((y - maps.mean_right) @ maps.q).astype(np.float32),
    )
    return retrieval.measure(left, right, np.repeat(np.arange(len(x))[:, None], 2, axis=1), csls=csls)


def measure(spark: SparkSession, data: Data, trial: Trial) -> tuple[Figures, Maps]:
    """Fit on training and validation products through Spark, from tables to figures."""
    from embedall_spark.evaluate import retrieval
    from embedall_spark.latent import projection
    from embedall_spark.latent.fit import cca, covariance
    from embedall_spark.schemas import PAIRS

    x, y = left_side(data, trial.left, trial.power), data.bags[trial.right]
    left, right = table(spark, data.products, x).cache(), table(spark, data.products, y).cache()
    names = [item.id for item in data.products]
    fit_rows = np.concatenate([data.parts["train"], data.parts["validation"]])
    pairs, test_pairs = (
        spark.createDataFrame([(names[i], names[i], None) for i in rows], PAIRS)
        for rows in (fit_rows, data.parts["test"])
    )
    since = time.perf_counter()
    moments = covariance.of_pairs(left, right, pairs)
    seconds = time.perf_counter() - since
    maps = cca.cca(moments, trial.k, trial.regularization, trial.strength)
    solved = time.perf_counter() - since - seconds
    sides = [
        projection.Side(p.astype(np.float32), mean) for p, mean in ((maps.p, maps.mean_left), (maps.q, maps.mean_right))
    ]
    latent = [
        projection.project(table_, side).where("vector IS NOT NULL")
        for table_, side in zip((left, right), sides, strict=True)
    ]
    figures = retrieval.evaluate(*latent, test_pairs, csls=trial.csls)
    common.say("test products", moments_seconds=seconds, solve_seconds=solved, **figures)
    return figures, maps


def _named(figures: Figures) -> Iterator[tuple[str, str, float]]:
    for key, value in figures.items():
        way, _, name = key.partition("/")
        yield way, name, value


if __name__ == "__main__":
    main()
