"""Words: documents -> tokens -> vocabulary -> sequence blocks -> skip-gram vectors."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from pyspark.sql import functions as F

from embedall_spark import cluster_slots
from embedall_spark.config import MOVABLE, InputPath, Output, Section
from embedall_spark.corpus import blocking, blocks, corpus_estimate, encoded_pages, increments, phrases, vocabulary
from embedall_spark.corpus.phrases import PhrasesConfig
from embedall_spark.corpus.tokenizer import TokensConfig
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.evaluate import benchmark_files, word_benchmarks
from embedall_spark.kinds._evaluation import Evaluation, MapSize, draw_map
from embedall_spark.schemas import DOCUMENTS, conform, ngrams_table, vectors_of
from embedall_spark.sources import input_version, text
from embedall_spark.sources.text import TextConfig
from embedall_spark.sources.text_documents import TextDocuments
from embedall_spark.train import plan, preflight, trainer
from embedall_spark.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.run_context import Run

# Measured, see docs/log.md: a run's jobs on an input of any size, and bytes of text per second and task slot.
_FIXED_SECONDS, _INGESTED_BYTES = 45, 9_000_000


class WordsEvaluation(Evaluation):
    """What to measure before the table is replaced."""

    analogies: InputPath | None = Field(
        None, description="file of analogies in the format of questions-words", json_schema_extra=MOVABLE
    )
    similarity: list[InputPath] = Field(
        [], description="files of word pairs with a human score (WordSim, SimLex)", json_schema_extra=MOVABLE
    )
    restrict_vocab: int = Field(
        300_000,
        ge=1,
        description="analogies are answered from so many of the most frequent words",
        json_schema_extra=MOVABLE,
    )
    map_words: MapSize = Field(400, description="words on the map picture; 0: no picture", json_schema_extra=MOVABLE)


class Config(Section):
    """Configuration of ``embedall words``."""

    input: TextConfig
    output: Output
    tokens: TokensConfig = TokensConfig()
    phrases: PhrasesConfig = PhrasesConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    train: TrainConfig = TrainConfig()
    evaluate: WordsEvaluation = WordsEvaluation()

    @model_validator(mode="after")
    def _metric_has_its_file(self) -> Config:
        metric = self.train.until.metric if self.train.until else "loss"
        files = {"loss": True, "analogy": self.evaluate.analogies, "similarity": self.evaluate.similarity}
        if not files[metric]:
            name = "evaluate.analogies" if metric == "analogy" else "evaluate.similarity"
            raise ValueError(f"train.until.metric is {metric}, which needs {name}")
        return self


def check(config: Config) -> None:
    """Refuse evaluation files that cannot be read, and gates on unknown figures, before Spark starts."""
    figures = {f"similarity/{word_benchmarks.metric_name(PurePath(file).stem)}" for file in config.evaluate.similarity}
    for file in config.evaluate.similarity:
        benchmark_files.pairs(file)
    if config.evaluate.analogies:
        sections = {section for section, _ in benchmark_files.questions(config.evaluate.analogies)}
        figures |= {f"analogy/{word_benchmarks.metric_name(section)}" for section in sections | {"total"}}
        figures |= {"analogy/semantic", "analogy/syntactic"}
    config.evaluate.check_gates(figures, "none, give evaluate.analogies or evaluate.similarity")


def read(spark: SparkSession, config: Config) -> DataFrame | TextDocuments:
    """Return the DOCUMENTS that the configuration names."""
    return text.open_documents(spark, config.input)


def version(spark: SparkSession, config: Config) -> str:
    """Return a digest of the input's files or its table's version."""
    return text.version(spark, config.input)


def vector_size(spark: SparkSession, config: Config) -> int:
    """Return the length of the vectors."""
    return config.train.vector_size


def estimate(spark: SparkSession, config: Config) -> dict[str, float]:
    """Return estimated costs of a run; reads a sample. Raises ResourceError where the cluster lacks what it needs."""
    stored = input_version.size(spark, config.input)
    compressed = config.input.path.endswith((".gz", ".bz2")) or config.input.format in ("parquet", "delta")
    # Text compresses to a third.
    sample = corpus_estimate.sample(read(spark, config), config.tokens, stored * (3 if compressed else 1))
    tokens = sample.total_tokens()
    distinct = sample.vocabulary(tokens, config.vocabulary.min_count)
    limits = [config.vocabulary.max_vocabulary, config.vocabulary.max_final_vocab]
    distinct = min([distinct, *(limit for limit in limits if limit is not None)])
    kept = sample.kept(config.train.sample) * tokens
    corpus = plan.Corpus(max(1, distinct), max(1, tokens), kept, blocks.block_count(tokens))
    costs = preflight.estimate(spark, corpus, config.train)
    costs["seconds"] += round(_FIXED_SECONDS + sample.all_bytes / (_INGESTED_BYTES * cluster_slots.total(spark)))
    return {"input_bytes": stored, "tokens": tokens, "vocabulary": distinct} | costs


def embed(run: Run, documents: DataFrame | TextDocuments, config: Config) -> DataFrame:
    """Return one vector per word, as VECTORS.

    Method: skip-gram with negative sampling (Mikolov et al. 2013), trained by block rotation where there are several
    workers. Every stage is stored in the run's folder, so that a killed run resumes from its last stage or checkpoint.

    The vectors of n-grams, if words have them, are a table of their own.

    Raises:
        BadData: too many documents were refused, or no word occurs ``vocabulary.min_count`` times.
        ResourceError: the cluster lacks slots, memory or disk for ``train.workers``.
        TrainingDiverged: a shard of the model is not finite or exploded.
    """
    preflight.check_workers(run.spark, config.train)
    pages, counts = _tokenize(run, documents, config)
    if config.phrases.passes:
        pages, counts = phrases.join_phrases(run, pages, config.phrases), None
    counted = vocabulary.count(pages) if counts is None else counts
    words = vocabulary.assign_ids(run, "vocabulary", counted, config.vocabulary, what="words")
    sequences = blocking.build(run, pages, words)
    vectors = _train(run, sequences, words, config.train, lambda vectors: _score(vectors, config))
    if config.train.max_n:
        trainer.write_ngrams(run, run.stage_path("vocabulary"), config.train, ngrams_table(config.output.table))
    return vectors


def embed_sequences(run: Run, sequences: DataFrame, words: VocabularyConfig, train: TrainConfig) -> DataFrame:
    """Return one vector per word of SEQUENCES, text that is tokenized already, as VECTORS. Raises what embed() does.

    One worker trains in the order of the text, as word2vec, gensim and MLlib do.
    """
    preflight.check_workers(run.spark, train)
    pages = run.stage("pages", lambda: encoded_pages.from_sequences(sequences))
    known = vocabulary.build(run, pages, words, what="words")
    ordered = train.workers == 1 and train.method == "sgns"
    stored = blocking.build_in_order(run, pages) if ordered else blocking.build(run, pages, known)
    return _train(run, stored, known, train)


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return accuracy of analogies and correlation with human scores of similarity; record a map of the words."""
    section = config.evaluate
    figures: dict[str, float] = {}
    if section.analogies:
        figures |= word_benchmarks.analogies(vectors, section.analogies, section.restrict_vocab).metrics()
    for file in section.similarity:
        figures |= word_benchmarks.similarity(vectors, file).metrics()
    draw_map(run, vectors, section.map_words, config.train.seed)
    return figures


def _tokenize(run: Run, documents: DataFrame | TextDocuments, config: Config) -> tuple[DataFrame, DataFrame | None]:
    """Return the documents' tokens, PAGES, and their counts if they are known; what cannot be tokenized is rejected."""
    counts: DataFrame | None = None
    if config.input.incremental:
        pages, counts = increments.keep(run, config.input, _kept(run, config))
    else:
        if not isinstance(documents, TextDocuments):
            documents = conform(documents, DOCUMENTS)
        pages = run.stage("pages", lambda: encoded_pages.from_documents(documents, config.tokens))
    run.reject(encoded_pages.rejects(pages))
    run.check_reject_share(*encoded_pages.reject_counts(pages))
    if config.input.deleted is not None:
        run.stage("deleted", lambda: text.deleted_ids(run.spark, config.input))
        every, counts = pages, None
        pages = run.stage("pages-left", lambda: encoded_pages.without(every, run.stage_path("deleted")))
    return pages, counts


def _kept(run: Run, config: Config) -> increments.Stage:
    """Return what is kept of the documents for the next run: their tokens, and the counts of these."""

    def subtract(pages: DataFrame, documents: DataFrame) -> DataFrame:
        run.stage("changed", lambda: documents.select("id").distinct())
        return encoded_pages.without(pages, run.stage_path("changed"))

    def size(pages: DataFrame) -> int:
        row = pages.agg(F.sum("seen")).first()
        return int(row[0] or 0) if row else 0

    return increments.Stage(
        key=config.tokens.model_dump(mode="json"),
        read=lambda source: text.open_documents(run.spark, source),
        make=lambda documents: encoded_pages.from_documents_by_origin(documents, config.tokens),
        subtract=subtract,
        total=vocabulary.count,
        id_column=config.input.id_column,
        size=size,
    )


def _train(
    run: Run,
    sequences: DataFrame,
    words: DataFrame,
    train: TrainConfig,
    evaluate: Callable[[DataFrame], float] | None = None,
) -> DataFrame:
    """Return VECTORS trained on BLOCKS."""
    trained = trainer.train(run, sequences, words, run.stage_path("vocabulary"), train, evaluate)
    return vectors_of(trained, "words", run.id, run.model_uri)


def _score(vectors: DataFrame, config: Config) -> float:
    """Return the figure by which training is stopped early."""
    assert config.train.until is not None
    section = config.evaluate
    if config.train.until.metric == "analogy":
        assert section.analogies is not None
        return word_benchmarks.analogies(vectors, section.analogies, section.restrict_vocab).total
    return min(word_benchmarks.similarity(vectors, file).spearman for file in section.similarity)
