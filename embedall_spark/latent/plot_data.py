"""What of a run's latent space is drawn: its held-out pairs, words, titles and pictures."""

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
from embedall_spark.visualize.latent_plots import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from PIL.Image import Image
    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run

    Find = Callable[[list[str]], Mapping[str, Image]]

log = logging.getLogger(__name__)


def space(
    run: Run, vectors: DataFrame, held: DataFrame, kinds: tuple[str, str], items: DataFrame | None, find: Find | None
) -> Space:
    """Return what spaces.draw() draws.

    Args:
        run: the run that has fitted the space; of text, its stage ``words`` and its model are read.
        vectors: VECTORS of the latent space.
        held: PAIRS, by their latent ids, that were not learnt from.
        kinds: of the left and the right side.
        items: ITEMS by the left side's own ids, where the right side is text.
        find: as pictures() returns it.
    """
    had = F.expr("substring(id, length(kind) + 2)")
    known = vectors.select("id", F.col("kind").alias("label"), had.alias("title"))
    if items is None:
        asked = held.groupBy(F.col("right").alias("id")).count()
        return Space(vectors, held, asked, known, kinds, find, None)
    called = items.where("title IS NOT NULL").select(F.col("id").alias("had"), F.col("title").alias("called"))
    of_item = (F.col("had") == known["title"]) & F.col("label").isin(*kinds)
    known = known.join(called, of_item, "left").select("id", "label", F.coalesce("called", "title").alias("title"))
    own = held.select(F.expr(f"substring(left, {len(kinds[0]) + 2})").alias("id"))
    tokens = run.read_stage("words").join(own, "id")
    words = tokens.select(F.explode("tokens").alias("word")).groupBy("word").count()
    asked = words.select(F.concat(F.lit(f"{latent_model.WORDS}:"), "word").alias("id"), "count")
    return Space(vectors, held, asked, known, kinds, find, latent_model.load(run.folder).guess)


def pictures(run: Run, kind: str, table: str, given: ImagesConfig | None) -> Find | None:
    """Return what finds small pictures of the left side's latent ids; None where it is not known where they are.

    Args:
        run: the run.
        kind: of the left side.
        table: the left side's; where ``embedall images`` has made it, its pictures are where that had them from.
        given: where they are instead.

    Raises:
        BadData: there are none where they are said to be.
    """
    made = run.producer_of(table) if given is None else None
    if given is None and (made is None or made[0] != "images"):
        return None
    try:
        where = given or config.parse(ImagesConfig, made[1]["input"] if made else {})
        rows = images.read(run.spark, where)
    except EmbedallError as error:
        if given is not None:
            raise
        log.warning("no pictures are drawn; evaluate.pictures may tell where they are now: %s", error)
        return None
    return partial(
        thumbnails.thumbnails_by_id, rows.withColumn("id", F.concat(F.lit(f"{kind}:"), "id")), limits=where.limits
    )
