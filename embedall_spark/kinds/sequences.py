"""Sequences of anything: events -> stories -> vocabulary -> sequence blocks -> skip-gram vectors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from pyspark.sql import functions as F

from embedall_spark.config import MOVABLE, Output, Section
from embedall_spark.corpus import blocking, blocks, encoded_pages, increments, last_item_holdout, sessionize, vocabulary
from embedall_spark.corpus.stories_config import StoriesConfig
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.errors import BadData
from embedall_spark.evaluate import label_metrics, next_item
from embedall_spark.kinds._evaluation import LabelledEvaluation, MapSize, draw_map
from embedall_spark.schemas import EVENTS, conform, vectors_of
from embedall_spark.sources import events, input_version, tabular
from embedall_spark.sources import metadata as metadata_source
from embedall_spark.sources.events import EventsConfig
from embedall_spark.train import checkpoint, plan, preflight, trainer
from embedall_spark.train.config import TrainConfig

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)

# Several workers exchange windows through buffers, which wider ones would not fit into.
_MAX_WINDOW, _MAX_WINDOW_SHARED = 512, 128
# Share of the events that subsampling is assumed to leave, for an estimate.
_KEPT = 0.7


class SequencesEvaluation(LabelledEvaluation):
    """What to measure before the table is replaced."""

    holdout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of stories whose last item is held out from training, to be predicted from the items before "
        "it; of a session over stories.max_length a story is one window; 0: no prediction is measured",
    )
    max_stories: int = Field(
        10_000, ge=1, le=next_item.MAX_STORIES, description="hold out the last items of so many stories at most"
    )
    map_items: MapSize = Field(400, description="items on the map picture; 0: no picture", json_schema_extra=MOVABLE)


class Config(Section):
    """Configuration of ``embedall sequences``."""

    input: EventsConfig
    output: Output
    stories: StoriesConfig = StoriesConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    train: TrainConfig = TrainConfig()
    evaluate: SequencesEvaluation = SequencesEvaluation()

    @model_validator(mode="after")
    def _prediction_has_output_vectors(self) -> Config:
        if self.evaluate.holdout and not self.train.negative:
            raise ValueError(
                "evaluate.holdout needs negative sampling: last items are predicted by output vectors; set "
                "train.negative above 0, or evaluate.holdout=0"
            )
        return self

    @model_validator(mode="after")
    def _pauses_have_an_order(self) -> Config:
        if self.stories.session_gap is not None and not self.input.ordered:
            raise ValueError("stories.session_gap needs input.order: without it there are no pauses")
        return self

    @property
    def training(self) -> TrainConfig:
        """The options of training; without an order, an unset window spans the whole basket."""
        if self.input.ordered:
            return self.train
        widest = _MAX_WINDOW if self.train.workers == 1 or self.train.method == "glove" else _MAX_WINDOW_SHARED
        basket = {"window": min(widest, self.stories.max_length), "shrink_windows": False}
        unset = {name: basket[name] for name in basket.keys() - self.train.model_fields_set}
        counted = self.train.glove.cooccurrence
        if "distance_weighting" not in counted.model_fields_set:
            counted = counted.model_copy(update={"distance_weighting": False})
        return self.train.model_copy(
            update={**unset, "glove": self.train.glove.model_copy(update={"cooccurrence": counted})}
        )


def check(config: Config) -> None:
    """Refuse what can be seen to be wrong before Spark starts."""
    figures = set(next_item.figures()) if config.evaluate.holdout else set()
    config.evaluate.check_metadata()
    if config.evaluate.has_labels:
        figures |= {"purity/neighbours"}
    config.evaluate.check_gates(figures)
    config.train.check_for("sequences")


def read(spark: SparkSession, config: Config) -> DataFrame:
    """Return the EVENTS that the configuration names, after a check that the metadata have their columns."""
    metadata_source.check_columns(spark, config.evaluate.metadata)
    return events.read(spark, config.input)


def version(spark: SparkSession, config: Config) -> str:
    """Return a digest of the input's files or its table's version."""
    return input_version.version(spark, config.input)


def vector_size(spark: SparkSession, config: Config) -> int:
    """Return the length of the vectors."""
    return config.train.vector_size


def estimate(spark: SparkSession, config: Config) -> dict[str, float]:
    """Return estimated costs of a run; reads the input. Raises ResourceError where the cluster lacks what it needs."""
    usable = read(spark, config).where("problem IS NULL")
    row = usable.agg(F.count("*"), F.approx_count_distinct("item")).first()
    assert row is not None
    tokens, distinct = int(row[0]), int(row[1])
    corpus = plan.Corpus(max(1, distinct), max(1, tokens), _KEPT * tokens, blocks.block_count(tokens))
    sizes = {"input_bytes": input_version.size(spark, config.input), "tokens": tokens, "vocabulary": distinct}
    return sizes | preflight.estimate(spark, corpus, config.training)


def embed(run: Run, table: DataFrame, config: Config) -> DataFrame:
    """Return one vector per item, as VECTORS.

    Method: item2vec (Barkan and Koenigstein 2016): skip-gram with negative sampling over each key's items in their
    order. Without ``input.order`` an item's window is its whole basket, up to 512 items to each side (128 where
    there are several workers), unless ``train.window`` and ``train.shrink_windows`` are given.

    Args:
        run: where stages, figures and rejects go.
        table: EVENTS.
        config: the configuration.

    Raises:
        BadData: too many events were refused, no story is long enough, or no item occurs ``vocabulary.min_count``
            times.
        ResourceError: the cluster lacks slots, memory or disk for ``train.workers``.
        TrainingDiverged: a shard of the model is not finite or exploded.
    """
    train = config.training
    preflight.check_workers(run.spark, train)
    if not config.input.ordered:
        log.info(
            "no input.order: windows are baskets, train.window=%d, train.shrink_windows=%s",
            train.window, str(train.shrink_windows).lower(),
        )  # fmt: skip
    stories = _sessionize(run, table, config)
    pages = _without_last_items(run, stories, config)
    items = vocabulary.build(run, pages, config.vocabulary, what="items")
    sequences = blocking.build(run, pages, items)
    trained = trainer.train(run, sequences, items, run.stage_path("vocabulary"), train)
    return vectors_of(trained, "sequences", run.id, run.model_uri)


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return how well last items are predicted, beside two baselines, and purity of labels; record a map."""
    section, seed = config.evaluate, config.train.seed
    figures: dict[str, float] = {}
    metadata = None
    if section.holdout:
        figures |= _predict_last_items(run, config)
    if section.metadata is not None:
        metadata = metadata_source.read(run.spark, section.metadata, vectors)
        if section.has_labels:
            figures |= label_metrics.purity(vectors, metadata, seed=seed)
    draw_map(run, vectors, section.map_items, seed, metadata)
    return figures


def _sessionize(run: Run, table: DataFrame, config: Config) -> DataFrame:
    """Return the events' stories, the stage "pages"; events that cannot be used are rejected."""
    # Stored, because the source is read once: it may change, and Python files are slow to parse.
    if config.input.incremental:
        source = increments.Stage(key=None, read=lambda part: events.read(run.spark, part))
        stored = increments.keep(run, config.input, source).rows
    else:
        stored = run.stage("events", lambda: conform(table, EVENTS))
    run.reject(tabular.rejects(stored))
    run.check_reject_share(*tabular.reject_counts(stored))
    if config.input.order is not None:
        events.warn_of_mixed_units(stored)
    sequences = sessionize.sessionize(stored, config.stories, config.train.seed)
    stories = run.stage("pages", lambda: encoded_pages.from_sequences(sequences))
    if stories.isEmpty():
        least = config.stories.min_length
        raise BadData(
            f"no story has {least} events (stories.min_length={least}); set input.key to what several events have in "
            "common, or lower stories.min_length"
        )
    return stories


def _without_last_items(run: Run, stories: DataFrame, config: Config) -> DataFrame:
    """Return the pages to train on; the last items that they lack are the stage "holdout"."""
    section, train = config.evaluate, config.training
    if not section.holdout:
        return stories
    reach = next_item.reach(train)
    _, pages = last_item_holdout.split(run, stories, section.holdout, section.max_stories, reach, train.seed)
    return pages


def _predict_last_items(run: Run, config: Config) -> dict[str, float]:
    """Return figures of the last checkpoint, which has context vectors also where the table has none."""
    manifest, folder = checkpoint.latest(run), run.stage_path("vocabulary")
    assert manifest is not None
    vectors = checkpoint.vectors(run, {**manifest, "vector": "input", "context": True}, folder)
    holdout, sequences, items = (run.read_stage(name) for name in ("holdout", "blocks", "vocabulary"))
    return next_item.evaluate(holdout, vectors, sequences, items, folder, config.training)
