"""A latent model composed with rotations maps rotated vectors to where the vectors went."""

import numpy as np
import pytest
from scipy.stats import ortho_group
from test_mlflow_model import LEFT, VECTORS, latent_space, loaded

from embedall_spark.errors import ConfigError
from embedall_spark.latent import rotation
from embedall_spark.latent.latent_model import UNIT

RANDOM = np.random.default_rng(8)
ROWS = RANDOM.standard_normal((4, 6)).astype(np.float32)
TEXTS = ["a red dress", "crimson", "été, crimson"]


@pytest.fixture(params=[True, False])
def space(request):
    model = latent_space()
    if not request.param:
        # Of two dimensions, only a sign is left without the common direction.
        model = model._replace(text=model.text._replace(composed=model.text.composed._replace(common=None)))
    decoder = RANDOM.standard_normal((2, 3)).astype(np.float32)
    left = LEFT._replace(preparation=UNIT)
    return model._replace(left=left, text=model.text._replace(decoder=decoder))


def turned(rows, matrix):
    return (rows.astype(np.float64) @ matrix).astype(np.float32)


def test_both_sides_follow_what_they_stand_on(space, tmp_path):
    left, words = ortho_group.rvs(6, random_state=1), ortho_group.rvs(2, random_state=2)
    model = rotation.rotate_side(rotation.rotate_side(space, "left", left), "words", words)
    vectors = {name: turned(vector, words) for name, vector in VECTORS.items()}
    predict = loaded(tmp_path, model)
    texts = predict(text=TEXTS, word_vectors=[vectors] * 3)
    for row, expected in zip(turned(ROWS, left), ROWS, strict=True):
        actual, length = model.project_left(row)
        latent, before = space.project_left(expected)
        np.testing.assert_allclose(actual, latent, atol=1e-6)
        assert length == pytest.approx(before, rel=1e-5)
    np.testing.assert_allclose(predict(vector=list(turned(ROWS, left))), space.left.latent(ROWS)[0], atol=1e-6)
    for text, row in zip(TEXTS, texts, strict=True):
        np.testing.assert_allclose(model.project_text(text, vectors), space.project_text(text, VECTORS), atol=1e-6)
        np.testing.assert_allclose(row, space.project_text(text, VECTORS), atol=1e-6)
    if space.text.composed.common is None:
        # The rotated words in the model as it was are something else.
        assert abs(space.project_text("crimson", vectors) - space.project_text("crimson", VECTORS)).max() > 0.1
    table = space._replace(text=None, right=space.left)
    right = rotation.rotate_side(table, "right", left).right
    np.testing.assert_allclose(right.latent(turned(ROWS, left))[0], space.left.latent(ROWS)[0], atol=1e-6)


def test_the_space_itself_is_rotated(space):
    matrix = ortho_group.rvs(2, random_state=3)
    model = rotation.rotate_space(space, matrix)
    latent, length = space.project_left(ROWS[0])
    np.testing.assert_allclose(model.project_left(ROWS[0])[0], turned(latent, matrix), atol=1e-6)
    text = space.project_text(TEXTS[0], VECTORS)
    np.testing.assert_allclose(model.project_text(TEXTS[0], VECTORS), turned(text, matrix), atol=1e-6)
    actual, expected = (
        dict(m.suggest_words(row, length)) for m, row in ((model, turned(latent, matrix)), (space, latent))
    )
    assert actual == pytest.approx(expected, abs=1e-5)


def test_powers_of_single_values_are_refused():
    with pytest.raises(ConfigError, match=r"to the power 0\.5, with which a rotation does not commute: fit it"):
        rotation.rotate_side(latent_space(), "left", np.eye(6))
