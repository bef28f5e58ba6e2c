"""Latent: two kinds of vectors and their pairs -> P and Q -> both kinds in one space."""

from __future__ import annotations

import logging
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark import files
from embedall_spark.config import MOVABLE, Output, OutputPath, Section, check_gates
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.evaluate import retrieval
from embedall_spark.latent import latent_model, pairs, plot_data, projection, split
from embedall_spark.latent.config import LatentInput
from embedall_spark.latent.fit import cca, model_selection
from embedall_spark.latent.fit.model_selection import FitConfig
from embedall_spark.latent.latent_model import TITLES, UNIT, WORDS, LatentModel
from embedall_spark.latent.preprocessing import PLAIN
from embedall_spark.latent.split import SplitConfig
from embedall_spark.latent.text import text_side
from embedall_spark.schemas import ITEMS, PAIRS, REJECTS, VECTORS, conform
from embedall_spark.sources import input_version, reader_errors, tabular
from embedall_spark.sources.image_config import ImagesConfig
from embedall_spark.visualize import latent_plots, scatter_map

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession
    from pyspark.sql.types import StructType

    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)

_FIGURES = [f"{name}_{cut}" for name in ("recall", "chance_recall") for cut in (1, 5, 10)]
_FIGURES += ["mrr", "chance_mrr", "median_rank", "candidates"]


class LatentOutput(Output):
    """Where the latent vectors go."""

    metadata: OutputPath | None = Field(
        None, description="table of titles, tags and labels by the new ids; unset: the table's name with _metadata"
    )
    registered_model: str | None = Field(
        None, json_schema_extra=MOVABLE,
        description="MLflow registered model of which each run's becomes a version; unset: logged, not registered",
    )  # fmt: skip
    max_reject_share: float = Field(
        0.5, ge=0, le=1, json_schema_extra=MOVABLE,
        description="stop where a larger share of the vectors and pairs cannot be used, as items without known words",
    )  # fmt: skip


class Evaluation(Section):
    """What to measure before the table is changed."""

    csls: int = Field(
        0, ge=0, le=1000, json_schema_extra=MOVABLE,
        description="rank by CSLS over so many neighbours, against hubs; 0: by cosine",
    )  # fmt: skip
    map_ids: int = Field(
        300,
        ge=0,
        le=scatter_map.MAX_IDS,
        description="ids of both kinds on the map; 0: no map",
        json_schema_extra=MOVABLE,
    )
    heat_pairs: int = Field(
        24, ge=0, le=latent_plots.MAX_PAIRS, json_schema_extra=MOVABLE,
        description="test pairs in the heat map of cosines; 0: no heat map",
    )  # fmt: skip
    examples: int = Field(
        8, ge=0, le=latent_plots.MAX_EXAMPLES, json_schema_extra=MOVABLE,
        description="searches, and suggestions, drawn where the left side is pictures; 0: none",
    )  # fmt: skip
    pictures: ImagesConfig | None = Field(
        None, json_schema_extra=MOVABLE,
        description="where the left side's pictures are; unset: where the run that made its table had them from. Keys:",
    )  # fmt: skip
    gates: dict[str, float] = Field(
        {}, description="least value of a figure, by its name; below, the table stays", json_schema_extra=MOVABLE
    )
    seed: int = Field(1, description="of samples and the map", json_schema_extra=MOVABLE)


class Config(Section):
    """Configuration of ``embedall latent``."""

    input: LatentInput
    output: LatentOutput
    split: SplitConfig = SplitConfig()
    fit: FitConfig = FitConfig()
    evaluate: Evaluation = Evaluation()


def check(config: Config) -> None:
    """Refuse what can be seen to be wrong before Spark starts."""
    given = config.input
    if (given.right is None) != (given.pairs is None):
        raise ConfigError("input.right and input.pairs go together: a table of vectors, and which belong to which")
    if given.right is not None and (given.items or given.words):
        raise ConfigError("input.right is a table of vectors in place of text: leave input.items and input.words out")
    if given.right is None and given.right_kind is not None:
        raise ConfigError("input.right_kind names the kind of input.right; of text the kinds are words and titles")
    if config.output.mode == "append" and len(config.fit.k) > 1:
        raise ConfigError("output.mode append: the table's vectors have one length already; give one fit.k")
    if given.dense_words and (given.words or given.right):
        raise ConfigError(
            "input.dense_words goes with vectors of words that are learnt: not beside input.words or right"
        )
    check_gates(config.evaluate.gates, [f"{way}/{name}" for way in retrieval.WAYS for name in _FIGURES])


def read(spark: SparkSession, config: Config) -> DataFrame:
    """Return the left side, VECTORS."""
    return _read(spark, config.input.path, VECTORS)


def version(spark: SparkSession, config: Config) -> str:
    """Return the versions of all tables that go in."""
    given = config.input
    items = config.input.items_table if given.right is None else None
    named = [(given.path, VECTORS), (given.right, VECTORS), (given.pairs, PAIRS), (items, ITEMS)]
    found = []
    for path, schema in [*named, (given.words, VECTORS)]:
        if path is not None:
            _read(spark, path, schema)
            found.append(input_version.DeltaTable(path).version(spark))
    return "+".join(found)


def vector_size(spark: SparkSession, config: Config) -> int | None:
    """Return the length of the latent vectors; None where it is chosen on validation items."""
    return config.fit.k[0] if len(config.fit.k) == 1 else None


def estimate(spark: SparkSession, config: Config) -> dict[str, float]:
    """Return about what a run costs."""
    rows = read(spark, config).count()
    others = (
        _read(spark, config.input.right, VECTORS)
        if config.input.right
        else _read(spark, config.input.items_table, ITEMS)
    )
    both = rows + others.count()
    longest = max(config.fit.k)
    return {"left": rows, "right": both - rows, "vector_size": longest, "table_bytes": 4 * longest * both}


def embed(run: Run, given: DataFrame, config: Config) -> DataFrame:
    """Return both sides in the latent space, as VECTORS; an id is its kind, a colon and the id it had.

    Method: regularised canonical correlations (Vinod 1976), with options chosen on validation items and, if asked for,
    a contrastive refinement. Of a side that is text there is a row for each item's own words (``titles:ID``) and for
    each known word alone (``words:WORD``). Everything is learnt from training items only.

    Args:
        run: where stages, figures, rejects and the model go.
        given: VECTORS of the left side.
        config: the configuration.

    Raises:
        BadData: too many rows were refused, or none is left to learn from.
        ConfigError: the sides' kinds are the same, or k is more than they have in common.
    """
    kinds, left = _kinds(run.spark, given, config), given.where(_finite())
    _check_ids(run.spark, left, config)
    parts = run.stage("split", lambda: split.split(left, config.split))
    _check_size(parts, config)
    right = _text(run, parts, left, config) if config.input.right is None else _other(run.spark, config)
    seen = given.count() + right.pairs.count()
    pairs = _pairs(run, given, left, right, parts, seen)
    sides = model_selection.fit(run, left, right.fitted, pairs, config.fit, UNIT if right.text is None else PLAIN)
    text_side = right.text
    if text_side is not None:
        decoder = cca.decoder(sides[3], sides[2])[:, : len(text_side.bags.tokens)]
        text_side = text_side._replace(decoder=decoder.astype(np.float32))
    fitted = LatentModel(sides[0], sides[1], *kinds, text_side)
    run.artifact(latent_model.FILE, latent_model.to_bytes(fitted))
    run.log_model(latent_model.servable(fitted, config.output.registered_model))
    if right.items is not None:
        _keep_metadata(run, right.items, kinds, config)
    tables = [(left, fitted.left, kinds[0]), (right.vectors, fitted.right, kinds[1])]
    if right.alone is not None:
        tables.append((right.alone, fitted.right, WORDS))
    latent = run.stage("latent", lambda: reduce(DataFrame.unionByName, [_mapped(*one) for one in tables]))
    run.reject(tabular.rejects(latent))
    run.check_reject_share(tabular.reject_counts(latent)[0], seen)
    lineage = {"run_id": F.lit(run.id), "model_uri": F.lit(run.model_uri).cast("string")}
    return conform(latent.where("vector IS NOT NULL").withColumns(lineage), VECTORS)


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return how well each side of test pairs finds the other, beside chance; record pictures of both."""
    asked, kinds = config.evaluate, _kinds(run.spark, read(run.spark, config), config)
    held = run.read_stage("pairs").where("part = 'test'")
    names = [F.concat(F.lit(f"{kind}:"), name).alias(name) for kind, name in zip(kinds, ("left", "right"), strict=True)]
    left, right = (vectors.where(F.col("kind") == kind) for kind in kinds)
    figures = retrieval.evaluate(left, right, held.select(*names, "weight"), csls=asked.csls, seed=asked.seed)
    items = None if config.input.right is not None else _read(run.spark, config.input.items_table, ITEMS)
    find = plot_data.pictures(run, kinds[0], config.input.path, asked.pictures)
    space = plot_data.space(run, vectors, held.select(*names), kinds, items, find)
    sizes = latent_plots.Sizes(asked.map_ids, asked.heat_pairs, asked.examples, asked.seed)
    for name, content in latent_plots.draw(space, sizes):
        run.artifact(name, content)
    return figures


def _check_ids(spark: SparkSession, left: DataFrame, config: Config) -> None:
    """Raise BadData if no id of the left side has an item or a pair, before anything is computed from them."""
    source = config.input
    if source.right is None:
        key, path, ids = "input.items", source.items_table, _read(spark, source.items_table, ITEMS).select("id")
    else:
        assert source.pairs is not None
        key, path = "input.pairs", source.pairs
        ids = _read(spark, path, PAIRS).select(F.col("left").alias("id"))
    if not left.join(ids, "id", "left_semi").isEmpty():
        return
    examples = [
        ", ".join(repr(row["id"]) for row in side.select("id").orderBy("id").take(3)) or "no id" for side in (left, ids)
    ]
    raise BadData(
        f"{key}: no id of {path} is an id of {source.path}. {path} has {examples[1]}; {source.path} has {examples[0]}. "
        "Ids must be equal, a folder in front included"
    )


def _check_size(parts: DataFrame, config: Config) -> None:
    """Raise BadData if the training items cannot span the smallest space that is asked for."""
    items, smallest = parts.where("part = 'train'").count(), min(config.fit.k)
    if items <= smallest:
        raise BadData(
            f"fit.k={smallest} needs more than {smallest:,} training items, and there are {items:,}; give more items, "
            "a smaller fit.k, or a smaller split.test and split.validation"
        )


def _text(run: Run, parts: DataFrame, left: DataFrame, config: Config) -> text_side.RightSide:
    """Return the right side where it is titles and tags."""
    given = config.input
    items = _read(run.spark, config.input.items_table, ITEMS).where("id IS NOT NULL")
    # Of several rows of an id one counts, the same whatever their order is.
    one = items.groupBy("id").agg(F.min(F.struct("title", "tags", "label")).alias("row")).select("id", "row.*")
    vectors = None if given.words is None else _read(run.spark, given.words, VECTORS).where(_finite())
    table = files.words_of(config.output.table)
    return text_side.build_text_side(run, one, parts, left, given, vectors, config.fit.left_preparation, table)


def _other(spark: SparkSession, config: Config) -> text_side.RightSide:
    """Return the right side where it is a table of vectors."""
    assert config.input.right is not None and config.input.pairs is not None
    vectors, pairs = _read(spark, config.input.right, VECTORS), _read(spark, config.input.pairs, PAIRS)
    vectors = vectors.where(_finite())
    return text_side.RightSide(vectors, vectors, pairs)


def _pairs(
    run: Run, given: DataFrame, left: DataFrame, right: text_side.RightSide, parts: DataFrame, seen: int
) -> DataFrame:
    """Return the pairs that can be used, each with the part of its left item; the others become rejects."""
    good, bad = pairs.check(right.pairs, left, right.vectors)
    part = parts.select(F.col("id").alias("left"), "part")
    usable = run.stage("pairs", lambda: good.join(part, "left"))
    reason = F.lit(projection.NOT_FINITE).alias("reason")
    lost = conform(given.where(~_finite()).select(F.col("id").alias("origin"), reason), REJECTS)
    refused = run.stage("rejects", lambda: bad.unionByName(lost))
    run.reject(refused)
    run.check_reject_share(refused.count(), seen)
    if usable.isEmpty():
        raise BadData("no pair can be used: do the ids of the pairs, or of the items, belong to these tables?")
    return usable


def _keep_metadata(run: Run, items: DataFrame, kinds: tuple[str, str], config: Config) -> None:
    """Write what is known of the items under the ids that they have in the latent space."""
    sides = [items.withColumn("id", F.concat(F.lit(f"{kind}:"), "id")) for kind in kinds]
    name = config.output.metadata or files.metadata_of(config.output.table)
    run.write_table(
        name, conform(sides[0].unionByName(sides[1]), ITEMS), ITEMS, "Titles, tags and labels by latent ids"
    )


def _mapped(vectors: DataFrame, side: projection.Side, kind: str) -> DataFrame:
    """Return a side's rows in the latent space under their new ids: id, vector, norm, kind, origin, problem."""
    mapped = projection.project(vectors.select("id", "vector", "norm"), side)
    name = F.concat(F.lit(f"{kind}:"), "id").alias("id")
    return mapped.select(name, "vector", "norm", F.lit(kind).alias("kind"), "origin", "problem")


def _kinds(spark: SparkSession, left: DataFrame, config: Config) -> tuple[str, str]:
    """Return what ids of the left and of the right side begin with."""
    given = config.input
    first = given.kind or _kind(left, given.path, "input.kind")
    second = TITLES
    if given.right is not None:
        second = given.right_kind or _kind(_read(spark, given.right, VECTORS), given.right, "input.right_kind")
    if first == second or (given.right is None and first == WORDS):
        raise ConfigError(f"both sides have ids of kind {first!r}; set input.kind to another name for the left side's")
    return first, second


def _kind(vectors: DataFrame, path: str, option: str) -> str:
    row = vectors.agg(F.min("kind"), F.max("kind")).first()
    assert row is not None
    if row[0] != row[1]:
        raise ConfigError(f"{path} has rows of several kinds, such as {row[0]!r} and {row[1]!r}; set {option}")
    return str(row[0])


def _read(spark: SparkSession, path: str, schema: StructType) -> DataFrame:
    found = reader_errors.opened(path, "delta", lambda: spark.table(files.identifier(path)))
    return conform(found, schema)


def _finite() -> Column:
    return F.forall("vector", lambda number: ~F.isnan(number) & (F.abs(number) < float("inf")))
