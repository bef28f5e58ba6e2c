"""A fitted latent space as one file of arrays, and what maps into it on the driver: a vector, a text, guessed words."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from embedall_spark import files
from embedall_spark.errors import BadData
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
REQUIREMENTS = ("numpy", "pandas", "pyarrow")  # of the script, beside MLflow
WORDS, TITLES = "words", "titles"  # kinds of text
UNIT = Preparation(unit=True)
_FORMAT = 1


class TextSide(NamedTuple):
    """How words become vectors of the right side, and back."""

    config: ItemTextConfig
    bags: TextModel
    composed: TextModel | None
    """None: bags alone; else composed vectors are put beside them."""
    table: str | None
    """The table of the words' vectors that these are composed of."""
    decoder: NDArray[np.float32] | None = None
    """float32 [k, words], see closed_form.decoder(); None before the fit."""


class Guessing(NamedTuple):
    """By what words are guessed."""

    mean: NDArray[np.float64]
    """Of the training items' bags, float64 [words]."""
    decoder: NDArray[np.float32]
    """float32 [k, words]"""
    weights: NDArray[np.float64]
    """Of the words, float64 [words]."""


def shares(
    latents: NDArray[np.float32],
    lengths: NDArray[np.float64],
    mean: NDArray[np.float64],
    decoder: NDArray[np.float32],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return each word's share in rows of the left side, float64 [n, words], see LatentModel.guess().

    Args:
        latents: unit rows, float32 [n, k].
        lengths: their lengths before, float64 [n].
        mean: as Guessing has it, like what follows.
        decoder: likewise.
        weights: likewise.
    """
    found: NDArray[np.float64] = mean + lengths[:, None] * (latents.astype(np.float64) @ decoder.astype(np.float64))
    return found / weights


class LatentModel(NamedTuple):
    """All that a fit has learnt."""

    left: Side
    right: Side
    left_kind: str
    right_kind: str
    """``titles`` where the right side is text."""
    text: TextSide | None

    def of_text(self, text: str, vectors: Mapping[str, Vector] | None = None) -> Vector | None:
        """Return a text in the latent space, float32 [k], of length 1; None where no word of it is known.

        Args:
            text: as a user types it.
            vectors: vectors of its words, where the text side is composed of such.

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
        return _only(self.right.latent(row[None].astype(np.float32)))

    def words(self, text: str) -> list[str]:
        """Return the words of a text, as the text side splits it; raises BadData where the right side is not text."""
        return tokenize_text(text, self._text().config)

    def of_left(self, vector: Vector) -> tuple[Vector, float]:
        """Return a vector of the left side in the latent space, float32 [k], of length 1, and its length before.

        Raises:
            BadData: it is not of the left side's length, or has no direction in the latent space.
        """
        if len(vector) != len(self.left.matrix):
            raise BadData(f"a vector of {len(vector):,} numbers; the left side's have {len(self.left.matrix):,}")
        units, lengths = self.left.latent(vector[None])
        if not lengths[0] > 0:
            raise BadData("the vector has no direction in the latent space: it is the mean, or not finite")
        return units[0], float(lengths[0])

    def guess(self, latent: Vector, length: float) -> list[tuple[str, float]]:
        """Return all words, those that an item of the left side is most likely to have first, with their shares.

        A share is the guessed number of the word in the item's bag, of what a word alone would have: the word's weight.

        Args:
            latent: float32 [k], of length 1.
            length: its length before, ``norm`` in the latent table.

        Raises:
            BadData: the right side is not text.
        """
        side = self._text()
        found = shares(latent[None], np.array([length]), *self.guessing())[0]
        order = np.argsort(-found, kind="stable")
        return [(side.bags.tokens[at], float(found[at])) for at in order]

    @property
    def tokens(self) -> list[str]:
        """The words that can be guessed; raises BadData where the right side is not text."""
        return self._text().bags.tokens

    def guessing(self) -> Guessing:
        """Return what shares() needs; raises BadData where the right side is not text."""
        side = self._text()
        assert side.decoder is not None
        return Guessing(self.right.mean[: len(side.bags.tokens)], side.decoder, side.bags.weights)

    def _text(self) -> TextSide:
        if self.text is None:
            raise BadData(f"the right side of this latent space is a table of {self.right_kind}, not text")
        return self.text


def servable(model: LatentModel, name: str | None) -> ServableModel:
    """Return a model as MLflow takes it, with an example of each thing that it can be asked.

    Args:
        model: the model.
        name: of the registered model of which it becomes a version; None: of none.
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
    """Return a model as the content of an .npz file that holds arrays only, no pickles."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, side in (("left", model.left), ("right", model.right)):
        arrays |= _prefixed(name, side.to_arrays())
    about: dict[str, Any] = {"format": _FORMAT, "left": model.left_kind, "right": model.right_kind}
    if (text := model.text) is not None:
        about |= {"text": text.config.model_dump(mode="json"), "table": text.table}
        arrays |= _prefixed("bags", text.bags.to_arrays())
        if text.composed is not None:
            arrays |= _prefixed("composed", text.composed.to_arrays())
        if text.decoder is not None:
            arrays["decoder"] = text.decoder
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def from_bytes(content: bytes) -> LatentModel:
    """Return the model that to_bytes() gave.

    Raises:
        BadData: it is no such model, or of another version of this package.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        about = json.loads(arrays["about"].tobytes())
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile) as error:
        raise BadData(f"not a model of a latent space: {error}") from None
    if about["format"] != _FORMAT:
        raise BadData(f"a latent model of format {about['format']}, this version reads {_FORMAT}; fit it again")
    text = None
    if "text" in about:
        composed = TextModel.from_arrays(_under("composed", arrays)) if "composed.weights" in arrays else None
        config = ItemTextConfig.model_validate(about["text"])
        bags = TextModel.from_arrays(_under("bags", arrays))
        text = TextSide(config, bags, composed, about["table"], arrays.get("decoder"))
    left, right = (Side.from_arrays(_under(name, arrays)) for name in ("left", "right"))
    return LatentModel(left, right, about["left"], about["right"], text)


def load(folder: str) -> LatentModel:
    """Return the model of a run.

    Args:
        folder: of the run, as a table's commit names it.

    Raises:
        BadData: the run has none, or it cannot be read.
    """
    path = f"{folder}/artifacts/{FILE}"
    try:
        return from_bytes(files.read_bytes(path))
    except OSError:
        raise BadData(f"{path}: the model of the latent space is gone; run 'embedall latent' again") from None


def _prefixed(name: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{name}.{key}": value for key, value in arrays.items()}


def _under(name: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}


def _only(mapped: tuple[Vector, NDArray[np.float64]]) -> Vector | None:
    units, lengths = mapped
    return units[0] if lengths[0] > 0 else None
