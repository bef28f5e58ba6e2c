"""Vectors learned for words, and training items composed of them, against bare numpy."""

import numpy as np
import pyarrow as pa
import pytest
import vector_tables

from embedall_spark.errors import ConfigError
from embedall_spark.latent.config import LatentInput
from embedall_spark.latent.fit import cca, covariance
from embedall_spark.latent.preprocessing import Preparation, prepare
from embedall_spark.latent.text import text_features, text_side, word_vectors
from embedall_spark.schemas import PAIRS

COUNT, SIZE, VOCABULARY, DENSE = 400, 6, 90, 12
HOW = Preparation(0.5, unit=True)


@pytest.fixture(scope="module")
def data(spark):
    """Return items' words, left vectors that are the sums of their words' hidden ones, and both as tables."""
    random = np.random.default_rng(5)
    names = np.array([f"w{at:02d}" for at in range(VOCABULARY)])
    chance = 1 / np.arange(1, VOCABULARY + 1)
    lists = [sorted(random.choice(names, 4, replace=False, p=chance / chance.sum())) for _ in range(COUNT)]
    hidden = dict(zip(names, random.standard_normal((VOCABULARY, SIZE)), strict=True))
    x = np.stack([sum(hidden[name] for name in words) for words in lists]).astype(np.float32)
    ids = [f"{at:03d}" for at in range(COUNT)]
    items = spark.createDataFrame(pa.table({"id": ids, "tokens": pa.array(lists, pa.list_(pa.string()))})).cache()
    return ids, lists, x, items, vector_tables.table(spark, ids, x).cache()


def rows(df):
    table = df.toArrow().to_pydict()
    return dict(zip(table["id"], np.array(table["vector"]), strict=True))


def training_items(items):
    """Return the training items, three of four."""
    return items.where("pmod(cast(id AS int), 4) > 0")


def test_vectors_are_numpys_and_training_items_are_left_out_of_their_own(data):
    ids, lists, x, items, left = data
    train, training = training_items(items), [at for at in range(COUNT) if at % 4]
    source = LatentInput(path="-", dense_words=DENSE, min_items=1)
    side = text_side.fit_text(train, source, None, SIZE, "words")
    rare = side.composed
    assert (len(side.bags.tokens), side.table, rare.common) == (DENSE, "words", None)
    assert not set(rare.tokens) & set(side.bags.tokens)
    mean = word_vectors.mean_vector(train, left, HOW)
    centered = prepare(x, HOW)
    np.testing.assert_allclose(mean, centered[training].mean(axis=0), atol=1e-12)
    centered -= centered[training].mean(axis=0)
    vectors = word_vectors.fit(train, left, rare, HOW, mean).cache()
    items_of = {name: [at for at in training if name in lists[at]] for name in rare.tokens}
    assert {row["id"]: row["count"] for row in vectors.collect()} == {name: len(at) for name, at in items_of.items()}
    assert min(map(len, items_of.values())) == 1
    for name, vector in rows(vectors).items():
        np.testing.assert_allclose(vector, centered[items_of[name]].sum(axis=0) / (len(items_of[name]) + 1), atol=1e-6)

    def expected(at, excluded):
        """Return an item's vector as if it were not a training item."""
        present = [name for name in lists[at] if name in items_of]
        others = {name: [item for item in items_of[name] if item != excluded] for name in present}
        weight = {name: np.log((1 + len(training)) / (1 + len(items_of[name]))) + 1 for name in others}
        total = sum(weight[name] * centered[item].sum(axis=0) / (len(item) + 1) for name, item in others.items())
        return total / sum(weight.values())

    composed = rows(word_vectors.leave_one_out(train, vectors, rare, left, HOW, mean))
    composable = {ids[at] for at in training if any(len(items_of.get(name, ())) > 1 for name in lists[at])}
    assert set(composed) == composable
    for name, vector in composed.items():
        np.testing.assert_allclose(vector, expected(int(name), int(name)), atol=1e-6)
    all_composed = rows(text_features.compose(items, vectors, rare))
    for name, vector in all_composed.items():
        np.testing.assert_allclose(vector, expected(int(name), None), atol=1e-6)
    # The order and partitioning of rows change nothing.
    repartitioned = word_vectors.fit(train.repartition(5), left.orderBy("norm").repartition(3), rare, HOW, mean)
    recomputed = rows(
        word_vectors.leave_one_out(train.repartition(3), repartitioned.repartition(2), rare, left, HOW, mean)
    )
    assert recomputed.keys() == composed.keys()
    for name, vector in recomputed.items():
        np.testing.assert_allclose(vector, composed[name], atol=1e-6)


def test_a_hidden_map_is_recovered_beyond_the_limit(data, spark, monkeypatch):
    """Left vectors are sums of hidden vectors of words: beyond the limit of words, unseen items are still retrieved."""
    ids, _, x, items, left = data
    monkeypatch.setattr(covariance, "MAX_SIZE", 60)
    train = training_items(items)
    source = LatentInput(path="-", min_items=2)
    side = text_side.fit_text(train, source, None, SIZE, "words")
    assert len(side.bags.tokens) == 60 - SIZE
    preparation = Preparation()
    mean = word_vectors.mean_vector(train, left, preparation)
    vectors = word_vectors.fit(train, left, side.composed, preparation, mean).cache()
    composed = word_vectors.leave_one_out(train, vectors, side.composed, left, preparation, mean)
    fitted = text_side.text_vectors(train, side, vectors, composed)
    pairs = train.selectExpr("id left", "id right", "cast(NULL AS double) weight")
    assert pairs.columns == PAIRS.fieldNames()
    maps = cca.cca(covariance.of_pairs(left, fitted, pairs), SIZE, (1e-3, 1e-2), 1.0)
    right = rows(text_side.text_vectors(items, side, vectors))
    unseen = np.array([at for at in range(0, COUNT, 4) if ids[at] in right])

    def recall(dimensions):
        """Return the share of unseen items that are among the first five hits of their words."""
        q = maps.q.copy()
        q[dimensions:] = 0
        a = (x[unseen] - maps.mean_left) @ maps.p
        b = (np.stack([right[ids[at]] for at in unseen]) - maps.mean_right) @ q
        a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (a, b))
        scores = b @ a.T
        return np.mean((scores > np.diagonal(scores)[:, None]).sum(axis=1) < 5)

    assert recall(60) > 0.9
    # Without the vectors learned for the rarer words it is lower.
    assert recall(60 - SIZE) < recall(60)


def test_words_beyond_the_limit_are_refused(data, monkeypatch):
    items = data[3]
    monkeypatch.setattr(covariance, "MAX_SIZE", 20)
    for source, size, message in [
        (
            LatentInput(path="-", min_items=1),
            20,
            r"learned vectors of 20 dimensions do not fit: .* at most 20 dimensions; reduce input.dense",
        ),
        (LatentInput(path="-", min_items=1, dense_words=19), 6, "19 of 90 words and learned vectors of 6 dimensions"),
    ]:
        with pytest.raises(ConfigError, match=message):
            text_side.fit_text(items, source, None, size, "words")
    assert text_side.fit_text(items, LatentInput(path="-", most_words=20), None, 20, "words").composed is None
    monkeypatch.setattr(text_features, "MAX_TOKENS", 50)
    with pytest.raises(ConfigError, match=r"more than 50 words .* raise input.min_items, .* input.most_words"):
        text_features.fit_words(items, min_items=1)
