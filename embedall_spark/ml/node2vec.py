"""Node2Vec: the edges of a graph, as a DataFrame or a GraphFrame, to vectors of its vertices."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pyspark.ml import Estimator
from pyspark.ml.param.shared import HasInputCol, HasOutputCol
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from embedall_spark.config import parse
from embedall_spark.errors import SchemaMismatch
from embedall_spark.graph.adjacency import GraphConfig
from embedall_spark.graph.walk_jobs import WalksConfig
from embedall_spark.kinds import nodes
from embedall_spark.ml import columns, vectors_model, work_folder
from embedall_spark.ml.options import accessors, params_of, text_param
from embedall_spark.ml.persistence import Saved
from embedall_spark.ml.vectors_model import VectorsModel
from embedall_spark.sources import edges
from embedall_spark.train.config import TrainConfig

if TYPE_CHECKING:
    from embedall_spark.sources.edges import HasEdges


@accessors("run_root", "srcCol", "dstCol", "weightCol", "inputCol", "outputCol")
@params_of(TrainConfig, exclude=("slice_tokens", "context"))
@params_of(WalksConfig, exclude=("nodes", "table", "names"))
@params_of(GraphConfig)
class Node2VecOptions(HasInputCol, HasOutputCol, Saved):
    """Params of Node2Vec: columns, and the options of ``embedall nodes`` under their own names."""

    srcCol = text_param("srcCol", "column where an edge begins")
    dstCol = text_param("dstCol", "column where it ends")
    weightCol = text_param("weightCol", "column of the weights; unset: 1 each, and weight of a GraphFrame that has it")
    inputCol = text_param("inputCol", "column of vertices that the model adds vectors to")

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(srcCol="src", dstCol="dst", inputCol="id")


class Node2Vec(Node2VecOptions, Estimator["Node2VecModel"]):
    """node2vec (Grover and Leskovec 2016) over a DataFrame of edges, or over a GraphFrame.

    The edges of a DataFrame lead both ways unless ``directed`` is set. Those of a GraphFrame are directed, as its
    definition says, unless ``directed`` is set to false. Sizes, degrees and components are logged where the level of
    the package's logger is INFO; those of a GraphFrame are computed by its own algorithms.
    """

    def __init__(self, **params: Any) -> None:
        """Build the estimator with params by their names."""
        super().__init__()
        self.setParams(**params)

    def _fit(self, dataset: DataFrame | HasEdges) -> Node2VecModel:
        """Return the model of the vertices that walks visit.

        Raises:
            BadData: all edges were refused.
            ConfigError: a param is out of range.
            SchemaMismatch: a column is missing or of another type.
        """
        graph, weight, directed = self._graph(dataset)
        frame = dataset if isinstance(dataset, DataFrame) else dataset.edges
        values = self.sections(train=TrainConfig, walks=WalksConfig, graph=GraphConfig)
        values["graph"]["directed"] = directed
        source = {"input": {"path": "dataset", "weight": weight}, "output": {"table": "dataset"}}
        config = parse(nodes.Config, values | source)
        folder = work_folder.new(frame.sparkSession, self)
        with work_folder.run(frame.sparkSession, folder) as run:
            # Nothing is left of the report but what is logged.
            vectors = nodes.embed(
                run, graph, config, report=logging.getLogger("embedall_spark").isEnabledFor(logging.INFO)
            )
            return vectors_model.fitted(
                self, Node2VecModel(), run, vectors, config.train.vector_size, f"{folder}/vectors"
            )

    def _graph(self, dataset: DataFrame | HasEdges) -> tuple[DataFrame | HasEdges, str | None, bool]:
        """Return EDGES or a GraphFrame, the name of its weights, and whether edges lead one way only."""
        weight, directed = self.optional("weightCol"), bool(self.getOrDefault("directed"))
        if isinstance(dataset, DataFrame):
            return self._edges(dataset, weight), weight, directed
        if not (hasattr(dataset, "edges") and hasattr(dataset, "vertices")):
            raise SchemaMismatch(f"Node2Vec: need a DataFrame of edges or a GraphFrame, found {type(dataset).__name__}")
        if weight is None and "weight" in dataset.edges.columns:
            weight = "weight"
        edges.of(dataset, weight)  # refuses columns that are missing, before folders are made
        return dataset, weight, directed if self.isSet("directed") else True

    def _edges(self, dataset: DataFrame, weight: str | None) -> DataFrame:
        names = {"src": self.required("srcCol"), "dst": self.required("dstCol")} | (
            {"weight": weight} if weight else {}
        )
        for name, column in names.items():
            columns.kind_of(dataset, column, f"{name}Col")
        rows = dataset.select(*[F.col(column).alias(name) for name, column in names.items()])
        return edges.check(columns.as_source(rows))


class Node2VecModel(VectorsModel, Node2VecOptions):
    """Vertices and their vectors, fitted by Node2Vec."""

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Return the dataset with the vector of each vertex in ``inputCol``; null for one that is not known."""
        return dataset.withColumn(
            self.getOutputCol(), self._vector_of(columns.text(dataset, self.getInputCol(), "inputCol"))
        )
