"""The right side where it is words: titles and tags become vectors, by a table of words' vectors or as bags."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.latent.fit import covariance
from embedall_spark.latent.fit.cca import principal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

MAX_TOKENS = 1_000_000  # different tokens whose weights are kept
COMPOSED = "id string, vector array<float>, norm double"
_STEP = 1000  # items that are composed at once


class TextModel(NamedTuple):
    """Statistics of the training items by which words become vectors."""

    tokens: list[str]
    """The words of the training items, the most frequent first."""
    weights: NDArray[np.float64]
    """Inverse document frequency of each, float64 [n]."""
    other: float
    """The weight of a word that no training item has."""
    common: NDArray[np.float64] | None
    """The direction that composed vectors have in common, unit length, float64 [d]; None for bags."""

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the model as named arrays, from which from_arrays() makes it again."""
        encoded = [token.encode() for token in self.tokens]
        found: dict[str, NDArray[np.generic]] = {
            "letters": np.frombuffer(b"".join(encoded), np.uint8),
            "ends": np.cumsum([len(token) for token in encoded], dtype=np.int64),
            "weights": self.weights,
            "other": np.array([self.other]),
        }
        return found if self.common is None else {**found, "common": self.common}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> TextModel:
        """Return the model that to_arrays() gave."""
        ends = [0, *arrays["ends"].tolist()]
        letters = arrays["letters"].tobytes()
        tokens = [letters[start:end].decode() for start, end in pairwise(ends)]
        common = arrays["common"].astype(np.float64) if "common" in arrays else None
        return cls(tokens, arrays["weights"].astype(np.float64), float(arrays["other"][0]), common)

    def bag(self, words: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the bag of a few words, float32 [n], as bags() does; None where none is known."""
        place = {token: at for at, token in enumerate(self.tokens)}
        known = sorted({place[word] for word in words if word in place})
        vector = np.zeros(len(self.tokens))
        vector[known] = self.weights[known]
        return _unit(vector).astype(np.float32) if known else None

    def compose(self, words: Sequence[str], vectors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32] | None:
        """Return the vector of a few words, float32 [d], as composed() does; None where none has a vector."""
        known = sorted({word for word in words if word in vectors})
        if not known:
            return None
        place = {token: at for at, token in enumerate(self.tokens)}
        weights = np.array([self.weights[place[word]] if word in place else self.other for word in known])
        mean = means(weights, np.stack([vectors[word] for word in known]), np.array([0]), self.common)
        found: NDArray[np.float32] = mean[0].astype(np.float32)
        return found


def fit_words(train: DataFrame, *, min_items: int = 2, most: int | None = None) -> TextModel:
    """Return the weights of the training items' words, also of more than a bag takes; arguments as of fit_bags().

    Raises:
        ConfigError: more than MAX_TOKENS words are left, which the driver and the model would hold.
        BadData: none is left.
    """
    model = _weigh(train, min_items, most or MAX_TOKENS + 1)
    if len(model.tokens) > MAX_TOKENS:
        raise ConfigError(
            f"over {MAX_TOKENS:,} words are in {min_items:,} training item(s) or more, and at most {MAX_TOKENS:,} are "
            "kept: raise input.min_items, or keep only the most frequent words by input.most_words"
        )
    return model


def fit_bags(train: DataFrame, *, min_items: int = 2, most: int | None = None) -> TextModel:
    """Return the model by which items become bags of words, a number per word.

    Args:
        train: words.of_items() of the training items.
        min_items: a word of fewer training items is left out.
        most: keep only so many, the most frequent ones; None: all.

    Raises:
        ConfigError: more words are left than the closed form takes.
        BadData: none is left.
    """
    if most is not None and not 1 <= most <= covariance.MAX_SIZE:
        raise ConfigError(f"most {most:,}: need 1 to {covariance.MAX_SIZE:,} words")
    model = _weigh(train, min_items, most or covariance.MAX_SIZE + 1)
    if len(model.tokens) > covariance.MAX_SIZE:
        raise ConfigError(
            f"over {covariance.MAX_SIZE:,} words are in {min_items:,} training item(s) or more; a bag takes at most "
            f"{covariance.MAX_SIZE:,}: raise min_items, keep only the most frequent words, or give no "
            "table of words' vectors, so that those of the rarer ones are learnt"
        )
    return model


def bags(found: DataFrame, model: TextModel) -> DataFrame:
    """Return each item's bag of words, of unit length, each known word at its weight: id, vector, norm.

    Items without a known word are left out; see words.report().

    Args:
        found: words.of_items().
        model: from fit_bags().
    """
    return found.mapInArrow(_bagger(model), COMPOSED)


def fit_composed(train: DataFrame, vectors: DataFrame) -> TextModel:
    """Return the model by which items are composed of their words' vectors.

    Arora, Liang and Ma 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings" (SIF), with inverse document
    frequencies as weights: what all composed vectors have in common, the first singular vector of their matrix, is
    taken from each. It is found from their second moments, d x d.

    Args:
        train: words.of_items() of the training items.
        vectors: VECTORS of words.

    Raises:
        BadData: no training item has a word with a vector.
    """
    model = _weigh(train, 1, MAX_TOKENS)
    found = covariance.of_vectors(composed(train, vectors, model))
    second = found.scatter / found.weight + np.outer(found.mean, found.mean)
    return model._replace(common=principal(second))


def composed(found: DataFrame, vectors: DataFrame, model: TextModel) -> DataFrame:
    """Return each item's weighted mean of its words' vectors, without what is common: id, vector, norm.

    Items without a word that has a vector are left out; see words.report().

    Args:
        found: words.of_items().
        vectors: VECTORS of words.
        model: from fit_composed(), or the words whose vectors learned.fit() has learnt.
    """
    return item_word_vectors(found, vectors, model).mapInArrow(_composer(model.common), COMPOSED)


def item_word_vectors(found: DataFrame, vectors: DataFrame, model: TextModel) -> DataFrame:
    """Return what items are composed of: id, and of the words with a vector their weights, counts and numbers.

    The numbers are those of all the words' vectors, one after the other; arguments are those of composed().
    """
    exploded = found.select("id", F.explode("tokens").alias("token"))
    known = exploded.join(vectors.select(F.col("id").alias("token"), "vector", "count"), "token")
    weights = found.sparkSession.createDataFrame(pa.table({"token": model.tokens, "weight": model.weights}))
    weight = F.coalesce("weight", F.lit(model.other))
    weighted = known.join(weights, "token", "left").select(
        "id", F.struct("token", weight.alias("weight"), "vector", "count").alias("w")
    )
    # In the order of the words, so that sums do not depend on how rows meet.
    one = weighted.groupBy("id").agg(F.array_sort(F.collect_list("w")).alias("w"))
    numbers = F.flatten("w.vector").alias("numbers")
    return one.select("id", F.col("w.weight").alias("weights"), F.col("w.count").alias("counts"), numbers)


def vocabulary(like: DataFrame, model: TextModel) -> DataFrame:
    """Return the words of a model as a table: id (string); ``like`` is any table of the session."""
    return like.sparkSession.createDataFrame(pa.table({"id": pa.array(model.tokens, pa.string())}))


def _weigh(train: DataFrame, min_items: int, most: int) -> TextModel:
    """Return inverse document frequencies, smoothed so that one of a word never seen is defined."""
    items = train.count()
    counted = train.select(F.explode("tokens").alias("token")).groupBy("token").agg(F.count("*").alias("items"))
    kept = counted.where(F.col("items") >= min_items).orderBy(F.desc("items"), "token").limit(most).toArrow()
    if not len(kept):
        raise BadData(
            f"no word is in {min_items:,} of {items:,} training item(s): need titles or tags on the right side"
        )
    weights = np.log((1 + items) / (1 + kept["items"].to_numpy())) + 1
    return TextModel(kept["token"].to_pylist(), weights, float(np.log(1 + items) + 1), None)


def _bagger(model: TextModel) -> Callable[[Batches], Batches]:
    """Build the task's function."""
    known, weights = pa.array(model.tokens, pa.string()), model.weights

    def one(batch: pa.RecordBatch) -> pa.RecordBatch:
        tokens = batch["tokens"]
        place = pc.index_in(tokens.flatten(), value_set=known).fill_null(-1).to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(tokens)), pc.list_value_length(tokens).to_numpy(zero_copy_only=False))
        row, place = row[place >= 0], place[place >= 0]
        bag = np.zeros((len(tokens), len(weights)))
        bag[row, place] = weights[place]
        return rows(batch["id"], bag, unit=True)

    return in_batches(one)


def _composer(common: NDArray[np.float64] | None) -> Callable[[Batches], Batches]:
    """Build the task's function."""

    def one(batch: pa.RecordBatch) -> pa.RecordBatch:
        return rows(batch["id"], means(*parts(batch), common))

    return in_batches(one)


def parts(batch: pa.RecordBatch) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.int64]]:
    """Return weights [n], vectors [n, d] and, of each item, its first of these n words, of rows of gathered()."""
    weights = batch["weights"].flatten().to_numpy()
    lengths = pc.list_value_length(batch["weights"]).to_numpy(zero_copy_only=False)
    matrix = batch["numbers"].flatten().to_numpy().reshape(len(weights), -1)
    return weights, matrix, np.concatenate([[0], np.cumsum(lengths)[:-1]])


def in_batches(one: Callable[[pa.RecordBatch], pa.RecordBatch], step: int = _STEP) -> Callable[[Batches], Batches]:
    """Return the task's function that takes its rows some at a time, on one thread."""

    def steps(batches: Batches) -> Iterator[pa.RecordBatch]:
        with threadpool_limits(1):
            for batch in batches:
                for start in range(0, batch.num_rows, step):
                    yield one(batch.slice(start, step))

    return steps


def means(
    weights: NDArray[np.float64],
    matrix: NDArray[np.floating[Any]],
    starts: NDArray[np.int64],
    common: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Return the weighted mean of the rows from each start to the next, without the common direction."""
    sums = np.add.reduceat(matrix * weights[:, None], starts, axis=0)
    means: NDArray[np.float64] = sums / np.add.reduceat(weights, starts)[:, None]
    return means if common is None else means - np.outer(means @ common, common)


def rows(
    ids: pa.StringArray, matrix: NDArray[np.float64], *, unit: bool = False, keep_zeros: bool = False
) -> pa.RecordBatch:
    """Return id, vector and norm of the rows, where not told otherwise of those that are not zero."""
    norms = np.linalg.norm(matrix, axis=1)
    kept = (norms > 0) | keep_zeros
    matrix, norms = matrix[kept], norms[kept]
    if unit:
        matrix = matrix / norms[:, None]
    ends = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    vector = pa.ListArray.from_arrays(pa.array(ends), pa.array(matrix.astype(np.float32).ravel()))
    return pa.RecordBatch.from_arrays([ids.filter(pa.array(kept)), vector, pa.array(norms)], ["id", "vector", "norm"])


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)
