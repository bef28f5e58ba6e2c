"""Words: documents -> tokens -> vocabulary -> sequence blocks -> skip-gram vectors."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from pydantic import Field, field_validator, model_validator

from embedall_spark.config import MOVABLE, InputPath, Output, Section, check_gates
from embedall_spark.corpus import blocks, encoded_pages, phrases, vocabulary
from embedall_spark.corpus.phrases import PhrasesConfig
from embedall_spark.corpus.tokenizer import TokensConfig
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.evaluate import benchmark_files
from embedall_spark.evaluate import word_benchmarks as evaluation
from embedall_spark.schemas import DOCUMENTS, conform, vectors_of
from embedall_spark.sources import input_version, text
from embedall_spark.sources.text import TextConfig
from embedall_spark.train import plan, preflight, trainer
from embedall_spark.train.config import SkipGram
from embedall_spark.visualize import scatter_map

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.run_context import Run


class Evaluation(Section):
    """What to measure before the table is replaced."""

    analogies: InputPath | None = Field(
        None, description="file of analogies in questions-words format", json_schema_extra=MOVABLE
    )
    similarity: list[InputPath] = Field(
        [], description="files of word pairs with a human score (WordSim, SimLex)", json_schema_extra=MOVABLE
    )
    restrict_vocab: int = Field(
        300_000, ge=1, description="analogies are answered from so many most frequent words", json_schema_extra=MOVABLE
    )
    map_words: int = Field(
        400,
        ge=0,
        le=scatter_map.MAX_IDS,
        description="words on the map picture; 0: no picture",
        json_schema_extra=MOVABLE,
    )
    gates: dict[str, float] = Field(
        {}, description="least value of a figure, by its name; below, the table stays", json_schema_extra=MOVABLE
    )

    @field_validator("map_words")
    @classmethod
    def _two_words(cls, value: int) -> int:
        if value == 1:
            raise ValueError("a map needs two words; 0 for no map")
        return value


class Config(Section):
    """Configuration of ``embedall words``."""

    input: TextConfig
    output: Output
    tokens: TokensConfig = TokensConfig()
    phrases: PhrasesConfig = PhrasesConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    train: SkipGram = SkipGram()
    evaluate: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _metric_has_its_file(self) -> Config:
        metric = self.train.until.metric if self.train.until else "loss"
        given = {"loss": True, "analogy": self.evaluate.analogies, "similarity": self.evaluate.similarity}
        if not given[metric]:
            name = "evaluate.analogies" if metric == "analogy" else "evaluate.similarity"
            raise ValueError(f"train.until.metric is {metric}, which needs {name}")
        return self


def check(config: Config) -> None:
    """Read the evaluation files and the gates' names, so that what is wrong with them shows before anything starts."""
    known = {f"similarity/{evaluation.metric_name(PurePath(file).stem)}" for file in config.evaluate.similarity}
    for file in config.evaluate.similarity:
        benchmark_files.pairs(file)
    if config.evaluate.analogies:
        sections = {section for section, _ in benchmark_files.questions(config.evaluate.analogies)}
        known |= {f"analogy/{evaluation.metric_name(section)}" for section in sections | {"total"}}
        known |= {"analogy/semantic", "analogy/syntactic"}
    check_gates(config.evaluate.gates, known, "none, give files")


def read(spark: SparkSession, config: Config) -> DataFrame:
    """Return the DOCUMENTS that the configuration names."""
    return text.read(spark, config.input)


def version(spark: SparkSession, config: Config) -> str:
    """Return a digest of the input's files or its table's version."""
    return input_version.version(spark, config.input)


def vector_size(spark: SparkSession, config: Config) -> int:
    """Return the length of the vectors."""
    return config.train.vector_size


def estimate(spark: SparkSession, config: Config) -> dict[str, float]:
    """Return about what a run costs; raises ResourceError where the cluster lacks what it needs."""
    stored = input_version.size(spark, config.input)
    packed = config.input.path.endswith((".gz", ".bz2")) or config.input.format in ("parquet", "delta")
    # English has six bytes a word; packed text is a third of its size. Kinds of words grow as the root of the text
    # (Heaps' law, here with the constant of Wikipedia at min_count 5).
    tokens = stored * (3 if packed else 1) // 6
    kinds = int(17 * tokens**0.5)
    corpus = plan.Corpus(max(1, kinds), max(1, tokens), 0.7 * tokens, blocks.number(tokens))
    preflight.check(spark, corpus, config.train)
    return {"input_bytes": stored, "tokens": tokens, "vocabulary": kinds} | preflight.estimate(
        spark, corpus, config.train
    )


def embed(run: Run, documents: DataFrame, config: Config) -> DataFrame:
    """Return one vector per word, as VECTORS.

    Method: skip-gram with negative sampling (Mikolov et al. 2013), trained by block rotation where there are several
    workers. Every stage is kept in the run's folder, so that a run killed anywhere goes on from its last stage or
    checkpoint.

    Raises:
        BadData: too many documents were refused, or no word occurs ``vocabulary.min_count`` times.
        ResourceError: the cluster lacks slots, memory or disk for ``train.workers``.
        TrainingDiverged: a shard of the model is not finite or exploded.
    """
    documents = conform(documents, DOCUMENTS)
    found = run.stage("pages", lambda: encoded_pages.from_documents(documents, config.tokens))
    run.reject(encoded_pages.rejects(found))
    run.check_reject_share(*encoded_pages.reject_counts(found))
    found = phrases.phrases(run, found, config.phrases)
    words = vocabulary.count(run, found, config.vocabulary)
    folder = run.stage_path("vocabulary")
    sequences = run.stage("blocks", lambda: blocks.of_pages(found, folder, blocks.number(vocabulary.total(words))))
    vectors = trainer.train(run, sequences, words, folder, config.train, lambda v: _figure(v, config))
    return vectors_of(vectors, "words", run.id, run.model_uri)


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return accuracy of analogies and correlation with human scores of similarity; record a map of the words."""
    figures: dict[str, float] = {}
    if config.evaluate.analogies:
        figures |= evaluation.analogies(vectors, config.evaluate.analogies, config.evaluate.restrict_vocab).metrics()
    for file in config.evaluate.similarity:
        figures |= evaluation.similarity(vectors, file).metrics()
    if config.evaluate.map_words and vectors.limit(2).count() == 2:
        run.artifact("map.png", scatter_map.draw(vectors, config.evaluate.map_words, seed=config.train.seed))
    return figures


def _figure(vectors: DataFrame, config: Config) -> float:
    """Return the figure that decides whether training goes on."""
    assert config.train.until is not None
    if config.train.until.metric == "analogy":
        assert config.evaluate.analogies is not None
        return evaluation.analogies(vectors, config.evaluate.analogies, config.evaluate.restrict_vocab).total
    return min(evaluation.similarity(vectors, file).spearman for file in config.evaluate.similarity)
