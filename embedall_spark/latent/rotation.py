"""A latent space after a rotation of what it stands on, or of itself: P and Q are composed with it, nothing is fitted.

With x' = x R for an orthogonal R, (x' - m R) R' P = (x - m) P: the rotated vectors go where the vectors went.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedall_spark.latent.latent_model import LatentModel, TextSide
    from embedall_spark.latent.projection import Side

    Matrix = NDArray[np.float64]


def rotate_space(model: LatentModel, rotation: Matrix) -> LatentModel:
    """Return a model whose latent vectors are those of the model times an orthogonal matrix, float64 [k, k]."""
    left, right = (
        side._replace(matrix=(side.matrix.astype(np.float64) @ rotation).astype(np.float32))
        for side in (model.left, model.right)
    )
    text = model.text
    if text is not None and text.decoder is not None:
        text = text._replace(decoder=(rotation.T @ text.decoder.astype(np.float64)).astype(np.float32))
    return model._replace(left=left, right=right, text=text)


def rotate_side(model: LatentModel, side: str, rotation: Matrix) -> LatentModel:
    """Return a model that maps vectors times an orthogonal matrix to where the model maps the vectors.

    Args:
        model: the model.
        side: ``left``, ``right`` or ``words``: whose vectors are rotated; words are those that texts are composed of.
        rotation: float64 [d, d].

    Raises:
        ConfigError: the side raises single values to a power, with which no rotation commutes.
    """
    if side == "left":
        return model._replace(left=_composed(model.left, side, rotation))
    if side == "right":
        return model._replace(right=_composed(model.right, side, rotation))
    text = model.text
    assert text is not None
    # A text is its bag of words, which stays, and behind it the mean of its words' vectors.
    whole = np.eye(len(model.right.mean))
    whole[len(text.bags.tokens) :, len(text.bags.tokens) :] = rotation
    return model._replace(right=_composed(model.right, side, whole), text=_with_common(text, rotation))


def _composed(side: Side, name: str, rotation: Matrix) -> Side:
    if side.preparation.power != 1:
        raise ConfigError(
            f"the latent space raises each value of its {name} vectors to the power {side.preparation.power:g}, with "
            "which a rotation does not commute: fit it to the published table (embedall latent), or with a power of 1"
        )
    matrix = (rotation.T @ side.matrix.astype(np.float64)).astype(np.float32)
    return side._replace(matrix=matrix, mean=side.mean @ rotation)


def _with_common(text: TextSide, rotation: Matrix) -> TextSide:
    """Return a text side whose words' vectors are rotated: so is the direction that they have in common."""
    composed = text.composed
    if composed is None or composed.common is None:
        return text
    return text._replace(composed=composed._replace(common=composed.common @ rotation))
