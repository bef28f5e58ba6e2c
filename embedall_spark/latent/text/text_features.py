"""Text features of the right side: items become bags of words, or means of their words' vectors."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from embedall_spark import list_offsets
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.fit import covariance
from embedall_spark.schemas import from_arrow
from embedall_spark.vectors import in_batches, to_column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

MAX_TOKENS = 1_000_000  # different words whose weights are kept
COMPOSED = "id string, vector array<float>, norm double"
BATCH_ROWS = 1000  # items that a task converts at once


class TextModel(NamedTuple):
    """Statistics of the training items by which words become vectors."""

    tokens: list[str]
    """The words of the training items, the most frequent first."""
    weights: NDArray[np.float64]
    """Inverse document frequency of each word, float64 [n]."""
    other: float
    """The weight of a word that no training item has."""
    common: NDArray[np.float64] | None
    """The common direction of composed vectors, of length 1, float64 [d]; None for bags."""

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the model as named arrays, which from_arrays() reads."""
        encoded = [token.encode() for token in self.tokens]
        arrays: dict[str, NDArray[np.generic]] = {
            "letters": np.frombuffer(b"".join(encoded), np.uint8),
            "ends": np.cumsum([len(token) for token in encoded], dtype=np.int64),
            "weights": self.weights,
            "other": np.array([self.other]),
        }
        return arrays if self.common is None else {**arrays, "common": self.common}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> TextModel:
        """Return the model that to_arrays() gave."""
        ends = [0, *arrays["ends"].tolist()]
        letters = arrays["letters"].tobytes()
        tokens = [letters[start:end].decode() for start, end in pairwise(ends)]
        common = arrays["common"].astype(np.float64) if "common" in arrays else None
        return cls(tokens, arrays["weights"].astype(np.float64), float(arrays["other"][0]), common)

    def bag(self, words: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the bag of some words, scaled to length 1, float32 [n]; None if no word is known."""
        index = {token: position for position, token in enumerate(self.tokens)}
        present = sorted({index[word] for word in words if word in index})
        bag = np.zeros(len(self.tokens))
        bag[present] = self.weights[present]
        return (bag / np.linalg.norm(bag)).astype(np.float32) if present else None

    def compose(self, words: Sequence[str], vectors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32] | None:
        """Return the weighted mean of some words' vectors, float32 [d]; None if no word has a vector."""
        present = sorted({word for word in words if word in vectors})
        if not present:
            return None
        index = {token: position for position, token in enumerate(self.tokens)}
        weights = np.array([self.weights[index[word]] if word in index else self.other for word in present])
        mean = weighted_means(weights, np.stack([vectors[word] for word in present]), np.array([0]), self.common)
        vector: NDArray[np.float32] = mean[0].astype(np.float32)
        return vector


def fit_words(train: DataFrame, *, min_items: int = 2, max_words: int | None = None) -> TextModel:
    """Return the weights of the training items' words, without the limit of bags; arguments as of fit_bags().

    Raises:
        ConfigError: more than MAX_TOKENS words are left, which the driver and the model would hold.
        BadData: no word is left.
    """
    model = _weigh(train, min_items, max_words or MAX_TOKENS + 1)
    if len(model.tokens) > MAX_TOKENS:
        raise ConfigError(
            f"more than {MAX_TOKENS:,} words are in at least {min_items:,} training item(s), and at most "
            f"{MAX_TOKENS:,} are kept: raise input.min_items, or keep only the most frequent words by input.most_words"
        )
    return model


def fit_bags(train: DataFrame, *, min_items: int = 2, max_words: int | None = None) -> TextModel:
    """Return the model by which items become bags of words, a dimension per word.

    Args:
        train: from item_tokens.tokenize_items(), of the training items.
        min_items: words of fewer training items are left out.
        max_words: keep only this many words, the most frequent; None: all.

    Raises:
        ConfigError: more words are left than the closed form takes.
        BadData: no word is left.
    """
    if max_words is not None and not 1 <= max_words <= covariance.MAX_SIZE:
        raise ConfigError(f"input.most_words={max_words:,}: bags take 1 to {covariance.MAX_SIZE:,} words")
    model = _weigh(train, min_items, max_words or covariance.MAX_SIZE + 1)
    if len(model.tokens) > covariance.MAX_SIZE:
        raise ConfigError(
            f"more than {covariance.MAX_SIZE:,} words are in at least {min_items:,} training item(s), and a bag takes "
            f"at most {covariance.MAX_SIZE:,}: raise input.min_items, keep only the most frequent words by "
            "input.most_words, or leave input.words out, so that vectors of the rarer words are learned"
        )
    return model


def bags_of_words(items: DataFrame, model: TextModel) -> DataFrame:
    """Return each item's bag of words, scaled to length 1, with each known word's weight: id, vector, norm.

    Items without a known word are left out; see item_tokens.report().

    Args:
        items: from item_tokens.tokenize_items().
        model: from fit_bags().
    """
    return items.mapInArrow(_bagger(model), COMPOSED)


def fit_composed(train: DataFrame, vectors: DataFrame) -> TextModel:
    """Return the model by which items are composed of their words' vectors.

    Arora, Liang and Ma 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings" (SIF), with inverse document
    frequencies as weights: the first singular vector of the matrix of composed vectors, which they have in common, is
    removed from each. It is computed from their second moments, d x d.

    Args:
        train: from item_tokens.tokenize_items(), of the training items.
        vectors: VECTORS of words.

    Raises:
        BadData: no training item has a word with a vector.
    """
    model = _weigh(train, 1, MAX_TOKENS)
    moments = covariance.of_vectors(compose(train, vectors, model))
    second = moments.scatter / moments.weight + np.outer(moments.mean, moments.mean)
    # Imported here: a question needs no scipy.
    from embedall_spark.latent.fit.cca import principal

    return model._replace(common=principal(second))


def compose(items: DataFrame, vectors: DataFrame, model: TextModel) -> DataFrame:
    """Return each item's weighted mean of its words' vectors, without the common direction: id, vector, norm.

    Items without a word that has a vector are left out; see item_tokens.report().

    Args:
        items: from item_tokens.tokenize_items().
        vectors: VECTORS of words.
        model: from fit_composed(), or the words whose vectors word_vectors.fit() learned.
    """
    return item_word_vectors(items, vectors, model).mapInArrow(_composer(model.common), COMPOSED)


def item_word_vectors(items: DataFrame, vectors: DataFrame, model: TextModel) -> DataFrame:
    """Return the words of each item that have a vector: id, weights, counts and values, in the order of the words.

    ``values`` are those of all the words' vectors, one after the other; arguments are those of compose().
    """
    exploded = items.select("id", F.explode("tokens").alias("token"))
    words = exploded.join(vectors.select(F.col("id").alias("token"), "vector", "count"), "token")
    weights = from_arrow(items.sparkSession, pa.table({"token": model.tokens, "weight": model.weights}))
    weight = F.coalesce("weight", F.lit(model.other))
    weighted = words.join(weights, "token", "left").select(
        "id", F.struct("token", weight.alias("weight"), "vector", "count").alias("w")
    )
    # Sorted by word, so that sums do not depend on the order in which rows arrive.
    by_item = weighted.groupBy("id").agg(F.array_sort(F.collect_list("w")).alias("w"))
    values = F.flatten("w.vector").alias("values")
    return by_item.select("id", F.col("w.weight").alias("weights"), F.col("w.count").alias("counts"), values)


def vocabulary(like: DataFrame, model: TextModel) -> DataFrame:
    """Return the words of a model as a table: id (string); ``like`` is any table of the session."""
    return from_arrow(like.sparkSession, pa.table({"id": pa.array(model.tokens, pa.string())}))


def _weigh(train: DataFrame, min_items: int, max_words: int) -> TextModel:
    """Return inverse document frequencies, smoothed so that an unseen word has one too."""
    items = train.count()
    counts = train.select(F.explode("tokens").alias("token")).groupBy("token").agg(F.count("*").alias("items"))
    frequent = counts.where(F.col("items") >= min_items).orderBy(F.desc("items"), "token").limit(max_words).toArrow()
    if not len(frequent):
        raise BadData(
            f"no word is in {min_items:,} of {items:,} training item(s): need titles or tags on the right side"
        )
    weights = np.log((1 + items) / (1 + frequent["items"].to_numpy())) + 1
    return TextModel(frequent["token"].to_pylist(), weights, float(np.log(1 + items) + 1), None)


def _bagger(model: TextModel) -> Callable[[Batches], Batches]:
    """Build the task's function."""
    words, weights = pa.array(model.tokens, pa.string()), model.weights

    def convert(batch: pa.RecordBatch) -> pa.RecordBatch:
        tokens = batch["tokens"]
        column = pc.index_in(tokens.flatten(), value_set=words).fill_null(-1).to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(tokens)), pc.list_value_length(tokens).to_numpy(zero_copy_only=False))
        row, column = row[column >= 0], column[column >= 0]
        bags = np.zeros((len(tokens), len(weights)))
        bags[row, column] = weights[column]
        return vector_batch(batch["id"], bags, unit=True)

    return in_batches(convert, BATCH_ROWS)


def _composer(common: NDArray[np.float64] | None) -> Callable[[Batches], Batches]:
    """Build the task's function."""

    def convert(batch: pa.RecordBatch) -> pa.RecordBatch:
        return vector_batch(batch["id"], weighted_means(*word_arrays(batch), common))

    return in_batches(convert, BATCH_ROWS)


def word_arrays(batch: pa.RecordBatch) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.int64]]:
    """Return, of rows of item_word_vectors(), weights [n], vectors [n, d] and each item's first index among these n."""
    weights = batch["weights"].flatten().to_numpy()
    lengths = pc.list_value_length(batch["weights"]).to_numpy(zero_copy_only=False)
    matrix = batch["values"].flatten().to_numpy().reshape(len(weights), -1)
    return weights, matrix, list_offsets.from_lengths(lengths)[:-1]


def weighted_means(
    weights: NDArray[np.float64],
    matrix: NDArray[np.floating[Any]],
    starts: NDArray[np.int64],
    common: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Return the weighted mean of the rows from each start to the next, without the common direction."""
    sums = np.add.reduceat(matrix * weights[:, None], starts, axis=0)
    means: NDArray[np.float64] = sums / np.add.reduceat(weights, starts)[:, None]
    return means if common is None else means - np.outer(means @ common, common)


def vector_batch(
    ids: pa.StringArray, matrix: NDArray[np.float64], *, unit: bool = False, keep_zeros: bool = False
) -> pa.RecordBatch:
    """Return id, vector and norm of the rows; rows of zeros are left out unless ``keep_zeros``."""
    norms = np.linalg.norm(matrix, axis=1)
    usable = (norms > 0) | keep_zeros
    matrix, norms = matrix[usable], norms[usable]
    if unit:
        matrix = matrix / norms[:, None]
    columns = [ids.filter(pa.array(usable)), to_column(matrix), pa.array(norms)]
    return pa.RecordBatch.from_arrays(columns, ["id", "vector", "norm"])
