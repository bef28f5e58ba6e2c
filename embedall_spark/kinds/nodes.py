"""Nodes: edges -> numbered vertices -> adjacency lists -> random walks -> skip-gram vectors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark.config import MOVABLE, Output, Section, check_gates
from embedall_spark.corpus import blocks, vocabulary
from embedall_spark.errors import ConfigError
from embedall_spark.evaluate import label_metrics, link_prediction
from embedall_spark.evaluate.label_metrics import Metadata
from embedall_spark.graph import adjacency, graph_stats, walk_jobs
from embedall_spark.graph.adjacency import GraphConfig
from embedall_spark.graph.walk_jobs import Walks, WalksConfig
from embedall_spark.schemas import ENCODED, SEQUENCES, VOCABULARY, conform, vectors_of
from embedall_spark.sources import edges, input_version, tabular
from embedall_spark.sources.edges import EdgesConfig, HasEdges
from embedall_spark.train import plan, preflight, trainer
from embedall_spark.train.config import SkipGram
from embedall_spark.visualize import scatter_map

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)

# Up to so many vertices, negatives that a window shares cost F1 (docs/log.md), and pairs' own ones little time.
_SMALL = 1 << 15


class Evaluation(Section):
    """What to measure before the table is replaced."""

    metadata: Metadata | None = Field(
        None,
        description="labels of vertices, for node classification, purity of neighbours and colours on the map, and "
        "titles to show; unset: none. Keys:",
        json_schema_extra=MOVABLE,
    )
    shares: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.1, 0.5, 0.9],
        description="node classification: shares of labelled vertices to learn from",
        json_schema_extra=MOVABLE,
    )
    splits: int = Field(
        3, ge=1, le=100, description="over how many random splits to take the mean", json_schema_extra=MOVABLE
    )
    holdout: float = Field(
        0.0, ge=0, lt=1, description="share of edges kept from training, to measure link prediction by (links/auc)"
    )
    map_nodes: int = Field(
        400,
        ge=0,
        le=scatter_map.MAX_IDS,
        description="vertices on the map picture; 0: no picture",
        json_schema_extra=MOVABLE,
    )
    gates: dict[str, float] = Field(
        {}, description="least value of a figure, by its name; below, the table stays", json_schema_extra=MOVABLE
    )

    @field_validator("map_nodes")
    @classmethod
    def _two_nodes(cls, value: int) -> int:
        if value == 1:
            raise ValueError("a map needs two vertices; 0 for no map")
        return value

    @property
    def has_labels(self) -> bool:
        """Whether vertices have labels, not only titles."""
        return self.metadata is not None and self.metadata.label is not None


class Config(Section):
    """Configuration of ``embedall nodes``."""

    input: EdgesConfig
    output: Output
    graph: GraphConfig = GraphConfig()
    walks: WalksConfig = WalksConfig()
    train: SkipGram = SkipGram()
    evaluate: Evaluation = Evaluation()


def check(config: Config) -> None:
    """Refuse what can be seen to be wrong before Spark starts."""
    known = {"links/auc"} if config.evaluate.holdout else set()
    if config.evaluate.metadata is not None:
        label_metrics.check(config.evaluate.metadata)
    if config.evaluate.has_labels:
        known |= {"purity/neighbours", *label_metrics.figures(config.evaluate.shares)}
    check_gates(config.evaluate.gates, known)
    if config.train.until is not None and config.train.until.metric != "loss":
        raise ConfigError(f"train.until.metric: {config.train.until.metric} is for words; nodes have loss")


def read(spark: SparkSession, config: Config) -> DataFrame:
    """Return the EDGES that the configuration names, once the metadata have turned out to have their columns."""
    label_metrics.check_columns(spark, config.evaluate.metadata)
    return edges.read(spark, config.input)


def version(spark: SparkSession, config: Config) -> str:
    """Return a digest of the input's files or its table's version."""
    return input_version.version(spark, config.input)


def vector_size(spark: SparkSession, config: Config) -> int:
    """Return the length of the vectors."""
    return config.train.vector_size


def estimate(spark: SparkSession, config: Config) -> dict[str, float]:
    """Return about what a run costs; raises ResourceError where the cluster lacks what it needs. Reads the input."""
    ends = F.explode(F.array("src", "dst"))
    row = read(spark, config).select(ends.alias("end")).agg(F.approx_count_distinct("end"), F.count("*")).first()
    assert row is not None
    vertices, entries = max(1, int(row[0])), int(row[1])
    tokens = vertices * config.walks.num_walks * config.walks.walk_length
    corpus = plan.Corpus(vertices, tokens, float(tokens), blocks.number(tokens))
    preflight.check(spark, corpus, config.train)
    graph_bytes = 8 * vertices + (4 if config.input.weight is None else 12) * entries
    found = {"vertices": vertices, "edge_ends": entries, "tokens": tokens, "host_graph_bytes": graph_bytes}
    return found | preflight.estimate(spark, corpus, config.train)


def embed(run: Run, graph: DataFrame | HasEdges, config: Config) -> DataFrame:
    """Return one vector per vertex that has a neighbour, as VECTORS.

    Method: node2vec (Grover and Leskovec 2016): skip-gram over second-order random walks; with p = q = 1 DeepWalk
    (Perozzi et al. 2014). Walks are drawn by the tasks that train on them, the same ones in every epoch and at every
    rerun, and are kept nowhere unless ``walks.table`` asks for it.

    Args:
        run: where stages, figures and rejects go.
        graph: EDGES, or a GraphFrame (anything with ``vertices`` and ``edges``).
        config: the configuration; its input is used only for the name of a GraphFrame's weights.

    Raises:
        BadData: too many edges were refused, or none is left.
        ResourceError: the cluster lacks slots, memory or disk for ``train.workers``.
        TrainingDiverged: a shard of the model is not finite or exploded.
    """
    found = run.stage("edges", lambda: edges.of(graph, config.input.weight))
    run.reject(tabular.rejects(found))
    run.check_reject_share(*tabular.reject_counts(found))
    good, _ = _split(found, config)
    vertices, lists, facts = adjacency.stages(run, good, config.graph)
    _report(run, graph, lists, vertices, facts, config)
    walks = Walks(run.stage_path("adjacency"), facts, config.graph.directed, config.walks, config.train.seed)
    met = run.stage("vocabulary", lambda: _met(vertices, walk_jobs.visits(run.spark, walks)))
    if config.graph.directed:
        # Elsewhere every vertex has walks of its own.
        run.metric("graph/unmet", _unmet(met))
    _keep_walks(run, walks)
    train = training(config.train, facts.vertices)
    threads = preflight.threads(run.spark, train) if train.workers == 1 else 1
    feed = walk_jobs.feed(run.spark, walks, vocabulary.total(met), threads)
    vectors = trainer.train(run, feed, met, run.stage_path("vocabulary"), train)
    # A vertex that no walk has met has learned nothing.
    return vectors_of(vectors.where("count > 0"), "nodes", run.id, run.model_uri)


def training(train: SkipGram, vertices: int) -> SkipGram:
    """Return the options of training on a graph of so many vertices: where it is small, pairs share no negatives."""
    if train.batch_size is not None or vertices > _SMALL:
        return train
    return train.model_copy(update={"batch_size": 1})


def _report(
    run: Run,
    graph: DataFrame | HasEdges,
    lists: DataFrame,
    vertices: DataFrame,
    facts: adjacency.GraphSize,
    config: Config,
) -> None:
    """Log what the graph looks like, and record it."""
    figures = graph_stats.describe(lists, vertices, run.stage_path("adjacency"), facts, config.graph.directed)
    if not isinstance(graph, DataFrame):
        named = graph.vertices.select(F.col("id").cast("string").alias("token")).where("token is not null").distinct()
        isolated = named.join(vertices, "token", "left_anti").count()
        figures["graph/isolated"] = float(isolated)
        log.info("graph: listed vertices that have no edge to walk along, and get no vector: %d", isolated)
    for name, value in figures.items():
        run.metric(name, value)


def _met(vertices: DataFrame, visits: DataFrame) -> DataFrame:
    """Return the vertices, under their numbers, with how often walks meet them: the VOCABULARY of the walks."""
    counted = vertices.select("id", "token").join(visits, "id", "left")
    return conform(counted.withColumn("count", F.coalesce("count", F.lit(0))).orderBy("id"), VOCABULARY)


def _unmet(met: DataFrame) -> float:
    """Return how many vertices no walk has met: they have no way out, and none of the walks ended there."""
    found = met.where("count = 0").count()
    log.info("graph: vertices that no walk meets, and that get no vector: %d", found)
    return float(found)


def _keep_walks(run: Run, walks: Walks) -> None:
    """Write the walks to their table, where one is asked for."""
    table = walks.config.table
    if table is None:
        return
    if walks.config.names:
        run.write_table(table, walk_jobs.named(run.spark, walks, run.stage_path("vertices")), SEQUENCES, "Random walks")
    else:
        run.write_table(table, walk_jobs.encoded(run.spark, walks), ENCODED, "Random walks over the vertices' numbers")


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return how well links and labels are told from the vectors; record a map of the vertices."""
    figures: dict[str, float] = {}
    known = None
    if config.evaluate.holdout:
        found = run.read_stage("edges")
        kept, held = _split(found, config)
        figures |= link_prediction.auc(vectors, held, kept.unionByName(held), seed=config.train.seed)
    if config.evaluate.metadata is not None:
        known = label_metrics.read(run.spark, config.evaluate.metadata, vectors)
    if config.evaluate.has_labels:
        assert known is not None
        figures |= label_metrics.purity(vectors, known, seed=config.train.seed)
        splits, seed = config.evaluate.splits, config.train.seed
        figures |= label_metrics.classification(vectors, known, config.evaluate.shares, splits, seed=seed)
    if config.evaluate.map_nodes and vectors.limit(2).count() == 2:
        run.artifact(
            "map.png", scatter_map.draw(vectors, config.evaluate.map_nodes, seed=config.train.seed, metadata=known)
        )
    return figures


def _split(found: DataFrame, config: Config) -> tuple[DataFrame, DataFrame]:
    """Return the edges to train on, and those held out."""
    return link_prediction.split(found.where("problem IS NULL"), config.evaluate.holdout, config.train.seed)
