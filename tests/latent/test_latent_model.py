"""A latent model written and read, and its projections, against bare numpy."""

import io
import subprocess
import sys

import numpy as np
import pytest

from embedall_spark.errors import BadData
from embedall_spark.latent import latent_model
from embedall_spark.latent.latent_model import UNIT, LatentModel, TextSide
from embedall_spark.latent.projection import Side
from embedall_spark.latent.text.item_tokens import ItemTextConfig
from embedall_spark.latent.text.text_features import TextModel

WORDS = ["red", "dress", "été"]
RANDOM = np.random.default_rng(2)
P, Q, D = RANDOM.standard_normal((6, 2)), RANDOM.standard_normal((5, 2)), RANDOM.standard_normal((2, 3))
MEANS = RANDOM.standard_normal(6), RANDOM.standard_normal(5)
WEIGHTS = np.array([1.0, 2.0, 3.0])
COMMON = np.array([0.6, 0.8])


@pytest.fixture
def fitted():
    bags = TextModel(WORDS, WEIGHTS, 4.0, None)
    text = TextSide(ItemTextConfig(), bags, TextModel(WORDS, WEIGHTS, 4.0, COMMON), "a/table", D.astype(np.float32))
    left = Side(P.astype(np.float32), MEANS[0], UNIT)
    return LatentModel(left, Side(Q.astype(np.float32), MEANS[1]), "images", "titles", text)


def unit(row):
    return row / np.linalg.norm(row)


def test_texts_and_vectors_are_projected_as_by_numpy(fitted):
    vectors = {"dress": np.array([1.0, 5.0], np.float32), "coat": np.array([2.0, -1.0], np.float32)}
    mean = (2 * vectors["dress"] + 4 * vectors["coat"]) / 6
    row = np.concatenate([unit([1.0, 2, 0]), unit(mean - (mean @ COMMON) * COMMON)])
    projected = fitted.project_text("Red dress COAT", vectors)
    np.testing.assert_allclose(projected, unit((row - MEANS[1]) @ Q), atol=1e-6)
    alone = np.concatenate([[0, 0, 1.0], [0, 0]])
    np.testing.assert_allclose(fitted.project_text("été"), unit((alone - MEANS[1]) @ Q), atol=1e-6)
    assert fitted.project_text("nothing known") is None
    picture = RANDOM.standard_normal(6).astype(np.float32)
    mapped, length = fitted.project_left(picture)
    plain = (unit(picture) - MEANS[0]) @ P
    np.testing.assert_allclose(mapped * length, plain, atol=1e-6)
    shares = (MEANS[1][:3] + plain @ D) / WEIGHTS
    suggested = fitted.suggest_words(mapped, length)
    assert [word for word, _ in suggested] == [WORDS[at] for at in np.argsort(-shares)]
    np.testing.assert_allclose([share for _, share in suggested], np.sort(shares)[::-1], atol=1e-6)
    with pytest.raises(BadData, match="no direction"):
        fitted.project_left(np.full(6, np.nan, np.float32))


def test_a_model_is_read_back_unchanged(fitted):
    content = latent_model.to_bytes(fitted)
    again = latent_model.from_bytes(content)
    assert latent_model.to_bytes(again) == content
    assert again.text.bags.tokens == WORDS
    assert (again.left_kind, again.right_kind, again.text.table) == ("images", "titles", "a/table")
    np.testing.assert_array_equal(again.project_text("red"), fitted.project_text("red"))
    bare = fitted._replace(text=None, right_kind="queries")
    again = latent_model.from_bytes(latent_model.to_bytes(bare))
    assert again.text is None
    with pytest.raises(BadData, match="a table of queries, not text"):
        again.suggest_words(np.ones(2, np.float32), 1.0)


def test_errors_say_what_is_wrong_with_a_model(tmp_path):
    content = io.BytesIO()
    np.savez(content, other=np.zeros(3))
    for wrong in (b"", b"text", content.getvalue()):
        with pytest.raises(BadData, match="not a model of a latent space"):
            latent_model.from_bytes(wrong)
    with pytest.raises(BadData, match="is gone; run 'embedall latent' again"):
        latent_model.load(str(tmp_path))


def test_the_arrays_are_read_by_numpy_alone(fitted, tmp_path):
    file = tmp_path / "model.npz"
    file.write_bytes(latent_model.to_bytes(fitted))
    code = f"import numpy as np; print(*np.load({str(file)!r}, allow_pickle=False)['left.matrix'].shape)"
    process = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["6", "2"]
