"""Sequences of anything: events -> stories -> vocabulary -> sequence blocks -> skip-gram vectors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import Field, field_validator, model_validator

from embedall_spark.config import MOVABLE, Output, Section, check_gates
from embedall_spark.corpus import blocks, encoded_pages, last_item_holdout, sessionize, vocabulary
from embedall_spark.corpus.stories_config import StoriesConfig
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import label_metrics, next_item
from embedall_spark.evaluate.label_metrics import Metadata
from embedall_spark.schemas import EVENTS, conform, vectors_of
from embedall_spark.sources import events, input_version, tabular
from embedall_spark.sources.events import EventsConfig
from embedall_spark.train import checkpoint, plan, preflight, trainer
from embedall_spark.train.config import SkipGram
from embedall_spark.visualize import scatter_map

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)

# Several workers share wide windows out in pieces that no longer fit into their buffers.
_WIDEST, _WIDEST_SHARED = 512, 128
# Bytes that an event takes where it is stored.
_LINE, _PACKED = 32, 8


class Evaluation(Section):
    """What to measure before the table is replaced."""

    holdout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of stories whose last item is kept from training, to be predicted from those before it; "
        "of a session over stories.max_length a story is a stretch, whose last item is asked; 0: no prediction is "
        "measured",
    )
    max_stories: int = Field(
        10_000, ge=1, le=next_item.MAX_STORIES, description="keep the last item of so many stories at most"
    )
    metadata: Metadata | None = Field(
        None,
        description="labels of items, for purity of neighbours and colours on the map, and titles to show; unset: "
        "none. Keys:",
        json_schema_extra=MOVABLE,
    )
    map_items: int = Field(
        400,
        ge=0,
        le=scatter_map.MAX_IDS,
        description="items on the map picture; 0: no picture",
        json_schema_extra=MOVABLE,
    )
    gates: dict[str, float] = Field(
        {}, description="least value of a figure, by its name; below, the table stays", json_schema_extra=MOVABLE
    )

    @field_validator("map_items")
    @classmethod
    def _two_items(cls, value: int) -> int:
        if value == 1:
            raise ValueError("a map needs two items; 0 for no map")
        return value


class Config(Section):
    """Configuration of ``embedall sequences``."""

    input: EventsConfig
    output: Output
    stories: StoriesConfig = StoriesConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    train: SkipGram = SkipGram()
    evaluate: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _pauses_have_an_order(self) -> Config:
        if self.stories.session_gap is not None and not self.input.ordered:
            raise ValueError("stories.session_gap needs input.order: without it there are no pauses")
        return self

    @property
    def training(self) -> SkipGram:
        """The options of training: without an order, those of window and shrinking that are not given fit baskets."""
        if self.input.ordered:
            return self.train
        widest = _WIDEST if self.train.workers == 1 else _WIDEST_SHARED
        whole = {"window": min(widest, self.stories.max_length), "shrink_windows": False}
        unset = whole.keys() - self.train.model_fields_set
        return self.train.model_copy(update={name: whole[name] for name in unset})


def check(config: Config) -> None:
    """Refuse what can be seen to be wrong before Spark starts."""
    known = set(next_item.figures()) if config.evaluate.holdout else set()
    if config.evaluate.metadata is not None:
        label_metrics.check(config.evaluate.metadata)
        known |= {"purity/neighbours"} if config.evaluate.metadata.label else set()
    check_gates(config.evaluate.gates, known)
    if config.train.until is not None and config.train.until.metric != "loss":
        raise ConfigError(f"train.until.metric: {config.train.until.metric} is for words; sequences have loss")


def read(spark: SparkSession, config: Config) -> DataFrame:
    """Return the EVENTS that the configuration names, once the metadata have turned out to have their columns."""
    label_metrics.check_columns(spark, config.evaluate.metadata)
    return events.read(spark, config.input)


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
    tokens = stored // (_PACKED if packed else _LINE)
    kinds = int(17 * tokens**0.5)
    corpus = plan.Corpus(max(1, kinds), max(1, tokens), 0.7 * tokens, blocks.number(tokens))
    preflight.check(spark, corpus, config.training)
    return {"input_bytes": stored, "tokens": tokens, "vocabulary": kinds} | preflight.estimate(
        spark, corpus, config.training
    )


def embed(run: Run, given: DataFrame, config: Config) -> DataFrame:
    """Return one vector per item, as VECTORS.

    Method: item2vec (Barkan and Koenigstein 2016): skip-gram with negative sampling over each key's items in their
    order. Without ``input.order`` an item's window is its whole basket, up to 512 items to each side (128 where
    there are several workers), unless ``train.window`` and ``train.shrink_windows`` are given.

    Raises:
        BadData: too many events were refused, no story is long enough, or no item occurs ``vocabulary.min_count``
            times.
        ResourceError: the cluster lacks slots, memory or disk for ``train.workers``.
        TrainingDiverged: a shard of the model is not finite or exploded.
    """
    train = config.training
    if not config.input.ordered:
        log.info(
            "no input.order: windows are baskets, train.window=%d, train.shrink_windows=%s",
            train.window, str(train.shrink_windows).lower(),
        )  # fmt: skip
    # Kept, because the source is read once: it may change, and Python files are slow to parse.
    found = run.stage("events", lambda: conform(given, EVENTS))
    run.reject(tabular.rejects(found))
    run.check_reject_share(*tabular.reject_counts(found))
    if config.input.order is not None:
        events.warn_of_mixed_units(found)
    whole = run.stage(
        "pages", lambda: encoded_pages.from_sequences(sessionize.assemble(found, config.stories, train.seed))
    )
    if whole.isEmpty():
        least = config.stories.min_length
        raise BadData(
            f"no story has {least} events (stories.min_length={least}); set input.key to what several events have in "
            "common, or lower stories.min_length"
        )
    kept = _hold_out(run, whole, config)
    items = vocabulary.count(run, kept, config.vocabulary)
    folder = run.stage_path("vocabulary")
    sequences = run.stage("blocks", lambda: blocks.of_pages(kept, folder, blocks.number(vocabulary.total(items))))
    vectors = trainer.train(run, sequences, items, folder, train)
    return vectors_of(vectors, "sequences", run.id, run.model_uri)


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return how well last items are predicted, beside two baselines, and purity of labels; record a map."""
    figures: dict[str, float] = {}
    known = None
    if config.evaluate.holdout:
        figures |= _predict(run, config)
    if config.evaluate.metadata is not None:
        known = label_metrics.read(run.spark, config.evaluate.metadata, vectors)
        if config.evaluate.metadata.label is not None:
            figures |= label_metrics.purity(vectors, known, seed=config.train.seed)
    if config.evaluate.map_items and vectors.limit(2).count() == 2:
        run.artifact(
            "map.png", scatter_map.draw(vectors, config.evaluate.map_items, seed=config.train.seed, metadata=known)
        )
    return figures


def _hold_out(run: Run, whole: DataFrame, config: Config) -> DataFrame:
    """Return the pages to train on; the last items that they lack are the stage "holdout"."""
    asked, train = config.evaluate, config.training
    if not asked.holdout:
        return whole
    _, kept = last_item_holdout.split(run, whole, asked.holdout, asked.max_stories, next_item.reach(train), train.seed)
    return kept


def _predict(run: Run, config: Config) -> dict[str, float]:
    """Return the figures of the last checkpoint, which has context vectors whether or not they are asked for."""
    saved, folder = checkpoint.latest(run), run.stage_path("vocabulary")
    assert saved is not None
    vectors = checkpoint.vectors(run, {**saved, "context": True}, folder)
    held, sequences, items = (run.read_stage(name) for name in ("holdout", "blocks", "vocabulary"))
    return next_item.evaluate(held, vectors, sequences, items, folder, config.training)
