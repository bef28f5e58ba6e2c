"""A latent space as an MLflow model: MLflow copies this file into the model and runs it.

The file is self-contained: it repeats the few lines of preprocessing, projection, text_features and tokenizer that map
a row, so that a model needs neither Spark nor this package and never changes. tests/test_latent_end_to_end.py compares
it with the tables.

Each row has a value in one of these columns; the others are absent or null:

- ``vector``: of the left side, as in its table;
- ``text``: as a user types a title; if titles are composed of word vectors too, ``word_vectors`` goes with it, a map
  from the text's words to their vectors in that table;
- ``right_vector``: of the right side, if that is a table of vectors.

The result is float32 [rows, k]: unit vectors, and zeros for a row without a direction, such as a text without a known
word. Any other row raises ValueError.
"""

from __future__ import annotations

import json
import re
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd  # MLflow reads the annotations of predict()
import pyarrow as pa
import pyarrow.compute as pc
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FORMAT = 1
_INPUTS = ("vector", "text", "right_vector")
_JOINERS = frozenset("'\u2019-\u2010\u2011\u00ad\u200c\u200d")


class Latent(PythonModel):
    """Maps rows of either side into the latent space."""

    def load_context(self, context: Any) -> None:
        """Read the arrays."""
        with np.load(context.artifacts["arrays"], allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        self.about = json.loads(arrays["about"].tobytes())
        if self.about["format"] != FORMAT:
            raise ValueError(f"the arrays have format {self.about['format']}, and this code reads {FORMAT}")
        self.arrays = arrays
        self.has_text = "text" in self.about
        if self.has_text:
            self.words = {name: _words(arrays, name) for name in ("bags", "composed") if f"{name}.weights" in arrays}

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Return rows in the latent space, float32 [n, k]; raises ValueError if a row cannot be read."""
        present = {name: model_input[name].notna().to_numpy() for name in _INPUTS if name in model_input}
        counts: NDArray[np.int64] = np.sum([np.zeros(len(model_input), int), *present.values()], axis=0)
        if (counts != 1).any():
            row = int(np.flatnonzero(counts != 1)[0])
            raise ValueError(f"row {row} has {counts[row]} of {', '.join(_INPUTS)}; need one of them")
        latent = np.zeros((len(model_input), self.arrays["left.matrix"].shape[1]), np.float32)
        for name, rows in present.items():
            if rows.any():
                latent[rows] = self._project(name, model_input[rows])
        return latent

    def _project(self, name: str, rows: pd.DataFrame) -> NDArray[np.float32]:
        if name == "vector":
            return self._latent("left", list(rows[name]))
        if name == "right_vector":
            return self._latent("right", list(rows[name]))
        if not self.has_text:
            raise ValueError(f"the right side is a table of {self.about['right']}: give right_vector in place of text")
        vectors = rows["word_vectors"] if "word_vectors" in rows else [None] * len(rows)
        return self._latent("right", [self._text_vector(*pair) for pair in zip(rows[name], vectors, strict=True)])

    def _latent(self, side: str, vectors: list[Any]) -> NDArray[np.float32]:
        mean, (power, unit) = self.arrays[f"{side}.mean"], self.arrays[f"{side}.preparation"]
        for vector in vectors:
            if len(vector) != len(mean):
                raise ValueError(f"a vector has {len(vector):,} dimensions; the {side} side has {len(mean):,}")
        rows = np.array(vectors, np.float32).astype(np.float64)
        usable = np.isfinite(rows).all(axis=1)
        if side == "right" and self.has_text:
            # Zeros are a text without a known word; in a table of vectors they are a vector like any other.
            usable &= rows.any(axis=1)
        if power != 1:
            rows = np.sign(rows) * np.abs(rows) ** power
        if unit:
            rows = _unit(rows)
        mapped = _unit((rows - mean) @ self.arrays[f"{side}.matrix"].astype(np.float64))
        mapped[~usable] = 0
        return mapped.astype(np.float32)

    def _text_vector(self, text: str, vectors: dict[str, Any] | None) -> Floats:
        """Return a text as a right vector: its bag of words, followed by the composed vector if there is one."""
        words = sorted(set(split(text, self.about["text"]["tokens"])))
        index, weights, _, _ = self.words["bags"]
        bag = np.zeros(len(weights))
        present = [index[word] for word in words if word in index]
        bag[present] = weights[present]
        parts = [bag]
        if "composed" in self.words:
            if vectors is None:
                raise ValueError(
                    f"texts are also composed of the word vectors in {self.about['table']}: give word_vectors, a map "
                    "from each word of the text that is in that table to its vector"
                )
            index, weights, other, common = self.words["composed"]
            known_words = [word for word in words if word in vectors]
            mean = np.zeros(len(self.arrays["right.mean"]) - len(bag))
            if known_words:
                known_weights = np.array([weights[index[word]] if word in index else other for word in known_words])
                matrix = np.array([vectors[word] for word in known_words], np.float64)
                mean = known_weights @ matrix / known_weights.sum()
                if common is not None:
                    mean -= common * (common @ mean)
            parts.append(mean)
        return np.concatenate([_unit(part[None])[0] for part in parts])


def split(text: str, options: dict[str, Any]) -> list[str]:
    """Return the words of a text, by the options of TokensConfig."""
    if options["lower"]:
        text = pc.utf8_lower(pa.scalar(text, pa.string())).as_py()
    if options["split"] == "regex":
        words = re.findall(options["pattern"], text)
    elif options["split"] == "whitespace":
        words = text.split()
    else:
        kinds = "".join(map(_kind, text))
        words = [text[match.start() : match.end()] for match in re.finditer("w[wm]*(?:jw[wm]*)*", kinds)]
    return [word for word in words if len(word) >= options["min_length"]]


def _kind(character: str) -> str:
    """Return w for a character that words begin with, m for a mark, j for a joiner in a word, else a space."""
    if character in _JOINERS:
        return "j"
    return {"L": "w", "N": "w", "M": "m"}.get(unicodedata.category(character)[0], " ")


def _words(arrays: dict[str, Any], name: str) -> tuple[dict[str, int], Floats, float, Floats | None]:
    """Return each word's index, all words' weights, the weight of other words, and the common direction if any."""
    letters, ends = arrays[f"{name}.letters"].tobytes(), [0, *arrays[f"{name}.ends"].tolist()]
    index = {letters[start:end].decode(): position for position, (start, end) in enumerate(pairwise(ends))}
    return index, arrays[f"{name}.weights"], float(arrays[f"{name}.other"][0]), arrays.get(f"{name}.common")


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


set_model(Latent())
