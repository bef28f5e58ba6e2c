"""Text side of a latent space by a pretrained text tower: a title becomes one vector, and no word is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import functions as F

from embedall_spark import devices
from embedall_spark.errors import ConfigError
from embedall_spark.images import backbones, featurize
from embedall_spark.latent.latent_model import Tower
from embedall_spark.latent.projection import Side
from embedall_spark.latent.text.item_tokens import ItemTextConfig
from embedall_spark.latent.text.text_features import COMPOSED, vector_batch
from embedall_spark.latent.text.text_side import RightSide
from embedall_spark.schemas import PAIRS, conform
from embedall_spark.vectors import dimension, in_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa
    from pyspark.sql import DataFrame

    from embedall_spark.images.backbones import BackboneConfig
    from embedall_spark.latent.config import LatentInput
    from embedall_spark.run_context import Run

    Batches = Iterable[pa.RecordBatch]

_BATCH_ROWS = 32  # texts that go through the tower at once


def check(source: LatentInput, as_is: bool) -> None:
    """Raise ConfigError for options that contradict a text tower, or that need one."""
    config = source.text_tower
    if config is None:
        if as_is:
            raise ConfigError("fit.as_is keeps the vectors of a pair of towers: set input.text_tower")
        return
    if not backbones.is_pair(config):
        raise ConfigError(f"input.text_tower.name: {config.name} has no text side; need open_clip:NAME or :FOLDER")
    if source.words or source.right or source.dense_words:
        raise ConfigError(
            "input.text_tower makes the vectors of texts: leave input.words, input.dense_words and input.right out"
        )


def build_tower_side(run: Run, items: DataFrame, left: DataFrame, source: LatentInput) -> RightSide:
    """Return the right side made of titles and tags by a text tower.

    Args:
        run: receives the vectors as its stage ``right``.
        items: ITEMS, each id once; those without text are left out.
        left: VECTORS; their digests tell whether they were made by the image tower of the same network.
        source: which tower, and which columns of the items are text.

    Raises:
        ConfigError: a task cannot load the tower.
    """
    config = source.text_tower
    assert config is not None
    fingerprint = featurize.describe(run.spark, config, text=True).fingerprint
    tower = Tower(config, _is_of(left, fingerprint))
    texts = items.select("id", text_of(source.text).alias("text")).where("text != ''")
    vectors = run.stage("right", lambda: texts.mapInArrow(_encoder(config), COMPOSED))
    pairs = conform(vectors.select(F.col("id").alias("left"), F.col("id").alias("right")), PAIRS)
    return RightSide(vectors, vectors, pairs, items=items, tower=tower)


def as_they_are(left: DataFrame, right: DataFrame, tower: Tower, path: str) -> tuple[Side, Side]:
    """Return projections that only scale both sides' vectors to length 1.

    Raises:
        ConfigError: the sides are not of one network.
    """
    d = dimension(right) or 0
    if tower.is_pair is False or dimension(left) != d:
        raise ConfigError(
            f"fit.as_is: the vectors of {path} were not made by the image tower of {tower.network.name}: embed the "
            "pictures with this backbone, or leave fit.as_is out, and both sides are mapped into one space"
        )
    side = Side(np.eye(d, dtype=np.float32), np.zeros(d))
    return side, side


def text_of(config: ItemTextConfig) -> Any:
    """Return the column of an item's text: its title, and its tags behind commas; empty if it has neither."""
    parts = [F.col(name) for name in config.use]
    return F.trim(F.concat_ws(", ", *parts))


def _is_of(left: DataFrame, fingerprint: str) -> bool | None:
    """Return whether a network made the vectors, by their digests; None if they have none."""
    row = left.agg(F.min(F.col("digest").contains(f"-{fingerprint}")).alias("same")).first()
    return None if row is None else row["same"]


def _encoder(config: BackboneConfig) -> Callable[[Batches], Batches]:
    """Build the task's function: id and text -> id, vector, norm."""

    def encode(batches: Batches) -> Batches:
        device = devices.task_device()
        tower = backbones.load_text(config, device)

        def convert(batch: pa.RecordBatch) -> pa.RecordBatch:
            return vector_batch(batch["id"], tower.encode(batch["text"].to_pylist()).astype(np.float64))

        yield from in_batches(convert, _BATCH_ROWS)(batches)

    return encode
