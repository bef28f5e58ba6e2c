"""The kinds as pyspark.ml estimators and transformers: ``from embedall_spark.ml import Word2Vec``."""

from __future__ import annotations

from embedall_spark.ml.word2vec import Word2Vec, Word2VecModel

__all__ = ["Word2Vec", "Word2VecModel"]
