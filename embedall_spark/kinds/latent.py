"""Latent: two kinds of vectors and their pairs -> P and Q -> both kinds in one space."""

from __future__ import annotations

import logging
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import extras, files
from embedall_spark.config import MOVABLE, Output, OutputPath, Section
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import retrieval
from embedall_spark.kinds._evaluation import Evaluation, MapSize
from embedall_spark.latent import input_tables as inputs
from embedall_spark.latent import item_table, latent_model, pairs, plot_data, projection, split
from embedall_spark.latent.config import LatentInput
from embedall_spark.latent.fit import cca, model_selection
from embedall_spark.latent.fit.model_selection import FitConfig
from embedall_spark.latent.latent_model import UNIT, WORDS, LatentModel
from embedall_spark.latent.preprocessing import PLAIN
from embedall_spark.latent.split import SplitConfig
from embedall_spark.latent.text import text_side, tower
from embedall_spark.schemas import ITEMS, PAIRS, REJECTS, VECTORS, conform
from embedall_spark.sources import input_version, tabular
from embedall_spark.sources.image_config import ImagesConfig
from embedall_spark.vectors import qualify
from embedall_spark.visualize import latent_plots

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)

_FIGURES = [f"{name}_{cut}" for name in ("recall", "chance_recall") for cut in (1, 5, 10)]
_TOWERS = [f"towers/{way}" for way in retrieval.WAYS]
_FIGURES += ["mrr", "chance_mrr", "median_rank", "candidates"]


class LatentOutput(Output):
    """Where the latent vectors go."""

    metadata: OutputPath | None = Field(
        None, description="table of titles, tags and labels by the new ids; unset: the table's name with _metadata"
    )
    registered_model: str | None = Field(
        None, json_schema_extra=MOVABLE,
        description="MLflow registered model that each run adds a version to; unset: logged, not registered",
    )  # fmt: skip
    max_reject_share: float = Field(
        0.5, ge=0, le=1, json_schema_extra=MOVABLE,
        description="stop if a larger share of vectors and pairs cannot be used, such as items without known words",
    )  # fmt: skip


class LatentEvaluation(Evaluation):
    """What to measure before the table is changed."""

    csls: int = Field(
        0, ge=0, le=1000, json_schema_extra=MOVABLE,
        description="rank by CSLS over this many neighbors, which corrects for hubs; 0: by cosine",
    )  # fmt: skip
    map_ids: MapSize = Field(300, description="ids of both kinds on the map; 0: no map", json_schema_extra=MOVABLE)
    heat_pairs: int = Field(
        24, ge=0, le=latent_plots.MAX_PAIRS, json_schema_extra=MOVABLE,
        description="test pairs in the heat map of cosines; 0: no heat map",
    )  # fmt: skip
    examples: int = Field(
        8, ge=0, le=latent_plots.MAX_EXAMPLES, json_schema_extra=MOVABLE,
        description="searches and suggestions to draw if the left side is pictures; 0: none",
    )  # fmt: skip
    pictures: ImagesConfig | None = Field(
        None, json_schema_extra=MOVABLE,
        description="where the left side's pictures are; unset: the input of the run that wrote its table. Keys:",
    )  # fmt: skip
    seed: int = Field(1, description="of samples and the map", json_schema_extra=MOVABLE)


class Config(Section):
    """Configuration of ``embedall latent``."""

    input: LatentInput
    output: LatentOutput
    split: SplitConfig = SplitConfig()
    fit: FitConfig = FitConfig()
    evaluate: LatentEvaluation = LatentEvaluation()


def check(config: Config) -> None:
    """Raise ConfigError for options that contradict each other, before Spark starts."""
    source = config.input
    if (source.right is None) != (source.pairs is None):
        raise ConfigError("input.right and input.pairs go together: a table of vectors, and which belong to which")
    if source.right is not None and (source.items or source.words):
        raise ConfigError("input.right is a table of vectors in place of text: leave input.items and input.words out")
    if source.right is None and source.right_kind is not None:
        raise ConfigError("input.right_kind names the kind of input.right; of text the kinds are words and titles")
    if config.output.mode == "append" and len(config.fit.k) > 1:
        raise ConfigError("output.mode append: the table's vectors have one length already; give one fit.k")
    if source.dense_words and (source.words or source.right):
        raise ConfigError(
            "input.dense_words goes with vectors of words that are learnt: not beside input.words or right"
        )
    if config.fit.refine is not None:
        extras.check(extras.TORCH, "fit.refine: the contrastive refinement")
    tower.check(source, config.fit.as_is)
    if source.right is None:
        item_table.check(source)
    config.evaluate.check_gates([f"{way}/{name}" for way in (*retrieval.WAYS, *_TOWERS) for name in _FIGURES])


def read(spark: SparkSession, config: Config) -> DataFrame:
    """Return the left side, VECTORS."""
    return inputs.read(spark, config.input.path, VECTORS)


def version(spark: SparkSession, config: Config) -> str:
    """Return the versions of all input tables."""
    source = config.input
    paths = [(source.path, VECTORS), (source.right, VECTORS), (source.pairs, PAIRS), (source.words, VECTORS)]
    versions = []
    for path, schema in paths:
        if path is not None:
            inputs.read(spark, path, schema)
            versions.append(input_version.DeltaTable(path).version(spark))
    if source.right is None:
        versions.insert(1, item_table.version(spark, source))
    return "+".join(versions)


def vector_size(spark: SparkSession, config: Config) -> int | None:
    """Return the dimension of the latent vectors; None if it is chosen on validation items."""
    return config.fit.k[0] if len(config.fit.k) == 1 and not config.fit.as_is else None


def estimate(spark: SparkSession, config: Config) -> dict[str, float]:
    """Return rows per side, dimension and bytes of the result, estimated."""
    rows = read(spark, config).count()
    others = (
        inputs.read(spark, config.input.right, VECTORS) if config.input.right else item_table.read(spark, config.input)
    )
    both = rows + others.count()
    longest = max(config.fit.k)
    return {"left": rows, "right": both - rows, "vector_size": longest, "table_bytes": 4 * longest * both}


def embed(run: Run, rows: DataFrame, config: Config) -> DataFrame:
    """Return both sides in the latent space, as VECTORS with ids KIND:ID.

    Method: regularized canonical correlation analysis (Vinod 1976) with hyperparameters chosen on validation items and,
    if configured, a contrastive refinement. If the right side is text, it has a row for each item's own words
    (``titles:ID``) and one for each known word (``words:WORD``). Everything is fitted to training items only.

    Args:
        run: receives stages, figures, rejects and the model.
        rows: VECTORS of the left side.
        config: the configuration.

    Raises:
        BadData: too many rows were refused, or none is left to fit to.
        ConfigError: the sides' kinds are the same, or k is more than they have in common.
    """
    if config.fit.refine is not None:
        extras.check_hosts(run.spark, extras.TORCH, "fit.refine")
    kinds, left = inputs.kinds(run.spark, rows, config.input), rows.where(inputs.is_finite())
    items = item_table.load(run, config.input) if config.input.right is None else None
    inputs.check_ids(left, _left_ids(run.spark, items, config), config.input)
    parts = run.stage("split", lambda: split.split(left, config.split))
    if not config.fit.as_is:
        inputs.check_size(parts, min(config.fit.k))
    right = _vectors_side(run.spark, config) if items is None else _text_side(run, items, parts, left, config)
    refused = item_table.refuse(run, config.input) if items is not None else 0
    seen = rows.count() + right.pairs.count() + refused
    if refused:
        run.check_reject_share(refused, seen)
    pairs = _pairs(run, rows, left, right, parts, seen)
    fitted = _fit(run, left, right, pairs, kinds, config)
    run.artifact(latent_model.FILE, latent_model.to_bytes(fitted))
    run.log_model(latent_model.servable(fitted, config.output.registered_model))
    if right.items is not None:
        _keep_metadata(run, right.items, kinds, config)
    tables = [(left, fitted.left, kinds[0]), (right.vectors, fitted.right, kinds[1])]
    if right.alone is not None:
        tables.append((right.alone, fitted.right, WORDS))
    latent = run.stage("latent", lambda: reduce(DataFrame.unionByName, [_project(*table) for table in tables]))
    run.reject(tabular.rejects(latent))
    run.check_reject_share(tabular.reject_counts(latent)[0], seen)
    lineage = {"run_id": F.lit(run.id), "model_uri": F.lit(run.model_uri).cast("string")}
    return conform(latent.where("vector IS NOT NULL").withColumns(lineage), VECTORS)


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return retrieval figures of test pairs in both directions, with chance beside them; record plots."""
    options, kinds = config.evaluate, inputs.kinds(run.spark, read(run.spark, config), config.input)
    test_pairs = run.read_stage("pairs").where("part = 'test'")
    names = [qualify(kind, name) for kind, name in zip(kinds, ("left", "right"), strict=True)]
    left, right = (vectors.where(F.col("kind") == kind) for kind in kinds)
    measured_pairs = test_pairs.select(*names, "weight")
    figures = retrieval.evaluate(left, right, measured_pairs, csls=options.csls, seed=options.seed)
    figures |= _towers_as_they_are(run, measured_pairs, kinds, config)
    items = item_table.load(run, config.input) if config.input.right is None else None
    load_pictures = plot_data.pictures(run, kinds[0], config.input.path, options.pictures)
    space = plot_data.space(run, vectors, test_pairs.select(*names), kinds, items, load_pictures)
    sizes = latent_plots.Sizes(options.map_ids, options.heat_pairs, options.examples, options.seed)
    for name, content in latent_plots.draw(space, sizes):
        run.artifact(name, content)
    return figures


def _fit(
    run: Run, left: DataFrame, right: text_side.RightSide, pairs: DataFrame, kinds: tuple[str, str], config: Config
) -> LatentModel:
    """Return the model: fitted to the pairs, or the towers as they are."""
    if config.fit.as_is and right.tower is not None:
        sides = tower.as_they_are(left, right.vectors, right.tower, config.input.path)
        return LatentModel(*sides, *kinds, None, right.tower)
    left_side, right_side, maps, moments = model_selection.fit(
        run, left, right.fitted, pairs, config.fit, UNIT if right.text is None else PLAIN
    )
    text = right.text
    if text is not None:
        decoder = cca.decoder(moments, maps)[:, : len(text.bags.tokens)]
        text = text._replace(decoder=decoder.astype(np.float32))
    return LatentModel(left_side, right_side, *kinds, text, right.tower)


def _left_ids(spark: SparkSession, items: DataFrame | None, config: Config) -> DataFrame:
    """Return the ids that the left side should have, as ``id``."""
    if items is not None:
        return items.select("id")
    assert config.input.pairs is not None
    return inputs.read(spark, config.input.pairs, PAIRS).select(F.col("left").alias("id"))


def _text_side(run: Run, items: DataFrame, parts: DataFrame, left: DataFrame, config: Config) -> text_side.RightSide:
    """Return the right side made of titles and tags."""
    source = config.input
    if source.text_tower is not None:
        return tower.build_tower_side(run, items, left, source)
    vectors = None if source.words is None else inputs.read(run.spark, source.words, VECTORS).where(inputs.is_finite())
    table = files.words_of(config.output.table)
    return text_side.build_text_side(run, items, parts, left, source, vectors, config.fit.left_preparation, table)


def _towers_as_they_are(run: Run, pairs: DataFrame, kinds: tuple[str, str], config: Config) -> dict[str, float]:
    """Return the figures of a pair of towers without the fit, to stand beside those with it; none for other sides."""
    if config.input.text_tower is None or config.fit.as_is:
        return {}
    fitted = latent_model.load(run.folder).tower
    if fitted is None or not fitted.is_pair:
        return {}
    raw = (read(run.spark, config), run.read_stage("right"))
    left, right = (side.select(qualify(kind), "vector") for side, kind in zip(raw, kinds, strict=True))
    figures = retrieval.evaluate(left, right, pairs, csls=config.evaluate.csls, seed=config.evaluate.seed)
    return {f"towers/{name}": value for name, value in figures.items()}


def _vectors_side(spark: SparkSession, config: Config) -> text_side.RightSide:
    """Return the right side made of a table of vectors."""
    assert config.input.right is not None and config.input.pairs is not None
    vectors = inputs.read(spark, config.input.right, VECTORS).where(inputs.is_finite())
    return text_side.RightSide(vectors, vectors, inputs.read(spark, config.input.pairs, PAIRS))


def _pairs(
    run: Run, rows: DataFrame, left: DataFrame, right: text_side.RightSide, parts: DataFrame, seen: int
) -> DataFrame:
    """Return the usable pairs, each with the part (train, ...) of its left item; the others become rejects."""
    good, bad = pairs.check(right.pairs, left, right.vectors)
    part = parts.select(F.col("id").alias("left"), "part")
    usable = run.stage("pairs", lambda: good.join(part, "left"))
    reason = F.lit(projection.NOT_FINITE).alias("reason")
    not_finite = conform(rows.where(~inputs.is_finite()).select(F.col("id").alias("origin"), reason), REJECTS)
    refused = run.stage("rejects", lambda: bad.unionByName(not_finite))
    run.reject(refused)
    run.check_reject_share(refused.count(), seen)
    if usable.isEmpty():
        raise BadData("no pair can be used: do the ids of the pairs, or of the items, belong to these tables?")
    return usable


def _keep_metadata(run: Run, items: DataFrame, kinds: tuple[str, str], config: Config) -> None:
    """Write titles, tags and labels of the items under their ids in the latent space."""
    sides = [items.withColumn("id", qualify(kind)) for kind in kinds]
    name = config.output.metadata or files.metadata_of(config.output.table)
    run.write_table(
        name, conform(sides[0].unionByName(sides[1]), ITEMS), ITEMS, "Titles, tags and labels by latent ids"
    )


def _project(vectors: DataFrame, side: projection.Side, kind: str) -> DataFrame:
    """Return a side's rows in the latent space under their new ids: id, vector, norm, kind, origin, problem."""
    mapped = projection.project(vectors.select("id", "vector", "norm"), side)
    return mapped.select(qualify(kind), "vector", "norm", F.lit(kind).alias("kind"), "origin", "problem")
