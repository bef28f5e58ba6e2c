"""Vectors that are learnt for words, and what training items are composed of them, against bare numpy."""

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
    found = spark.createDataFrame(pa.table({"id": ids, "tokens": pa.array(lists, pa.list_(pa.string()))})).cache()
    return ids, lists, x, found, vector_tables.table(spark, ids, x).cache()


def rows(found):
    table = found.toArrow().to_pydict()
    return dict(zip(table["id"], np.array(table["vector"]), strict=True))


def parted(found):
    """Return the training items, three of four."""
    return found.where("pmod(cast(id AS int), 4) > 0")


def test_vectors_are_numpys_and_training_items_know_nothing_of_themselves(data):
    ids, lists, x, found, left = data
    train, training = parted(found), [at for at in range(COUNT) if at % 4]
    given = LatentInput(path="-", dense_words=DENSE, min_items=1)
    side = text_side.fit_text(train, given, None, SIZE, "words")
    rest = side.composed
    assert (len(side.bags.tokens), side.table, rest.common) == (DENSE, "words", None)
    assert not set(rest.tokens) & set(side.bags.tokens)
    mean = word_vectors.mean_vector(train, left, HOW)
    about = prepare(x, HOW)
    np.testing.assert_allclose(mean, about[training].mean(axis=0), atol=1e-12)
    about -= about[training].mean(axis=0)
    vectors = word_vectors.fit(train, left, rest, HOW, mean).cache()
    having = {name: [at for at in training if name in lists[at]] for name in rest.tokens}
    assert {row["id"]: row["count"] for row in vectors.collect()} == {name: len(at) for name, at in having.items()}
    assert min(map(len, having.values())) == 1
    for name, vector in rows(vectors).items():
        np.testing.assert_allclose(vector, about[having[name]].sum(axis=0) / (len(having[name]) + 1), atol=1e-6)

    def expected(at, own):
        """Return an item's vector as if it had been no training item."""
        others = {name: [other for other in having[name] if other != own] for name in lists[at] if name in having}
        weight = {name: np.log((1 + len(training)) / (1 + len(having[name]))) + 1 for name in others}
        total = sum(weight[name] * about[other].sum(axis=0) / (len(other) + 1) for name, other in others.items())
        return total / sum(weight.values())

    composed = rows(word_vectors.leave_one_out(train, vectors, rest, left, HOW, mean))
    kept = {ids[at] for at in training if any(len(having.get(name, ())) > 1 for name in lists[at])}
    assert set(composed) == kept
    for name, vector in composed.items():
        np.testing.assert_allclose(vector, expected(int(name), int(name)), atol=1e-6)
    plain = rows(text_features.compose(found, vectors, rest))
    for name, vector in plain.items():
        np.testing.assert_allclose(vector, expected(int(name), None), atol=1e-6)
    # The order of rows and how they are parted change nothing.
    again = word_vectors.fit(train.repartition(5), left.orderBy("norm").repartition(3), rest, HOW, mean)
    other = rows(word_vectors.leave_one_out(train.repartition(3), again.repartition(2), rest, left, HOW, mean))
    assert other.keys() == composed.keys()
    for name, vector in other.items():
        np.testing.assert_allclose(vector, composed[name], atol=1e-6)


def test_a_hidden_map_is_found_beyond_the_limit(data, spark, monkeypatch):
    """Left vectors are sums of words' hidden vectors: with more words than the limit, items never seen are found."""
    ids, _, x, found, left = data
    monkeypatch.setattr(covariance, "MAX_SIZE", 60)
    train = parted(found)
    given = LatentInput(path="-", min_items=2)
    side = text_side.fit_text(train, given, None, SIZE, "words")
    assert len(side.bags.tokens) == 60 - SIZE
    how = Preparation()
    mean = word_vectors.mean_vector(train, left, how)
    vectors = word_vectors.fit(train, left, side.composed, how, mean).cache()
    composed = word_vectors.leave_one_out(train, vectors, side.composed, left, how, mean)
    fitted = text_side.text_vectors(train, side, vectors, composed)
    pairs = train.selectExpr("id left", "id right", "cast(NULL AS double) weight")
    assert pairs.columns == PAIRS.fieldNames()
    maps = cca.cca(covariance.of_pairs(left, fitted, pairs), SIZE, (1e-3, 1e-2), 1.0)
    right = rows(text_side.text_vectors(found, side, vectors))
    unseen = np.array([at for at in range(0, COUNT, 4) if ids[at] in right])

    def found_share(numbers):
        """Return the share of items never seen that their words find within the first five."""
        q = maps.q.copy()
        q[numbers:] = 0
        a = (x[unseen] - maps.mean_left) @ maps.p
        b = (np.stack([right[ids[at]] for at in unseen]) - maps.mean_right) @ q
        a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (a, b))
        scores = b @ a.T
        return np.mean((scores > np.diagonal(scores)[:, None]).sum(axis=1) < 5)

    assert found_share(60) > 0.9
    # Without what was learnt for the rarer words it is less.
    assert found_share(60 - SIZE) < found_share(60)


def test_what_has_no_room_is_told(data, monkeypatch):
    found = data[3]
    monkeypatch.setattr(covariance, "MAX_SIZE", 20)
    for given, size, message in [
        (
            LatentInput(path="-", min_items=1),
            20,
            r"learned vectors of 20 dimensions do not fit: .* at most 20 dimensions; reduce input.dense",
        ),
        (LatentInput(path="-", min_items=1, dense_words=19), 6, "19 of 90 words and learned vectors of 6 dimensions"),
    ]:
        with pytest.raises(ConfigError, match=message):
            text_side.fit_text(found, given, None, size, "words")
    assert text_side.fit_text(found, LatentInput(path="-", most_words=20), None, 20, "words").composed is None
    monkeypatch.setattr(text_features, "MAX_TOKENS", 50)
    with pytest.raises(ConfigError, match=r"more than 50 words .* raise input.min_items, .* input.most_words"):
        text_features.fit_words(found, min_items=1)
