"""Checkpoints: the model after each slice, in files of the run's folder that do not depend on the number of workers.

A checkpoint consists of the files that its manifest names. The driver writes the manifest last, so that a checkpoint is
complete or does not exist; files without a manifest are deleted when the slice is trained again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedall_spark import files
from embedall_spark import vectors as vectors_
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.train import plan, shard_io

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run
    from embedall_spark.train.shard_io import Manifest

_FILE = "manifest.json"
_FORMAT = 2
_VECTORS = "id string, vector array<float>, context array<float>, norm double, count bigint"
_PIECE_ROWS = 200_000


def folder(run: Run, epoch: int, index: int) -> str:
    """Return the folder of the checkpoint after a slice; names sort in the order of training."""
    # A minus sorts before the digits; epochs before the first have negative numbers.
    name = f"{epoch:04d}" if epoch >= 0 else f"-{1000 + epoch}"
    return f"{run.folder}/checkpoints/{name}-{index:04d}"


def write(run: Run, manifest: Manifest) -> Manifest:
    """Write a manifest, which makes the checkpoint valid; delete all but the last two checkpoints."""
    run.check_ownership()
    manifest = {"format": _FORMAT, **manifest}
    files.write_bytes(f"{manifest['folder']}/{_FILE}", json.dumps(manifest, indent=1).encode())
    for name in _complete(run)[:-2]:
        files.delete(f"{run.folder}/checkpoints/{name}")
    return manifest


def latest(run: Run) -> Manifest | None:
    """Return the manifest of the last complete checkpoint; None where there is none."""
    names = _complete(run)
    if not names:
        return None
    path = f"{run.folder}/checkpoints/{names[-1]}"
    manifest: Manifest = json.loads(files.read_bytes(f"{path}/{_FILE}"))
    if manifest["format"] != _FORMAT:
        raise RuntimeError(
            f"{path}: the checkpoint has format {manifest['format']}, need {_FORMAT}; start again with another --run-id"
        )
    # The run's folder may have been moved.
    return {**manifest, "folder": path}


def vectors(run: Run, manifest: Manifest, vocabulary: str) -> DataFrame:
    """Return id, vector, context, norm and count of every token, read from a checkpoint by an ordinary job."""
    sizes = [int(size) for size in manifest["rows"]]
    pieces = [
        (shard, first, min(first + _PIECE_ROWS, size))
        for shard, size in enumerate(sizes)
        for first in range(0, size, _PIECE_ROWS)
    ]
    rows = run.spark.createDataFrame(pieces, "shard int, first long, stop long").repartition(len(pieces))
    return rows.mapInArrow(_read(manifest, vocabulary), _VECTORS)


def _complete(run: Run) -> list[str]:
    parent = f"{run.folder}/checkpoints"
    return [name for name in files.children(parent) if files.exists(f"{parent}/{name}/{_FILE}")]


def _read(manifest: Manifest, vocabulary: str) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        index = VocabularyIndex.open(vocabulary)
        shards = plan.shards(index.counts, int(manifest["workers"]), float(manifest["sample"]), index.folder)
        lengths, folder = manifest["lengths"], manifest["folder"]
        dim, kind = int(manifest["vector_size"]), manifest["vector"]
        for batch in batches:
            for piece in batch.to_pylist():
                shard, first, stop = piece["shard"], piece["first"], piece["stop"]
                ids = shards.ids(shard)
                # With n-grams the rows of inputs are not yet the words' vectors.
                matrix = "vectors" if "vectors" in manifest else "inputs"
                names = manifest[matrix][shard], manifest["outputs"][shard]
                inputs, outputs = (f"{folder}/{name}" for name in names)
                for row, rows in shard_io.read_rows(inputs, len(ids), lengths["inputs"], first, stop):
                    vector, context = rows[:, :dim], None
                    if manifest["context"] or kind != "input":
                        _, rows = next(
                            shard_io.read_rows(outputs, len(ids), lengths["outputs"], row, row + len(vector))
                        )
                        context = rows[:, :dim]
                        vector = {"input": vector, "context": context, "sum": vector + context}[kind]
                    context = context if manifest["context"] else None
                    yield from _rows(index, ids[row : row + len(vector)], vector, context).to_batches(4096)

    return read


def _rows(index: VocabularyIndex, ids: np.ndarray, vector: np.ndarray, context: np.ndarray | None) -> pa.Table:
    missing = pa.nulls(len(ids), pa.list_(pa.float32()))
    return pa.table(
        {
            "id": index.tokens(ids),
            "vector": vectors_.to_column(vector),
            "context": missing if context is None else vectors_.to_column(context),
            "norm": np.linalg.norm(vector.astype(np.float64), axis=1),
            "count": np.asarray(index.counts[ids]),
        }
    )
