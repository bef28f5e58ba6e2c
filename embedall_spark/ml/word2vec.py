"""Word2Vec in the place of pyspark.ml.feature.Word2Vec: the same params, a model that is a table."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Self

from pyspark.ml import Estimator
from pyspark.ml.feature import _Word2VecParams
from pyspark.sql import functions as F

from embedall_spark import cluster_slots
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.errors import BadData, UnknownId
from embedall_spark.kinds import words
from embedall_spark.ml import vectors_model, work_folder
from embedall_spark.ml.columns import check_arrays
from embedall_spark.ml.options import accessors, params_of
from embedall_spark.ml.persistence import Saved
from embedall_spark.ml.vectors_model import VectorsModel
from embedall_spark.schemas import SEQUENCES, conform
from embedall_spark.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.ml.linalg import Vector
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.ml.vectors_model import Hits

log = logging.getLogger(__name__)

_MAX_SEED = 2**63
# What pyspark.ml has under other names, and what a fit that leaves nothing behind has no use for.
_OTHER_NAMES = ("vector_size", "window", "alpha", "epochs", "seed", "slice_tokens", "context")
# Params that choose a method. Without them it is MLlib's: one pass over little text needs it, see docs/log.md.
_METHOD = ("method", "sg", "hs", "negative", "max_n")
_MLLIB: dict[str, Any] = {"hs": 1, "negative": 0, "sample": 0.0}
_NOTE = f"unset: as in the configuration if {', '.join(_METHOD)}, device or several workers are set, otherwise "


@accessors("run_root")
@params_of(TrainConfig, exclude=_OTHER_NAMES, notes={name: f"{_NOTE}{value:g}" for name, value in _MLLIB.items()})
@params_of(VocabularyConfig, exclude=("min_count",))
class Word2VecOptions(_Word2VecParams, Saved):
    """Params of Word2Vec: those of pyspark.ml, and ours under the names that the configuration has."""

    def __init__(self) -> None:
        super().__init__()
        # pyspark's default is a hash that differs from process to process; workers are numPartitions unless given.
        self._setDefault(seed=TrainConfig().seed, workers=None, **dict.fromkeys(_MLLIB))

    def setInputCol(self, value: str) -> Self:
        """Set the column of sentences, arrays of strings."""
        return self._set(inputCol=value)

    def setOutputCol(self, value: str) -> Self:
        """Set the column of the sentences' vectors."""
        return self._set(outputCol=value)

    def _check_input(self, dataset: DataFrame) -> str:
        return check_arrays(dataset, self.required("inputCol"))


@accessors(
    *("vectorSize", "numPartitions", "minCount", "windowSize", "maxSentenceLength", "maxIter", "seed", "stepSize"),
)
class Word2Vec(Word2VecOptions, Estimator["Word2VecModel"]):
    """word2vec (Mikolov et al. 2013) as an estimator that takes the place of ``pyspark.ml.feature.Word2Vec``.

    It has the params of pyspark.ml, and beside them ours: those of the sections ``train`` and ``vocabulary`` of
    ``embedall words`` under their own names, such as ``negative``, ``sample``, ``sg``, ``hs`` and ``workers``.

    The method is MLlib's, skip-gram with hierarchical softmax over every word of the text, in one task that uses the
    cores of its host. With ``negative=5``, or another of our params that chooses a method, it is that of ``embedall
    words``: negative sampling, frequent words subsampled. Then ``numPartitions`` is the number of workers, which share
    the model; it is lowered, with a warning, to the task slots of the session and to what a small vocabulary can be
    divided into.
    """

    def __init__(self, **params: Any) -> None:
        """Build the estimator with params by their names, such as ``Word2Vec(vectorSize=50, inputCol="words")``."""
        super().__init__()
        self.setParams(**params)

    def _fit(self, dataset: DataFrame) -> Word2VecModel:
        """Return the model of a column of sentences.

        Raises:
            BadData: no word occurs ``minCount`` times, or no sentence has two of the vocabulary.
            ConfigError: a param is out of range, or not set.
            ResourceError: the cluster lacks memory or disk.
            SchemaMismatch: the column is missing, or not of arrays of strings.
        """
        spark, column = dataset.sparkSession, self._check_input(dataset)
        vocabulary = self.section(VocabularyConfig, min_count=max(1, self.getMinCount()))
        train = self._training(spark)
        sentences = divide(dataset.select(column), column, self.getMaxSentenceLength())
        folder = work_folder.new(spark, self)
        with work_folder.run(spark, folder) as run:
            vectors = words.embed_sequences(run, sentences, vocabulary, train)
            return vectors_model.fitted(self, Word2VecModel(), run, vectors, train.vector_size, f"{folder}/vectors")

    def _training(self, spark: SparkSession) -> TrainConfig:
        """Return the options of training, with no more workers than task slots."""
        renamed = {
            "vector_size": self.getVectorSize(), "window": self.getWindowSize(), "epochs": self.getMaxIter(),
            "alpha": self.getStepSize(), "seed": self.getSeed() % _MAX_SEED,
            "min_alpha": min(self.getOrDefault("min_alpha"), self.getStepSize()),
        }  # fmt: skip
        if not self._chooses_method():
            renamed = {**_MLLIB, "sample": self.optional("sample") or 0.0, **renamed}
        # What has a kernel for GPUs can be shared by workers, too.
        several = self.section(TrainConfig, **renamed, workers=1, device="cpu").has_gpu_kernel
        workers = self.optional("workers") or (self.getNumPartitions() if several else 1)
        if workers > 1 and workers > (slots := cluster_slots.total(spark)):
            log.warning("Word2Vec: %d workers, but %d task slots; %d train", workers, slots, slots)
            workers = slots
        return self.section(TrainConfig, **renamed, workers=workers)

    def _chooses_method(self) -> bool:
        """Return whether a param says that the method is not MLlib's."""
        several = (self.optional("workers") or 1) > 1 or self.getOrDefault("device") != "cpu"
        return several or any(self.isSet(name) for name in _METHOD)


class Word2VecModel(VectorsModel, Word2VecOptions):
    """Words and their vectors, fitted by Word2Vec: a table in Parquet files, which searches and tasks read."""

    def getVectors(self) -> DataFrame:
        """Return the words and their vectors, the most frequent first: word, vector (of pyspark.ml)."""
        return super().getVectors().withColumnRenamed("id", "word")

    def findSynonyms(self, word: str | Vector | Sequence[float], num: int) -> DataFrame:
        """Return the ``num`` words nearest by cosine to a word, itself left out, or to a vector: word, similarity.

        Raises:
            UnknownId: the model has no such word.
            ConfigError: ``num`` is not above 0, or the vector is of another dimension.
        """
        return self._as_table(self.findSynonymsArray(word, num), "word")

    def findSynonymsArray(self, word: str | Vector | Sequence[float], num: int) -> Hits:
        """Return what findSynonyms() does as a list of (word, cosine)."""
        try:
            return [(name, float(score)) for name, score in self.findSimilarArray(word, num)]
        except UnknownId as error:
            raise UnknownId(f"{word} not in vocabulary: {error}") from None

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Return the dataset with the mean of each sentence's vectors; an unknown word counts as zeros."""
        return dataset.withColumn(self.getOutputCol(), self._means(self._check_input(dataset)))

    def __repr__(self) -> str:
        return f"Word2VecModel: uid={self.uid}, numWords={self._size}, vectorSize={self._dimension}"


def divide(dataset: DataFrame, column: str, length: int) -> DataFrame:
    """Return a column of arrays as SEQUENCES of at most ``length`` tokens; their ids follow Spark's partitions."""
    if length < 1:
        raise BadData(f"maxSentenceLength must be above 0, found {length}")
    tokens = F.filter(F.col(column), lambda token: token.isNotNull())
    starts = F.sequence(F.lit(1), F.greatest(F.size("tokens"), F.lit(1)), F.lit(length))
    numbered = dataset.select(tokens.alias("tokens"), F.monotonically_increasing_id().alias("row")).where(
        F.size("tokens") > 0
    )
    parts = numbered.select("row", "tokens", F.explode(starts).alias("start"))
    piece = F.slice("tokens", F.col("start"), F.lit(length))
    return conform(parts.select(F.xxhash64("row", "start").alias("id"), piece.alias("tokens")), SEQUENCES)
