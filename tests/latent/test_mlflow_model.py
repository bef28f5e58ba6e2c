"""The script of the MLflow model, loaded as MLflow does, against the package's own model and its tokenizer."""

import types
import unicodedata

import numpy as np
import pandas as pd
import pytest

from embedall_spark.corpus.tokenizer import TokensConfig
from embedall_spark.latent import latent_model, mlflow_model
from embedall_spark.latent.latent_model import UNIT, LatentModel, TextSide
from embedall_spark.latent.preprocessing import Preparation
from embedall_spark.latent.projection import Side
from embedall_spark.latent.text import item_tokens
from embedall_spark.latent.text.item_tokens import ItemTextConfig
from embedall_spark.latent.text.text_features import TextModel

RANDOM = np.random.default_rng(5)
TOKENS = ["red", "dress", "été"]
LEFT = Side(RANDOM.standard_normal((6, 2)).astype(np.float32), RANDOM.standard_normal(6), Preparation(0.5, unit=True))
RIGHT = Side(RANDOM.standard_normal((5, 2)).astype(np.float32), RANDOM.standard_normal(5))
VECTORS = {word: RANDOM.standard_normal(2).astype(np.float32) for word in ("red", "crimson")}


def latent_space(composed=True):
    bags = TextModel(TOKENS, np.array([1.0, 2.0, 3.0]), 4.0, None)
    more = TextModel(["red"], np.array([1.5]), 2.5, np.array([0.6, 0.8])) if composed else None
    right = RIGHT if composed else Side(RIGHT.matrix[:3], RIGHT.mean[:3])
    return LatentModel(LEFT, right, "images", "titles", TextSide(ItemTextConfig(), bags, more, "a/table"))


def loaded(tmp_path, fitted):
    """Return a function that projects a frame of the given columns."""
    servable = latent_model.servable(fitted, None)
    (tmp_path / "model.npz").write_bytes(servable.arrays)
    context = types.SimpleNamespace(artifacts={"arrays": str(tmp_path / "model.npz")})
    model = mlflow_model.Latent()
    model.load_context(context)
    example = model.predict(context, pd.DataFrame(servable.example))
    assert example.shape == (2, servable.width)
    np.testing.assert_allclose(np.linalg.norm(example, axis=1), 1, atol=1e-6)
    return lambda **columns: model.predict(context, pd.DataFrame(columns))


def test_projections_of_both_sides_are_the_packages(tmp_path):
    fitted = latent_space()
    predict = loaded(tmp_path, fitted)
    rows = RANDOM.standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_allclose(predict(vector=list(rows)), LEFT.latent(rows)[0], atol=1e-6)
    texts = ["A red DRESS", "crimson", "Crimson ÉTÉ, été", "nothing known"]
    projected = predict(text=texts, word_vectors=[VECTORS] * 4, vector=[None] * 4)
    for text, actual in zip(texts[:3], projected, strict=False):
        np.testing.assert_allclose(actual, fitted.project_text(text, VECTORS), atol=1e-6)
    assert not projected[3].any()
    assert not predict(vector=[[np.nan] * 6]).any()
    learned = latent_space()
    learned = learned._replace(text=learned.text._replace(composed=learned.text.composed._replace(common=None)))
    actual = loaded(tmp_path, learned)(text=["Red dress"], word_vectors=[VECTORS])[0]
    np.testing.assert_allclose(actual, learned.project_text("red dress", VECTORS), atol=1e-6)
    bags_only = latent_space(composed=False)
    np.testing.assert_allclose(loaded(tmp_path, bags_only)(text=["red"])[0], bags_only.project_text("red"), atol=1e-6)
    tables = LatentModel(LEFT, RIGHT._replace(preparation=UNIT), "films", "people", None)
    mixed = loaded(tmp_path, tables)(vector=[rows[0], None], right_vector=[None, rows[1, :5]])
    np.testing.assert_allclose(mixed[0], LEFT.latent(rows[:1])[0][0], atol=1e-6)
    np.testing.assert_allclose(mixed[1], tables.right.latent(rows[1:2, :5])[0][0], atol=1e-6)
    with pytest.raises(ValueError, match=r"a table of people: give right_vector in place of text"):
        loaded(tmp_path, tables)(text=["red"])


def test_unreadable_rows_are_refused(tmp_path):
    predict = loaded(tmp_path, latent_space())
    for columns, text in [
        ({"text": ["red"]}, "also composed of the word vectors in a/table: give word_vectors"),
        ({"text": ["red", None]}, r"row 1 has 0 of vector, text, right_vector; need one"),
        ({"text": ["red"], "vector": [[0.0] * 6]}, r"row 0 has 2 of"),
        ({"other": ["red"]}, r"row 0 has 0 of"),
        ({"vector": [[1.0] * 5]}, r"a vector has 5 dimensions; the left side has 6"),
    ]:
        with pytest.raises(ValueError, match=text):
            predict(**columns)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lower": False, "min_length": 2},
        {"split": "whitespace"},
        {"split": "regex", "pattern": r"\w(\w+)", "min_length": 2},
    ],
)
def test_words_are_those_of_the_tokenizer(options):
    """Every character between letters, at both ends and beside marks and joiners."""
    config = ItemTextConfig(tokens=TokensConfig(**options))
    characters = [chr(code) for code in range(1, 0x110000) if unicodedata.category(chr(code)) not in ("Cs", "Co", "Cn")]
    joiners = sorted(mlflow_model._JOINERS)
    lines = [f"a{mark}b {mark}c d{mark} {mark}" for mark in characters]
    random_lines = RANDOM.choice([*"aB7ß\u0301 .\n", *joiners], (300, 80))
    texts = ["".join(lines[at : at + 500]) for at in range(0, len(lines), 500)] + ["".join(row) for row in random_lines]
    splits = [sorted(set(mlflow_model.split(text, config.tokens.model_dump(mode="json")))) for text in texts]
    assert sum(map(len, splits)) > 1000
    for text, actual in zip(texts, splits, strict=True):
        assert actual == item_tokens.tokenize_text(text, config), ascii(text)
