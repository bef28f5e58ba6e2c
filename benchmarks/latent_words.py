"""Words that are too many to be dimensions: recall with vectors learned for them, and without.

Photos and titles as in latent.py, MobileNetV2's last layer; options are chosen on validation products.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import common
import latent
import numpy as np
import products

from embedall_spark.latent.preprocessing import Preparation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latent import Data, Figures, Matrix
    from pyspark.sql import DataFrame, SparkSession

DENSE = 100
PREPARATION = Preparation(unit=True)
REGULARIZATION = ((0.1, 0.01), (0.1, 0.1), (0.3, 0.3), (0.1, 1.0), (1.0, 1.0))
K, STRENGTHS = (64, 128), (0.0, 1.0, 2.0)
GOALS = {"learned_minus_dense": 0.05}


class Way(NamedTuple):
    """How words become features."""

    name: str
    min_items: int = 2
    dense: int | None = None
    most: int | None = None
    own: bool = False  # whether training items are composed of words learned from them too


WAYS = (
    Way("all as bags"),
    Way("dense", most=DENSE),
    Way("learned", dense=DENSE),
    Way("learned, own left in", dense=DENSE, own=True),
    Way("learned, words of one item too", min_items=1, dense=DENSE),
    Way("learned, words of one item too, own left in", min_items=1, dense=DENSE, own=True),
    Way("one dense, all others learned", dense=1),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = common.options(__doc__ or "").parse_args(arguments)
    ratios: Figures = {}
    if options.quick or not products.PHOTOS.exists():
        print("nothing quick to measure, or no photos: the shared data are not beside this checkout", flush=True)
    else:
        common.announce(15)
        ratios = compare()
    print(common.result("latent_words", ratios, GOALS))


def compare() -> Figures:
    """Return each way's mean recall@10 of both directions, and what learned vectors and leaving own parts out gain."""
    from embedall_spark import session
    from embedall_spark.latent.text import item_tokens
    from embedall_spark.schemas import ITEMS

    spark = session.get("latent words", master=f"local[{common.THREADS}]")
    data = latent.load(spark)
    rows = [(item.id, item.title, None, None) for item in data.products]
    items = item_tokens.tokenize_items(
        spark.createDataFrame(rows, ITEMS), item_tokens.ItemTextConfig(use=("title",))
    ).cache()
    left = latent.table(spark, data.products, data.features["mobilenet"]).cache()
    scores = {}
    for way in WAYS:
        fitted, right = _right(spark, data, items, left, way)
        figures = _best(data, fitted, right)
        common.say(way.name, **figures)
        scores[way.name] = (figures["image_to_text_recall_10"] + figures["text_to_image_recall_10"]) / 2
    pairs = [(name, f"{name}, own left in") for name in scores]
    gains = {f"{name}: gain of own left out": scores[name] - scores[with_] for name, with_ in pairs if with_ in scores}
    return {**scores, **gains, "learned_minus_dense": scores["learned"] - scores["dense"]}


def _right(spark: SparkSession, data: Data, items: DataFrame, left: DataFrame, way: Way) -> tuple[Matrix, Matrix]:
    """Return all products' vectors as the fit sees training products, and as they are."""
    from embedall_spark.latent.config import LatentInput
    from embedall_spark.latent.text import text_side, word_vectors

    train_ids = spark.createDataFrame([(data.products[i].id,) for i in data.parts["train"]], "id string")
    train = items.join(train_ids, "id", "left_semi").cache()
    input_config = LatentInput(path="-", min_items=way.min_items, dense_words=way.dense, most_words=way.most)
    side = text_side.fit_text(train, input_config, None, data.features["mobilenet"].shape[1], "-")
    if side.composed is None:
        right = _matrix(data, text_side.text_vectors(items, side, None))
        return right, right
    mean = word_vectors.mean_vector(train, left, PREPARATION)
    vectors = word_vectors.fit(train, left, side.composed, PREPARATION, mean).cache()
    right = _matrix(data, text_side.text_vectors(items, side, vectors))
    if way.own:
        return right, right
    composed = word_vectors.leave_one_out(train, vectors, side.composed, left, PREPARATION, mean)
    return _matrix(data, text_side.text_vectors(train, side, vectors, composed)), right


def _matrix(data: Data, vectors: DataFrame) -> Matrix:
    """Return vectors in the order of the products, zeros where one has none."""
    table = vectors.toArrow()
    by_id = dict(zip(table["id"].to_pylist(), common.matrix(table["vector"]), strict=True))
    nothing = np.zeros(len(next(iter(by_id.values()))), np.float32)
    return np.stack([by_id.get(item.id, nothing) for item in data.products])


def _best(data: Data, fitted: Matrix, right: Matrix) -> Figures:
    """Return the test products' recall by the options that find most validation products."""
    from embedall_spark.latent.fit import cca

    x = latent.left_side(data, latent.LAST, 1.0)
    train, validation, test = (data.parts[name] for name in ("train", "validation", "test"))
    moments = latent.moments_of(x[train], fitted[train])
    best, most = None, -1.0
    for regularization in REGULARIZATION:
        plain = cca.cca(moments, None, regularization, 0.0)
        for k, strength in product(K, STRENGTHS):
            maps = plain.truncated(min(k, len(plain.strengths)), strength)
            figures = latent.retrieve(x[validation], right[validation], maps, 0)
            score = sum(figures[f"{name}/recall_10"] for name in latent.WAYS) / 2
            if score > most:
                best, most = maps, score
    assert best is not None
    figures = latent.retrieve(x[test], right[test], best, 0)
    return {
        f"{way}_recall_{cut}": figures[f"{name}/recall_{cut}"]
        for name, way in latent.WAYS.items()
        for cut in (1, 5, 10)
    }


if __name__ == "__main__":
    main()
