"""Words and their n-grams written to a file in fastText's binary format, as one stream from one task.

The format is that of Facebook's program, version 12 (``FastText::saveModel``): options, dictionary, the rows of words
and buckets, and the output rows. gensim's ``load_facebook_vectors`` and ``load_facebook_model`` read it.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark import export, files
from embedall_spark.corpus import ngrams
from embedall_spark.errors import BadData
from embedall_spark.vectors import to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

_MAGIC, _VERSION = 793712314, 12
# Words whose n-grams are summed at once, and buckets written at once.
_WORDS, _BUCKETS = 1024, 1 << 14


class _Model(NamedTuple):
    """What the file's parts need to know."""

    words: int
    tokens: int
    d: int
    lengths: ngrams.Lengths
    options: Mapping[str, float]


def write(words: DataFrame, ngram_rows: DataFrame, path: str, options: Mapping[str, float]) -> export.Written:
    """Write words, most frequent first, and their n-grams in fastText's format.

    A bucket that no word has is a row of zeros. The file's rows of words are computed back from their vectors, so that
    gensim's vectors are equal up to rounding. Output rows are the context vectors, or zeros where the table has none.

    Args:
        words: VECTORS of one run that trained with n-grams.
        ngram_rows: NGRAMS of the same run.
        path: as in export.write().
        options: train's sg, hs, negative, window, epochs and sample, as far as they are known; for the file's header.

    Raises:
        BadData: there are no words, or words of several runs.
        ConfigError: the path is that of a folder, or lies below a file.
        ResourceError: the driver does not see the file that a task has written.
    """
    path = export.check(path)
    target = os.path.abspath(path) if files.is_local(path) and "://" not in path else path
    first = ngram_rows.first()
    totals = words.agg(
        F.count("*").alias("rows"), F.sum("count").alias("tokens"), F.first(F.size("vector")).alias("d"),
        F.countDistinct("run_id").alias("runs"),
    ).first()  # fmt: skip
    if first is None or totals is None or not totals["rows"]:
        raise BadData(f"{path}: the table has no vectors with n-grams to export")
    if totals["runs"] > 1:
        raise BadData(
            f"{path}: the table has words of {totals['runs']} runs, whose n-grams differ; need a table of one run"
        )
    lengths = ngrams.Lengths(first["min_n"], first["max_n"], first["buckets"])
    model = _Model(totals["rows"], int(totals["tokens"] or 0), totals["d"], lengths, options)
    # Rows of n-grams first: those of words are computed from them.
    no_name, no_context = F.lit(None).cast("string"), F.lit(None).cast("array<float>")
    bucket, no_count = F.col("bucket").cast("long"), F.lit(0).cast("long")
    parts = ngram_rows.select(
        bucket.alias("place"), no_name.alias("name"), no_count.alias("count"), "vector", no_context.alias("context")
    )
    entries = words.select(F.lit(1 << 40).alias("place"), F.col("id").alias("name"), "count", "vector", "context")
    ordered = parts.unionByName(entries).repartition(1)
    ordered = ordered.sortWithinPartitions("place", F.desc_nulls_last("count"), "name")
    result = ordered.mapInArrow(_writer(target, model), "rows bigint").first()
    export.check_written(path, target, None if result is None else result["rows"], model.words)
    return export.Written(model.words, model.d, 0, 0)


def _writer(target: str, model: _Model) -> Callable[[Batches], Batches]:
    """Build the task's function: it writes the file and returns how many words that were."""

    def write_file(batches: Batches) -> Batches:
        with tempfile.TemporaryDirectory(dir=files.scratch()) as folder:
            spool = _Spool(Path(folder), model)
            with files.create(target) as file, export.compressed(file, target) as stream:
                stream.write(_header(model))
                written = 0
                for batch in batches:
                    for names in spool.add(batch):
                        stream.write(names)
                        written += 1
                spool.write(stream)
        yield pa.record_batch({"rows": pa.array([written], pa.int64())})

    return write_file


def _header(model: _Model) -> bytes:
    """Return the options and the beginning of the dictionary."""
    get, lengths = model.options.get, model.lengths
    integers = [
        model.d, get("window", 5), get("epochs", 5), 1, get("negative", 5), 1, 1 if get("hs") else 2,
        2 if get("sg", 1) else 1, lengths.bucket, lengths.min_n, lengths.max_n, 100,
    ]  # fmt: skip
    options = struct.pack("<2i12id", _MAGIC, _VERSION, *map(int, integers), get("sample", 1e-3))
    return options + struct.pack("<3i2q", model.words, model.words, 0, model.tokens, -1)


class _Spool:
    """Rows on the task's disk until the dictionary, which comes before them in the file, is complete."""

    def __init__(self, folder: Path, model: _Model) -> None:
        self._model, self._folder = model, folder
        self._row_of = np.full(model.lengths.bucket, -1, np.int32)
        self._used = 0
        self._files: dict[str, BinaryIO] = {}
        self._ngrams: NDArray[np.float32] | None = None

    def add(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        """Take rows, those of n-grams before those of words; yield the dictionary's entries of words."""
        split = batch["name"].null_count  # n-grams come first
        if split:
            buckets = batch["place"].slice(0, split).to_numpy()
            self._row_of[buckets] = np.arange(self._used, self._used + split, dtype=np.int32)
            self._used += split
            self._append("ngrams", to_matrix(batch["vector"].slice(0, split)))
        for first in range(split, batch.num_rows, _WORDS):
            part = batch.slice(first, _WORDS)
            self._append("words", self._word_rows(part))
            if part["context"].null_count == 0:
                self._append("outputs", to_matrix(part["context"]))
            for name, count in zip(part["name"].to_pylist(), part["count"].to_pylist(), strict=True):
                yield name.encode() + b"\0" + struct.pack("<qb", count or 0, 0)

    def write(self, stream: BinaryIO) -> None:
        """Write the two matrices."""
        words, d, lengths = self._model.words, self._model.d, self._model.lengths
        for file in self._files.values():
            file.close()
        stream.write(struct.pack("<?2q", False, words + lengths.bucket, d))
        self._copy("words", stream)
        rows = self._ngram_rows()
        for first in range(0, lengths.bucket, _BUCKETS):
            numbers = self._row_of[first : first + _BUCKETS]
            block = np.zeros((len(numbers), d), "<f4")
            block[numbers >= 0] = rows[numbers[numbers >= 0]]
            stream.write(block.tobytes())
        stream.write(struct.pack("<?2q", False, words, d))
        if "outputs" in self._files:
            self._copy("outputs", stream)
        else:
            for first in range(0, words, _BUCKETS):
                stream.write(bytes(4 * d * min(_BUCKETS, words - first)))

    def _word_rows(self, part: pa.RecordBatch) -> NDArray[np.float32]:
        """Return the rows of words, float32 [n, d]: a vector is the mean of its row and those of its n-grams."""
        offsets, buckets = ngrams.buckets_of(part["name"], self._model.lengths)
        counts = np.diff(offsets)
        rows: NDArray[np.float64] = to_matrix(part["vector"]).astype(np.float64) * (counts + 1)[:, None]
        if len(buckets):
            has = counts > 0
            ngram_rows = self._ngram_rows()[self._row_of[buckets]].astype(np.float64)
            rows[has] -= np.add.reduceat(ngram_rows, offsets[:-1][has])
        return rows.astype(np.float32)

    def _ngram_rows(self) -> NDArray[np.float32]:
        """Return the rows of the used buckets, mapped from the disk."""
        if self._ngrams is None:
            self._files["ngrams"].flush()
            shape = (self._used, self._model.d)
            self._ngrams = np.memmap(self._folder / "ngrams", np.float32, "r", shape=shape)
        return np.asarray(self._ngrams, np.float32)

    def _append(self, name: str, rows: NDArray[np.float32]) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / name).open("wb")
        self._files[name].write(rows.astype("<f4", copy=False).tobytes())

    def _copy(self, name: str, stream: BinaryIO) -> None:
        with (self._folder / name).open("rb") as file:
            shutil.copyfileobj(file, stream, 1 << 20)
