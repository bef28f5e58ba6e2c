"""Data for the plots of a latent space: its held-out pairs, words, titles and pictures."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from embedall_spark import config
from embedall_spark.errors import EmbedallError
from embedall_spark.images import thumbnails
from embedall_spark.latent import latent_model
from embedall_spark.sources import images
from embedall_spark.sources.image_config import ImagesConfig
from embedall_spark.vectors import qualify, unqualify
from embedall_spark.visualize.latent_plots import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from PIL.Image import Image
    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run

    Find = Callable[[list[str]], Mapping[str, Image]]

log = logging.getLogger(__name__)


def space(
    run: Run,
    vectors: DataFrame,
    test_pairs: DataFrame,
    kinds: tuple[str, str],
    items: DataFrame | None,
    find_pictures: Find | None,
) -> Space:
    """Return the input of latent_plots.draw().

    Args:
        run: the run that fitted the space; if the right side is text, its stage ``words`` and its model are read.
        vectors: VECTORS of the latent space.
        test_pairs: PAIRS by latent ids, not trained on.
        kinds: of the left and the right side.
        items: ITEMS by ids of the left side's own table, if the right side is text.
        find_pictures: as pictures() returns it.
    """
    model = None if items is None else latent_model.load(run.folder)
    metadata = vectors.select("id", F.col("kind").alias("label"), unqualify(F.col("kind")).alias("title"))
    if items is not None:
        titles = items.where("title IS NOT NULL").select(F.col("id").alias("item"), F.col("title").alias("item_title"))
        of_item = (F.col("item") == metadata["title"]) & F.col("label").isin(*kinds)
        title = F.coalesce("item_title", "title").alias("title")
        metadata = metadata.join(titles, of_item, "left").select("id", "label", title)
    if model is None or model.text is None:
        queries = test_pairs.groupBy(F.col("right").alias("id")).count()
        return Space(vectors, test_pairs, queries, metadata, kinds, find_pictures, None)
    test_items = test_pairs.select(unqualify(kinds[0], "left").alias("id"))
    tokens = run.read_stage("words").join(test_items, "id").select(F.explode("tokens").alias("word"))
    queries = tokens.groupBy("word").count().select(qualify(latent_model.WORDS, "word").alias("id"), "count")
    return Space(vectors, test_pairs, queries, metadata, kinds, find_pictures, model.suggest_words)


def pictures(run: Run, kind: str, table: str, images_config: ImagesConfig | None) -> Find | None:
    """Return a function from latent ids of the left side to small pictures; None if the pictures' place is not known.

    Args:
        run: the run.
        kind: of the left side.
        table: of the left side; if ``embedall images`` wrote it, that run's input is where the pictures are.
        images_config: where the pictures are instead.

    Raises:
        BadData: there are no pictures at ``images_config``.
    """
    producer = run.producer_of(table) if images_config is None else None
    if images_config is None and (producer is None or producer[0] != "images"):
        return None
    try:
        input_config = images_config or config.parse(ImagesConfig, producer[1]["input"] if producer else {})
        rows = images.read(run.spark, input_config)
    except EmbedallError as error:
        if images_config is not None:
            raise
        log.warning("no pictures are drawn; set evaluate.pictures to the folder where they are now: %s", error)
        return None
    return partial(thumbnails.thumbnails_by_id, rows.withColumn("id", qualify(kind)), limits=input_config.limits)
