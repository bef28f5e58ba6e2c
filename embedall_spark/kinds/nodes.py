"""Nodes: edges -> numbered vertices -> adjacency lists -> random walks -> skip-gram vectors."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Annotated, cast

from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark.config import MOVABLE, Output, Section
from embedall_spark.corpus import blocks, increments, vocabulary
from embedall_spark.errors import ConfigError
from embedall_spark.evaluate import label_metrics, link_prediction
from embedall_spark.graph import adjacency, changes, graph_stats, walk_jobs
from embedall_spark.graph.adjacency import GraphConfig
from embedall_spark.graph.walk_jobs import Walks, WalksConfig
from embedall_spark.kinds._evaluation import LabelledEvaluation, MapSize, draw_map
from embedall_spark.schemas import ENCODED, SEQUENCES, VOCABULARY, conform, vectors_of
from embedall_spark.sources import edges, input_version, tabular
from embedall_spark.sources import metadata as metadata_source
from embedall_spark.sources.edges import EdgesConfig, HasEdges
from embedall_spark.train import plan, preflight, trainer, warm_start
from embedall_spark.train.config import TrainConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from embedall_spark.graph.graph_stats import HasAlgorithms
    from embedall_spark.graph.walk_jobs import Starts
    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)

# Below this size, sharing negatives lowers F1 (docs/log.md), and drawing them for each pair takes little time.
_SMALL_GRAPH = 1 << 15


class NodesEvaluation(LabelledEvaluation):
    """What to measure before the table is replaced."""

    shares: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.1, 0.5, 0.9],
        description="node classification: shares of labelled vertices to learn from",
        json_schema_extra=MOVABLE,
    )
    splits: int = Field(
        3, ge=1, le=100, description="node classification: random splits to average over", json_schema_extra=MOVABLE
    )
    holdout: float = Field(
        0.0, ge=0, lt=1, description="share of edges held out from training, to measure link prediction by (links/auc)"
    )
    map_nodes: MapSize = Field(400, description="vertices on the map picture; 0: no picture", json_schema_extra=MOVABLE)


class Config(Section):
    """Configuration of ``embedall nodes``."""

    input: EdgesConfig
    output: Output
    graph: GraphConfig = GraphConfig()
    walks: WalksConfig = WalksConfig()
    train: TrainConfig = TrainConfig()
    evaluate: NodesEvaluation = NodesEvaluation()


def check(config: Config) -> None:
    """Refuse what can be seen to be wrong before Spark starts."""
    figures = {"links/auc"} if config.evaluate.holdout else set()
    config.evaluate.check_metadata()
    if config.evaluate.has_labels:
        figures |= {"purity/neighbours", *label_metrics.figures(config.evaluate.shares)}
    config.evaluate.check_gates(figures)
    config.train.check_for("nodes")
    if config.walks.nodes == "changed" and config.train.start is None:
        raise ConfigError(
            "walks.nodes=changed: walks start where the graph differs from that of train.start, which is unset; name a "
            "table there, or leave walks.nodes out"
        )
    if config.walks.nodes == "changed" and config.train.method == "glove":
        raise ConfigError(
            "walks.nodes=changed is for skip-gram: GloVe fits counts, of which walks from some vertices give too few; "
            "leave walks.nodes out, or train.method"
        )


def read(spark: SparkSession, config: Config) -> DataFrame:
    """Return the EDGES that the configuration names, after a check that the metadata have their columns."""
    metadata_source.check_columns(spark, config.evaluate.metadata)
    return edges.read(spark, config.input)


def version(spark: SparkSession, config: Config) -> str:
    """Return a digest of the input's files or its table's version."""
    return input_version.version(spark, config.input)


def vector_size(spark: SparkSession, config: Config) -> int:
    """Return the length of the vectors."""
    return config.train.vector_size


def estimate(spark: SparkSession, config: Config) -> dict[str, float]:
    """Return estimated costs of a run; reads the input. Raises ResourceError where the cluster lacks what it needs."""
    ends = F.explode(F.array("src", "dst"))
    row = read(spark, config).select(ends.alias("end")).agg(F.approx_count_distinct("end"), F.count("*")).first()
    assert row is not None
    vertices, entries = max(1, int(row[0])), int(row[1])
    tokens = vertices * config.walks.num_walks * config.walks.walk_length
    corpus = plan.Corpus(vertices, tokens, float(tokens), blocks.block_count(tokens))
    graph_bytes = 8 * vertices + (4 if config.input.weight is None else 12) * entries
    sizes = {"vertices": vertices, "edge_ends": entries, "tokens": tokens, "host_graph_bytes": graph_bytes}
    return sizes | preflight.estimate(spark, corpus, config.train)


def embed(run: Run, graph: DataFrame | HasEdges, config: Config, *, report: bool = True) -> DataFrame:
    """Return one vector per vertex that has a neighbour, as VECTORS.

    Method: node2vec (Grover and Leskovec 2016): skip-gram over second-order random walks; with p = q = 1 DeepWalk
    (Perozzi et al. 2014). Walks are drawn by the tasks that train on them, the same ones in every epoch and at every
    rerun, and are stored only in ``walks.table``, where it is given. With ``walks.nodes=changed`` they start where the
    graph has changed, as in dynnode2vec (Mahdavi, Khoshraftar and An 2018).

    Args:
        run: where stages, figures and rejects go.
        graph: EDGES, or a GraphFrame (anything with ``vertices`` and ``edges``).
        config: the configuration; its input is used only for the name of a GraphFrame's weights.
        report: whether to log and record what the graph looks like; of a GraphFrame by its own degrees and components.

    Raises:
        BadData: too many edges were refused, or none is left.
        ResourceError: the cluster lacks slots, memory or disk for ``train.workers``.
        TrainingDiverged: a shard of the model is not finite or exploded.
    """
    preflight.check_workers(run.spark, config.train)
    train_edges, _ = _split(_read_edges(run, graph, config), config)
    vertices, lists, size = adjacency.build_stages(run, train_edges, config.graph)
    if report:
        _report(run, graph, lists, vertices, size, config)
    compared, starts = _compare(run, vertices, lists, config)
    walks = Walks(run.stage_path("adjacency"), size, config.graph.directed, config.walks, config.train.seed, starts)
    visited, tokens = _count_visits(run, vertices if compared is None else compared, walks)
    _write_walks(run, walks)
    if starts is not None and not tokens:
        trained = _vectors_of_start(run, visited, config.train)
    else:
        trained = _skip_gram(run, walks, visited, tokens, training(config.train, size.vertices))
    # A vertex that no walk visits has learned nothing.
    trained = trained.where("count > 0")
    if compared is not None:
        trained = trained.join(compared.select(F.col("token").alias("id"), "digest"), "id")
    return vectors_of(trained, "nodes", run.id, run.model_uri)


def evaluate(run: Run, vectors: DataFrame, config: Config) -> dict[str, float]:
    """Return how well links and labels are predicted from the vectors; record a map of the vertices."""
    section, seed = config.evaluate, config.train.seed
    figures: dict[str, float] = {}
    metadata = None
    if section.holdout:
        stored = _kept_edges(run, config) if config.input.incremental else run.read_stage("edges")
        train_edges, test_edges = _split(stored, config)
        figures |= link_prediction.auc(vectors, test_edges, train_edges.unionByName(test_edges), seed=seed)
    if section.metadata is not None:
        metadata = metadata_source.read(run.spark, section.metadata, vectors)
        if section.has_labels:
            figures |= label_metrics.purity(vectors, metadata, seed=seed)
            figures |= label_metrics.classification(vectors, metadata, section.shares, section.splits, seed=seed)
    draw_map(run, vectors, section.map_nodes, seed, metadata)
    return figures


def training(train: TrainConfig, vertices: int) -> TrainConfig:
    """Return the options of training on a graph of so many vertices; in a small one pairs do not share negatives."""
    if train.batch_size is not None or vertices > _SMALL_GRAPH:
        return train
    return train.model_copy(update={"batch_size": 1})


def _read_edges(run: Run, graph: DataFrame | HasEdges, config: Config) -> DataFrame:
    """Return the graph's edges, the stage "edges"; those that cannot be used are rejected."""
    if config.input.incremental:
        stored = _kept_edges(run, config)
    else:
        stored = run.stage("edges", lambda: edges.of(graph, config.input.weight))
    run.reject(tabular.rejects(stored))
    run.check_reject_share(*tabular.reject_counts(stored))
    return stored


def _kept_edges(run: Run, config: Config) -> DataFrame:
    """Return the graph's edges, of which only new ones are read."""
    source = increments.Stage(key=None, read=lambda part: edges.read(run.spark, part))
    return increments.keep(run, config.input, source).rows


def _split(stored: DataFrame, config: Config) -> tuple[DataFrame, DataFrame]:
    """Return the edges to train on, and those held out."""
    return link_prediction.split(stored.where("problem IS NULL"), config.evaluate.holdout, config.train.seed)


def _report(
    run: Run,
    graph: DataFrame | HasEdges,
    lists: DataFrame,
    vertices: DataFrame,
    size: adjacency.GraphSize,
    config: Config,
) -> None:
    """Log and record what the graph looks like."""
    directed, own = config.graph.directed, {}
    if hasattr(graph, "connectedComponents"):
        own = graph_stats.describe_frame(cast("HasAlgorithms", graph), directed)
    folder = run.stage_path("adjacency")
    figures = graph_stats.describe(lists, vertices, folder, size, directed, components=not own) | own
    if not isinstance(graph, DataFrame):
        named = graph.vertices.select(F.col("id").cast("string").alias("token")).where("token is not null").distinct()
        isolated = named.join(vertices, "token", "left_anti").count()
        figures["graph/isolated"] = float(isolated)
        log.info("graph: %s listed vertices have no edge, and get no vector", f"{isolated:,}")
    for name, value in figures.items():
        run.metric(name, value)


def _compare(run: Run, vertices: DataFrame, lists: DataFrame, config: Config) -> tuple[DataFrame | None, Starts | None]:
    """Return the vertices with their digests, and those at which walks start; None: there are no digests, or at all.

    Digests are for a later run that starts from this one's table, for which it has context vectors.
    """
    changed, start = config.walks.nodes == "changed", config.train.start
    if not changed and not config.train.context:
        return None, None
    before = warm_start.read(run.spark, config.train) if changed and start is not None else None
    return changes.build_stages(run, vertices, lists, before)


def _count_visits(run: Run, vertices: DataFrame, walks: Walks) -> tuple[DataFrame, int]:
    """Return the walks' VOCABULARY, the stage "vocabulary", which has the visits of each vertex, and their sum.

    In a directed graph a vertex without a way out may have no visits. Of walks from changed vertices, a vertex has at
    least its earlier count, and the sum is that of the visits alone: negatives and subsampling go by how often walks
    from all vertices would visit it, of which these are a part.
    """
    draw, some = partial(walk_jobs.visit_counts, run.spark, walks), walks.starts is not None
    visits = run.stage("visits", draw) if some else draw()

    def count() -> DataFrame:
        before = (F.col("count") if some else F.lit(0)).alias("before")
        visited = vertices.select("id", "token", before).join(visits, "id", "left")
        counts = F.greatest("before", F.coalesce("count", F.lit(0)))
        return conform(visited.withColumn("count", counts).orderBy("id"), VOCABULARY)

    visited = run.stage("vocabulary", count)
    if walks.directed:
        missed = visited.where("count = 0").count()
        log.info("graph: walks visit all vertices but %s, which get no vector", f"{missed:,}")
        run.metric("graph/unmet", float(missed))
    return visited, vocabulary.total_tokens(visits if some else visited)


def _write_walks(run: Run, walks: Walks) -> None:
    """Write the walks to ``walks.table``, where it is given."""
    table = walks.config.table
    if table is None:
        return
    if walks.config.names:
        named = walk_jobs.as_sequences(run.spark, walks, run.stage_path("vertices"))
        run.write_table(table, named, SEQUENCES, "Random walks")
    else:
        run.write_table(table, walk_jobs.as_encoded(run.spark, walks), ENCODED, "Random walks over the vertices' ids")


def _skip_gram(run: Run, walks: Walks, visited: DataFrame, tokens: int, train: TrainConfig) -> DataFrame:
    """Return vectors trained on the walks, which each slice draws again."""
    threads = preflight.threads(run.spark, train) if train.workers == 1 else 1
    source = walk_jobs.block_source(run.spark, walks, tokens, threads)
    return trainer.train(run, source, visited, run.stage_path("vocabulary"), train)


def _vectors_of_start(run: Run, visited: DataFrame, train: TrainConfig) -> DataFrame:
    """Return the vectors of the table that training would start from: there is no walk to train on."""
    log.info("graph: no walk starts at a vertex that has changed; the vectors are those of %s", train.start)
    columns = ["id", "vector", "norm", *(["context"] if train.context else [])]
    rows = warm_start.read(run.spark, train).select(columns)
    return visited.select(F.col("token").alias("id"), "count").join(rows, "id")
