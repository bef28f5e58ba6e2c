"""Item2Vec: events, or baskets, to vectors of items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.ml import Estimator
from pyspark.ml.param.shared import HasInputCol, HasOutputCol
from pyspark.sql import functions as F

from embedall_spark.config import parse
from embedall_spark.corpus.stories_config import StoriesConfig
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.errors import ConfigError
from embedall_spark.kinds import sequences
from embedall_spark.ml import columns, vectors_model, work_folder
from embedall_spark.ml.options import accessors, params_of, text_param
from embedall_spark.ml.persistence import Saved
from embedall_spark.ml.vectors_model import VectorsModel
from embedall_spark.sources import events
from embedall_spark.train.config import TrainConfig

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_COLUMNS = ("key", "item", "order", "weight")


@accessors("run_root", "keyCol", "itemCol", "orderCol", "weightCol", "inputCol", "outputCol")
@params_of(TrainConfig, exclude=("slice_tokens", "context"))
@params_of(VocabularyConfig)
@params_of(StoriesConfig)
class Item2VecOptions(HasInputCol, HasOutputCol, Saved):
    """Params of Item2Vec: columns, and the options of ``embedall sequences`` under their own names."""

    keyCol = text_param("keyCol", "column that says whose story an event belongs to: user, session, basket")
    itemCol = text_param("itemCol", "column that says what happened")
    orderCol = text_param("orderCol", "column of an event's place in the story; unset: baskets")
    weightCol = text_param("weightCol", "column that says how many times an event counts; unset: once")
    inputCol = text_param("inputCol", "column of baskets, arrays of items; unset: rows are events")

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(keyCol="key", itemCol="item")


class Item2Vec(Item2VecOptions, Estimator["Item2VecModel"]):
    """item2vec (Barkan and Koenigstein 2016) over events (``keyCol``, ``itemCol``, ...) or baskets (``inputCol``)."""

    def __init__(self, **params: Any) -> None:
        """Build the estimator with params by their names."""
        super().__init__()
        self.setParams(**params)

    def _fit(self, dataset: DataFrame) -> Item2VecModel:
        """Return the model of the items.

        Raises:
            BadData: all events were refused, or no item occurs ``min_count`` times.
            ConfigError: options contradict each other.
            SchemaMismatch: a column is missing or of another type.
        """
        baskets = self.isSet("inputCol")
        ordered = not baskets and self.isSet("orderCol")
        rows = events.check(self._baskets(dataset) if baskets else self._events(dataset))
        values = self.sections(train=TrainConfig, vocabulary=VocabularyConfig, stories=StoriesConfig)
        config = parse(sequences.Config, values | {
            "input": {"path": "dataset", "order": "order" if ordered else None}, "output": {"table": "dataset"},
            "evaluate": {"holdout": 0},
        })  # fmt: skip
        spark = dataset.sparkSession
        folder = work_folder.new(spark, self)
        with work_folder.run(spark, folder) as run:
            vectors = sequences.embed(run, rows, config)
            return vectors_model.fitted(
                self, Item2VecModel(), run, vectors, config.train.vector_size, f"{folder}/vectors"
            )

    def _events(self, dataset: DataFrame) -> DataFrame:
        """Return the rows of events.check()."""
        names = {name: self.optional(f"{name}Col") for name in _COLUMNS}
        for name, column in names.items():
            if column is not None:
                columns.kind_of(dataset, column, f"{name}Col")
        ids = {name: columns.text(dataset, names[name], f"{name}Col") for name in ("key", "item")}
        others = {name: F.col(names[name]) for name in ("order", "weight") if names[name] is not None}
        return columns.as_source(dataset.select(*[column.alias(name) for name, column in (ids | others).items()]))

    def _baskets(self, dataset: DataFrame) -> DataFrame:
        """Return an event for each item of a column of arrays; a row is a story."""
        if self.isSet("orderCol") or self.isSet("weightCol"):
            raise ConfigError("Item2Vec: orderCol and weightCol are for events; baskets (inputCol) have neither")
        column = columns.check_arrays(dataset, self.getInputCol())
        numbered = dataset.select(column, F.monotonically_increasing_id().cast("string").alias("key"))
        return columns.as_source(numbered.select("key", F.explode(column).alias("item")).where("item IS NOT NULL"))


class Item2VecModel(VectorsModel, Item2VecOptions):
    """Items and their vectors, fitted by Item2Vec."""

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Return the dataset with the mean of the vectors of each basket in ``inputCol``."""
        column = columns.check_arrays(dataset, self.required("inputCol"))
        return dataset.withColumn(self.getOutputCol(), self._means(column))
