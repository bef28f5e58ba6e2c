"""Words of items, their bags and composed vectors, against bare numpy and scikit-learn."""

import numpy as np
import pytest
import vector_tables
from sklearn.feature_extraction.text import TfidfVectorizer

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.fit import covariance
from embedall_spark.latent.text import item_tokens, text_features
from embedall_spark.latent.text.item_tokens import ItemTextConfig
from embedall_spark.latent.text.text_features import TextModel
from embedall_spark.schemas import ITEMS

ROWS = [
    ("a", "Red Dress, red shoes", ["Summer Wear", "dress"], None),
    ("b", "blue Dress", None, None),
    ("c", None, ["  ", "Summer Wear"], None),
    ("d", "", [], None),
    ("e", "…", None, None),
    ("f", "Blue-green DRESS for women's day", [], None),
]


@pytest.fixture(scope="module")
def items(spark):
    return spark.createDataFrame(ROWS, ITEMS)


def rows(df, value):
    table = df.toArrow().sort_by("id").to_pydict()
    return dict(zip(table["id"], table[value], strict=True))


def test_words_of_titles_and_tags(items):
    split = rows(item_tokens.tokenize_items(items, ItemTextConfig()), "tokens")
    assert split == {
        "a": ["dress", "red", "shoes", "summer", "wear"], "b": ["blue", "dress"], "c": ["summer", "wear"], "d": [],
        "e": [], "f": ["blue-green", "day", "dress", "for", "women's"],
    }  # fmt: skip
    whole_tags = rows(item_tokens.tokenize_items(items, ItemTextConfig(split_tags=False)), "tokens")
    assert (whole_tags["a"], whole_tags["c"]) == (["dress", "red", "shoes", "summer wear"], ["summer wear"])
    assert rows(item_tokens.tokenize_items(items, ItemTextConfig(use=("tags",), split_tags=False)), "tokens")["b"] == []
    assert item_tokens.tokenize_text("Red dress, RED", ItemTextConfig()) == ["dress", "red"]
    assert item_tokens.tokenize_text("", ItemTextConfig()) == []
    with pytest.raises(ValueError, match="need title, tags or both"):
        ItemTextConfig(use=())


def test_bags_are_scikit_learns_tfidf(spark, items):
    tokens = item_tokens.tokenize_items(items, ItemTextConfig()).cache()
    model = text_features.fit_bags(tokens, min_items=1)
    lists = rows(tokens, "tokens")
    theirs = TfidfVectorizer(analyzer=lambda tokens: tokens, sublinear_tf=False).fit(list(lists.values()))
    order = [theirs.vocabulary_[token] for token in model.tokens]
    assert model.tokens[0] == "dress"
    bags = rows(text_features.bags_of_words(tokens.repartition(4), model), "vector")
    assert set(bags) == {"a", "b", "c", "f"}
    for name, bag in bags.items():
        np.testing.assert_allclose(bag, theirs.transform([lists[name]]).toarray()[0][order], atol=1e-6)
        np.testing.assert_allclose(model.bag(lists[name]), bag, atol=1e-7)
    assert model.bag(["unknown"]) is None
    frequent = text_features.fit_bags(tokens, min_items=2, max_words=2)
    assert frequent.tokens == ["dress", "summer"]
    assert item_tokens.report(tokens, text_features.vocabulary(tokens, frequent)) == {
        "items": 6, "items_without_words": 2, "items_unknown": 0, "words": 10, "words_unknown": 8,
    }  # fmt: skip


def test_more_words_than_the_closed_form_takes_are_refused(items, monkeypatch):
    tokens = item_tokens.tokenize_items(items, ItemTextConfig())
    monkeypatch.setattr(covariance, "MAX_SIZE", 3)
    with pytest.raises(
        ConfigError, match=r"more than 3 words .* raise input.min_items.* input.most_words, or leave input.words out"
    ):
        text_features.fit_bags(tokens, min_items=1)
    assert len(text_features.fit_bags(tokens, min_items=1, max_words=3).tokens) == 3
    with pytest.raises(ConfigError, match=r"input\.most_words=4: bags take 1 to 3 words"):
        text_features.fit_bags(tokens, max_words=4)
    with pytest.raises(BadData, match="no word is in 9 of 6 training item"):
        text_features.fit_bags(tokens, min_items=9)


def test_composed_vectors_are_sif(spark, items):
    random = np.random.default_rng(1)
    words = ["dress", "red", "shoes", "summer", "wear", "blue", "day"]
    matrix = random.standard_normal((7, 4)).astype(np.float32) + 2
    table = vector_tables.table(spark, words, matrix)
    tokens = item_tokens.tokenize_items(items, ItemTextConfig()).cache()
    train = tokens.where("id != 'f'")
    model = text_features.fit_composed(train, table)
    vector_of = dict(zip(words, matrix.astype(float), strict=True))
    lists = rows(tokens, "tokens")
    items_of = {token: sum(token in lists[name] for name in "abcde") for token in words}
    weight = {token: np.log(6 / (1 + items_of[token])) + 1 for token in words}
    means = {
        name: np.average([vector_of[t] for t in present], axis=0, weights=[weight[t] for t in present])
        for name, item_words in lists.items()
        if (present := [t for t in item_words if t in vector_of])
    }
    common = np.linalg.svd(np.stack([means[name] for name in "abc"]))[2][0]
    assert abs(common @ model.common) == pytest.approx(1, abs=1e-6)
    composed = rows(text_features.compose(tokens.repartition(3), table.repartition(3), model), "vector")
    assert set(composed) == set(means) == {"a", "b", "c", "f"}
    for name, vector in composed.items():
        np.testing.assert_allclose(vector, means[name] - common * (common @ means[name]), atol=1e-5)
        one_by_one = model.compose(lists[name], dict(zip(words, matrix, strict=True)))
        np.testing.assert_allclose(one_by_one, vector, atol=1e-6)
    assert model.compose(["none"], {}) is None
    assert item_tokens.report(tokens, table)["words_unknown"] == 3
    assert item_tokens.report(tokens.where("id = 'f'"), table.where("id = 'red'"))["items_unknown"] == 1


def test_a_model_is_stored_without_pickle(tmp_path):
    model = TextModel(["dress", "größe", "靴"], np.array([1.0, 2.0, 3.5]), 4.0, np.array([0.6, 0.8]))
    for original in (model, model._replace(common=None)):
        np.savez(tmp_path / "model.npz", **original.to_arrays())
        again = TextModel.from_arrays(np.load(tmp_path / "model.npz", allow_pickle=False))
        assert (again.tokens, again.other) == (original.tokens, 4.0)
        np.testing.assert_array_equal(again.weights, original.weights)
        assert (again.common is None) == (original.common is None)
