"""The kinds as pyspark.ml estimators and transformers: ``from embedall_spark.ml import Word2Vec``."""

from __future__ import annotations

from embedall_spark.ml.image_featurizer import ImageFeaturizer
from embedall_spark.ml.item2vec import Item2Vec, Item2VecModel
from embedall_spark.ml.latent_space import LatentSpace, LatentSpaceModel
from embedall_spark.ml.nearest_neighbors import NearestNeighbors, NearestNeighborsModel
from embedall_spark.ml.node2vec import Node2Vec, Node2VecModel
from embedall_spark.ml.word2vec import Word2Vec, Word2VecModel

__all__ = [
    "ImageFeaturizer",
    "Item2Vec",
    "Item2VecModel",
    "LatentSpace",
    "LatentSpaceModel",
    "NearestNeighbors",
    "NearestNeighborsModel",
    "Node2Vec",
    "Node2VecModel",
    "Word2Vec",
    "Word2VecModel",
]
