"""A fitted latent space, stored as one file of arrays; on the driver it projects vectors and texts, suggests words."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embedall_spark import files
from embedall_spark.errors import BadData
from embedall_spark.images.backbones import BackboneConfig
from embedall_spark.latent.preprocessing import Preparation, prepare
from embedall_spark.latent.projection import Side
from embedall_spark.latent.text.item_tokens import ItemTextConfig, tokenize_text
from embedall_spark.latent.text.text_features import TextModel
from embedall_spark.run_context import ServableModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

FILE, SCRIPT = "model.npz", "mlflow_model.py"
REQUIREMENTS = ("numpy", "pandas", "pyarrow")  # of the script, besides MLflow
WORDS, TITLES = "words", "titles"  # kinds of text
UNIT = Preparation(unit=True)
_FORMAT = 1


class TextSide(NamedTuple):
    """How words become vectors of the right side, and back."""

    config: ItemTextConfig
    bags: TextModel
    composed: TextModel | None
    """None: bags alone; else composed vectors are concatenated to them."""
    table: str | None
    """The table of the word vectors that these are composed of."""
    decoder: NDArray[np.float32] | None = None
    """float32 [k, words], see cca.decoder(); None before the fit."""


class Tower(NamedTuple):
    """The text tower that makes vectors of the right side."""

    network: BackboneConfig
    is_pair: bool | None
    """Whether its image tower made the left side's vectors; None: that is not known."""


class WordDecoder(NamedTuple):
    """Predicts the words of an item of the left side."""

    mean: NDArray[np.float64]
    """Mean of the training items' bags, float64 [words]."""
    matrix: NDArray[np.float32]
    """float32 [k, words], see cca.decoder()."""
    weights: NDArray[np.float64]
    """Of the words, float64 [words]."""

    def shares(self, latents: NDArray[np.float32], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each word's share in rows of the left side, float64 [n, words], see LatentModel.suggest_words().

        Args:
            latents: unit rows, float32 [n, k].
            lengths: their lengths before scaling, float64 [n].
        """
        latent = latents.astype(np.float64)
        bags: NDArray[np.float64] = self.mean + lengths[:, None] * (latent @ self.matrix.astype(np.float64))
        return bags / self.weights


class LatentModel(NamedTuple):
    """Both projections of a fit, the kinds of both sides, and the text model."""

    left: Side
    right: Side
    left_kind: str
    right_kind: str
    """``titles`` if the right side is text."""
    text: TextSide | None
    tower: Tower | None = None

    @property
    def takes_text(self) -> bool:
        """Whether a text has a place in the space."""
        return self.text is not None or self.tower is not None

    def project_text(self, text: str, vectors: Mapping[str, Vector] | None = None) -> Vector | None:
        """Return a text in the latent space, float32 [k], of length 1; None if no word of it is known.

        Args:
            text: as a user types it.
            vectors: vectors of its words, if the text side is composed of word vectors.

        Raises:
            BadData: the right side is not text.
        """
        side = self._text()
        words = tokenize_text(text, side.config)
        row = np.zeros(len(self.right.mean), np.float64)
        size = len(side.bags.tokens)
        if (bag := side.bags.bag(words)) is not None:
            row[:size] = prepare(bag[None], UNIT)[0]
        if side.composed is not None and (mean := side.composed.compose(words, vectors or {})) is not None:
            row[size:] = prepare(mean[None], UNIT)[0]
        if not row.any():
            return None
        units, lengths = self.right.latent(row[None].astype(np.float32))
        return units[0] if lengths[0] > 0 else None

    def words(self, text: str) -> list[str]:
        """Return the words of a text, as the text side splits it; raises BadData if the right side is not text."""
        return tokenize_text(text, self._text().config)

    def project_left(self, vector: Vector) -> tuple[Vector, float]:
        """Return a left vector in the latent space, float32 [k], of length 1, and its length before scaling.

        Raises:
            BadData: it does not have the left side's dimension, or has no direction in the latent space.
        """
        if len(vector) != len(self.left.matrix):
            raise BadData(
                f"the vector has {len(vector):,} dimensions; vectors of the left side have {len(self.left.matrix):,}"
            )
        units, lengths = self.left.latent(vector[None])
        if not lengths[0] > 0:
            raise BadData("the vector has no direction in the latent space: it is the mean, or not finite")
        return units[0], float(lengths[0])

    def suggest_words(self, latent: Vector, length: float) -> list[tuple[str, float]]:
        """Return all words with their shares, the likeliest for an item of the left side first.

        A share is the word's predicted value in the item's bag, divided by the word's weight, which is its value in a
        bag of this word alone.

        Args:
            latent: float32 [k], of length 1.
            length: its length before scaling, ``norm`` in the latent table.

        Raises:
            BadData: the right side is not text.
        """
        shares = self.word_decoder().shares(latent[None], np.array([length]))[0]
        return [(self.tokens[index], float(shares[index])) for index in np.argsort(-shares, kind="stable")]

    @property
    def tokens(self) -> list[str]:
        """The words that can be suggested; raises BadData if the right side is not text."""
        return self._text().bags.tokens

    def word_decoder(self) -> WordDecoder:
        """Return what predicts words; raises BadData if the right side is not text."""
        side = self._text()
        assert side.decoder is not None
        return WordDecoder(self.right.mean[: len(side.bags.tokens)], side.decoder, side.bags.weights)

    def _text(self) -> TextSide:
        if self.text is None:
            raise BadData(f"the right side of this latent space is a table of {self.right_kind}, not text")
        return self.text


def servable(model: LatentModel, name: str | None) -> ServableModel:
    """Return a model as MLflow logs it, with an example row of each kind of input.

    Args:
        model: the model.
        name: of the registered model that gets a new version; None: the model is not registered.
    """
    example: dict[str, list[Any]] = {"vector": [[0.5] * len(model.left.matrix), None]}
    if model.text is None:
        example["right_vector"] = [None, [0.5] * len(model.right.matrix)]
    else:
        word = model.text.bags.tokens[0]
        example["text"] = [None, word]
        if model.text.composed is not None:
            size = len(model.right.matrix) - len(model.text.bags.tokens)
            example["word_vectors"] = [None, {word: [0.5] * size}]
    script = str(Path(__file__).with_name(SCRIPT))
    return ServableModel(script, to_bytes(model), example, model.left.matrix.shape[1], REQUIREMENTS, name)


def to_bytes(model: LatentModel) -> bytes:
    """Return a model as the content of an .npz file of arrays, without pickles."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, side in (("left", model.left), ("right", model.right)):
        arrays |= _prefixed(name, side.to_arrays())
    header: dict[str, Any] = {"format": _FORMAT, "left": model.left_kind, "right": model.right_kind}
    if (text := model.text) is not None:
        header |= {"text": text.config.model_dump(mode="json"), "table": text.table}
        arrays |= _prefixed("bags", text.bags.to_arrays())
        if text.composed is not None:
            arrays |= _prefixed("composed", text.composed.to_arrays())
        if text.decoder is not None:
            arrays["decoder"] = text.decoder
    if model.tower is not None:
        header["tower"] = {"network": model.tower.network.model_dump(mode="json"), "is_pair": model.tower.is_pair}
    arrays["about"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def from_bytes(content: bytes) -> LatentModel:
    """Return the model that to_bytes() wrote.

    Raises:
        BadData: the content is not a model, or one of another format.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        header = json.loads(arrays["about"].tobytes())
    except Exception as error:
        # Broken archives and arrays fail in many ways.
        raise BadData(f"not a model of a latent space: {error}") from None
    if header["format"] != _FORMAT:
        raise BadData(f"the latent model has format {header['format']}, and this version reads {_FORMAT}; fit it again")
    text = None
    if "text" in header:
        composed = TextModel.from_arrays(_under("composed", arrays)) if "composed.weights" in arrays else None
        config = ItemTextConfig.model_validate(header["text"])
        bags = TextModel.from_arrays(_under("bags", arrays))
        text = TextSide(config, bags, composed, header["table"], arrays.get("decoder"))
    left, right = (Side.from_arrays(_under(name, arrays)) for name in ("left", "right"))
    tower = None
    if "tower" in header:
        tower = Tower(BackboneConfig.model_validate(header["tower"]["network"]), header["tower"]["is_pair"])
    return LatentModel(left, right, header["left"], header["right"], text, tower)


def load(folder: str, file: str | None = None) -> LatentModel:
    """Return the model of a run.

    Args:
        folder: of the run, as a table's commit names it.
        file: of the model, where the commit names it: a published table's; None: the run's.

    Raises:
        BadData: the run has no model, or it cannot be read.
    """
    path = file or f"{folder}/artifacts/{FILE}"
    try:
        return from_bytes(files.read_bytes(path))
    except OSError:
        raise BadData(f"{path}: the model of the latent space is gone; run 'embedall latent' again") from None


def _prefixed(name: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{name}.{key}": value for key, value in arrays.items()}


def _under(name: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
