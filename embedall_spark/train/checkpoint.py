"""Checkpoints: the model after each slice, in files of the run's folder that do not depend on the number of workers.

A checkpoint is what its manifest names. The manifest is written last, by the driver, so that a checkpoint is either
complete or not there; files that no manifest names are swept when the slice is done again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedall_spark import files
from embedall_spark.corpus.vocabulary_index import Lookup
from embedall_spark.train import plan, shard_io

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyspark.sql import DataFrame

    from embedall_spark.run_context import Run
    from embedall_spark.train.shard_io import Saved

_MANIFEST = "manifest.json"
_FORMAT = 1
_VECTORS = "id string, vector array<float>, context array<float>, norm double, count bigint"
_PIECE_ROWS = 200_000


def folder(run: Run, epoch: int, index: int) -> str:
    """Return where the checkpoint after a slice lies; names sort in the order of training."""
    return f"{run.folder}/checkpoints/{epoch:04d}-{index:04d}"


def write(run: Run, saved: Saved) -> Saved:
    """Make a checkpoint valid, and remove those before the one before it."""
    run.check_ownership()
    saved = {"format": _FORMAT, **saved}
    files.write_bytes(f"{saved['folder']}/{_MANIFEST}", json.dumps(saved, indent=1).encode())
    for name in _complete(run)[:-2]:
        files.delete(f"{run.folder}/checkpoints/{name}")
    return saved


def latest(run: Run) -> Saved | None:
    """Return the manifest of the last complete checkpoint; None where there is none."""
    names = _complete(run)
    if not names:
        return None
    where = f"{run.folder}/checkpoints/{names[-1]}"
    saved: Saved = json.loads(files.read_bytes(f"{where}/{_MANIFEST}"))
    if saved["format"] != _FORMAT:
        raise RuntimeError(
            f"{where}: format {saved['format']}, need {_FORMAT}; start the run anew under another run id"
        )
    # A run folder may have been moved as a whole.
    return {**saved, "folder": where}


def vectors(run: Run, saved: Saved, vocabulary: str) -> DataFrame:
    """Return id, vector, context, norm and count of every token, read from a checkpoint by an ordinary job."""
    sizes = [int(size) for size in saved["rows"]]
    pieces = [
        (shard, first, min(first + _PIECE_ROWS, size))
        for shard, size in enumerate(sizes)
        for first in range(0, size, _PIECE_ROWS)
    ]
    rows = run.spark.createDataFrame(pieces, "shard int, first long, stop long").repartition(len(pieces))
    return rows.mapInArrow(_read(saved, vocabulary), _VECTORS)


def _complete(run: Run) -> list[str]:
    parent = f"{run.folder}/checkpoints"
    return [name for name in files.children(parent) if files.exists(f"{parent}/{name}/{_MANIFEST}")]


def _read(saved: Saved, vocabulary: str) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        lookup = Lookup.open(vocabulary)
        shards = plan.shards(lookup.counts, int(saved["workers"]), float(saved["sample"]), lookup.folder)
        dim = int(saved["dim"])
        for batch in batches:
            for piece in batch.to_pylist():
                shard, first, stop = piece["shard"], piece["first"], piece["stop"]
                ids = shards.ids(shard)
                where = f"{saved['folder']}/{saved['inputs'][shard]}"
                for row, vector in shard_io.read_rows(where, len(ids), dim, first, stop):
                    outputs = f"{saved['folder']}/{saved['outputs'][shard]}"
                    context = (
                        next(shard_io.read_rows(outputs, len(ids), dim, row, row + len(vector)))[1]
                        if saved["context"]
                        else None
                    )
                    yield from _rows(lookup, ids[row : row + len(vector)], vector, context).to_batches(4096)

    return read


def _rows(lookup: Lookup, ids: np.ndarray, vector: np.ndarray, context: np.ndarray | None) -> pa.Table:
    dim = vector.shape[1]
    offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * dim)
    lists = pa.list_(pa.float32())
    return pa.table(
        {
            "id": lookup.tokens(ids),
            "vector": pa.ListArray.from_arrays(offsets, pa.array(vector.ravel())),
            "context": pa.nulls(len(ids), lists)
            if context is None
            else pa.ListArray.from_arrays(offsets, pa.array(context.ravel())),
            "norm": np.linalg.norm(vector.astype(np.float64), axis=1),
            "count": np.asarray(lookup.counts[ids]),
        }
    )
