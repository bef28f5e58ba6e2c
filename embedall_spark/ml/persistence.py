"""Saving and loading in Spark's own layout: ``metadata`` (a line of JSON) and, for models, files beside it.

Nothing here calls the JVM, and what is written can be read without Spark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter

from embedall_spark import files
from embedall_spark.errors import TableError
from embedall_spark.ml.options import HasOptions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Saved(HasOptions, MLWritable, MLReadable[Any]):
    """A stage that is saved and loaded as pyspark.ml's own are."""

    _location = ""
    """Where a model's own files are, below the path that it was loaded from; empty for other stages."""

    def write(self) -> MLWriter:
        """Return the writer."""
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[Self]:
        """Return the reader."""
        return _Reader(cls)

    @classmethod
    def load(cls, path: str) -> Self:
        """Return what was saved at a path."""
        return cls.read().load(path)

    def _save_data(self, spark: SparkSession, path: str) -> dict[str, Any]:
        """Write what the params do not say below a path; return entries for the metadata."""
        return {}

    def _load_data(self, path: str, metadata: dict[str, Any]) -> None:
        """Read what _save_data() wrote."""


class _Writer(MLWriter):
    def __init__(self, instance: Saved) -> None:
        super().__init__()
        self.instance = instance

    def _handleOverwrite(self, path: str) -> None:
        own, target = (files.resolve(name)[1].rstrip("/") for name in (self.instance._location, path))
        if self.instance._location and f"{own}/".startswith(f"{target}/"):
            raise TableError(f"{path}: the model reads its vectors from there; save it to another path")
        files.delete(path)

    def saveImpl(self, path: str) -> None:
        """Write the instance to a path (or URI) that all hosts share."""
        if files.exists(path):
            raise TableError(f"{path} exists already; to replace it call write().overwrite().save(path)")
        extra = self.instance._save_data(self.sparkSession, path.rstrip("/"))
        DefaultParamsWriter.saveMetadata(self.instance, path, self.sparkSession, extraMetadata=extra)


class _Reader(MLReader[Any]):
    def __init__(self, cls: type[Saved]) -> None:
        super().__init__()
        self.cls = cls

    def load(self, path: str) -> Any:
        """Return the instance that was written to a path."""
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        name = f"{self.cls.__module__}.{self.cls.__name__}"
        if metadata["class"] != name:
            raise TableError(f"{path}: holds a {metadata['class']}; need a {name}")
        instance = self.cls()
        instance._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(instance, metadata)
        instance._load_data(path.rstrip("/"), metadata)
        return instance
