"""A latent space as an MLflow model: MLflow copies this very file into the model and runs it.

It stands alone: it repeats the few lines by which prepare, project, text and tokens map a row, so that a model needs
neither Spark nor this package and stays what it was. tests/test_latent_end_to_end.py holds it to the tables.

A row gives one of these columns, the others are left out or null:

- ``vector``: of the left side, as its table has it;
- ``text``: as a user types a title; where titles are composed of a table of words' vectors too, with ``word_vectors``,
  a map from the text's words to their vectors in that table;
- ``right_vector``: of the right side, where that is a table of vectors.

What comes back is float32 [rows, k]: unit vectors, and zeros where a row has no direction, as a text without a known
word. A row that is not as said raises ValueError.
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
_GIVEN = ("vector", "text", "right_vector")
_JOINERS = frozenset("'\u2019-\u2010\u2011\u00ad\u200c\u200d")


class Latent(PythonModel):
    """Maps rows of either side into the latent space."""

    def load_context(self, context: Any) -> None:
        """Read the arrays."""
        with np.load(context.artifacts["arrays"], allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        self.about = json.loads(arrays["about"].tobytes())
        if self.about["format"] != FORMAT:
            raise ValueError(f"arrays of format {self.about['format']}, this code reads {FORMAT}")
        self.arrays = arrays
        self.has_text = "text" in self.about
        if self.has_text:
            self.words = {name: _words(arrays, name) for name in ("bags", "composed") if f"{name}.weights" in arrays}

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Return rows in the latent space, float32 [n, k]; raises ValueError where a row cannot be read."""
        given = {name: model_input[name].notna().to_numpy() for name in _GIVEN if name in model_input}
        counts: NDArray[np.int64] = np.sum([np.zeros(len(model_input), int), *given.values()], axis=0)
        if (counts != 1).any():
            at = int(np.flatnonzero(counts != 1)[0])
            raise ValueError(f"row {at} has {counts[at]} of {', '.join(_GIVEN)}; need one of them")
        found = np.zeros((len(model_input), self.arrays["left.matrix"].shape[1]), np.float32)
        for name, rows in given.items():
            if rows.any():
                found[rows] = self._mapped(name, model_input[rows])
        return found

    def _mapped(self, name: str, rows: pd.DataFrame) -> NDArray[np.float32]:
        if name == "vector":
            return self._latent("left", list(rows[name]))
        if name == "right_vector":
            return self._latent("right", list(rows[name]))
        if not self.has_text:
            raise ValueError(f"the right side is a table of {self.about['right']}: give right_vector in place of text")
        vectors = rows["word_vectors"] if "word_vectors" in rows else [None] * len(rows)
        return self._latent("right", [self._row(*one) for one in zip(rows[name], vectors, strict=True)])

    def _latent(self, side: str, vectors: list[Any]) -> NDArray[np.float32]:
        mean, (power, unit) = self.arrays[f"{side}.mean"], self.arrays[f"{side}.preparation"]
        for vector in vectors:
            if len(vector) != len(mean):
                raise ValueError(f"a vector of {len(vector):,} numbers; the {side} side's have {len(mean):,}")
        rows = np.array(vectors, np.float32).astype(np.float64)
        usable = np.isfinite(rows).all(axis=1)
        if side == "right" and self.has_text:
            # Zeros are a text without a known word; among other vectors they are one like any.
            usable &= rows.any(axis=1)
        if power != 1:
            rows = np.sign(rows) * np.abs(rows) ** power
        if unit:
            rows = _unit(rows)
        mapped = _unit((rows - mean) @ self.arrays[f"{side}.matrix"].astype(np.float64))
        mapped[~usable] = 0
        return mapped.astype(np.float32)

    def _row(self, text: str, vectors: dict[str, Any] | None) -> Floats:
        """Return a text as the right side has it: its bag of words, and beside it what is composed of their vectors."""
        words = sorted(set(split(text, self.about["text"]["tokens"])))
        place, weights, _, _ = self.words["bags"]
        bag = np.zeros(len(weights))
        known = [place[word] for word in words if word in place]
        bag[known] = weights[known]
        parts = [bag]
        if "composed" in self.words:
            if vectors is None:
                raise ValueError(
                    f"texts are composed of the vectors of words in {self.about['table']} too: give word_vectors, a "
                    "map from each word of the text that is in that table to its vector"
                )
            place, weights, other, common = self.words["composed"]
            known_words = [word for word in words if word in vectors]
            mean = np.zeros(len(self.arrays["right.mean"]) - len(bag))
            if known_words:
                each = np.array([weights[place[word]] if word in place else other for word in known_words])
                mean = each @ np.array([vectors[word] for word in known_words], np.float64) / each.sum()
                if common is not None:
                    mean -= common * (common @ mean)
            parts.append(mean)
        return np.concatenate([_unit(part[None])[0] for part in parts])


def split(text: str, how: dict[str, Any]) -> list[str]:
    """Return the words of a text."""
    if how["lower"]:
        text = pc.utf8_lower(pa.scalar(text, pa.string())).as_py()
    if how["split"] == "regex":
        found = re.findall(how["pattern"], text)
    elif how["split"] == "whitespace":
        found = text.split()
    else:
        kinds = "".join(map(_kind, text))
        found = [text[one.start() : one.end()] for one in re.finditer("w[wm]*(?:jw[wm]*)*", kinds)]
    return [word for word in found if len(word) >= how["min_length"]]


def _kind(character: str) -> str:
    """Return w of what words begin with, m of a mark, j of what joins two parts of a word, a space of all else."""
    if character in _JOINERS:
        return "j"
    return {"L": "w", "N": "w", "M": "m"}.get(unicodedata.category(character)[0], " ")


def _words(arrays: dict[str, Any], name: str) -> tuple[dict[str, int], Floats, float, Floats | None]:
    """Return the place and weight of each word, the weight of others, and the direction in common, if there is one."""
    letters, ends = arrays[f"{name}.letters"].tobytes(), [0, *arrays[f"{name}.ends"].tolist()]
    place = {letters[start:end].decode(): at for at, (start, end) in enumerate(pairwise(ends))}
    return place, arrays[f"{name}.weights"], float(arrays[f"{name}.other"][0]), arrays.get(f"{name}.common")


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return found


set_model(Latent())
