"""A start from the vectors of a table: the rows of ids that it has, and a first pass that trains the other ids alone.

The rows become a checkpoint, as a slice of the training would leave it. The new ids are then trained on the windows
around them, with all other rows put back afterward, so that they join the space that is there. GloVe's biases, which a
table has not, are trained in the same pass, over all counts.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark import files, list_offsets
from embedall_spark.corpus import blocks
from embedall_spark.corpus.vocabulary_index import VocabularyIndex, ids_in
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.randomness import mix_arrays
from embedall_spark.schemas import VECTORS, conform
from embedall_spark.sources import reader_errors
from embedall_spark.train import checkpoint, methods, plan, shard_io, slice_state
from embedall_spark.vectors import dimension, to_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.corpus.blocks import Block
    from embedall_spark.run_context import Run
    from embedall_spark.train.config import TrainConfig
    from embedall_spark.train.plan import Corpus
    from embedall_spark.train.shard_io import Manifest

    Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)

LOADED, NEW_IDS = -2, -1
"""Numbers of the epochs before the first: the table's rows, and the pass over the new ids."""
# Measured, see docs/log.md: as often as a training from nothing would see a window, at the mean of its rates.
_PASSES, _RATE = 5, 0.0125
_STAGE = "new-ids"
_PLACED = "shard int, row int, vector array<float>, context array<float>"


def read(spark: SparkSession, config: TrainConfig) -> DataFrame:
    """Return VECTORS of the table that a training starts from.

    Raises:
        BadData: there is no such table or version, or it has no rows.
        ConfigError: its vectors have another dimension, or it has no context vectors.
    """
    assert config.start is not None
    name, version = files.table_and_version(config.start)
    reader = spark.read if version is None else spark.read.option("versionAsOf", version)
    rows = conform(reader_errors.opened(name, "delta", lambda: reader.table(files.identifier(name))), VECTORS)
    size = dimension(rows)
    if size != config.vector_size:
        raise ConfigError(
            f"train.start={config.start}: its vectors have {size} dimensions, and train.vector_size is "
            f"{config.vector_size}; set train.vector_size={size}, or leave train.start out"
        )
    if not rows.where("context IS NULL").isEmpty():
        raise ConfigError(
            f"train.start={config.start}: its rows have no context vectors, which training goes on with; make the "
            "table once more with train.context=true"
        )
    return rows


def begin(run: Run, vocabulary: DataFrame, folder: str, workers: int, config: TrainConfig) -> Manifest:
    """Write the checkpoint that the training starts from, and the stage of the new ids; return its manifest.

    Each shard's rows are written by one task, which reads them from the table; they do not pass through the driver.

    Args:
        run: where the checkpoint and the stage go.
        vocabulary: VOCABULARY.
        folder: the folder of its parquet files.
        workers: number of shards.
        config: the options of training.

    Raises:
        BadData: no id of the vocabulary is in the table.
        ConfigError: as read().
    """
    rows = read(run.spark, config).select(F.col("id").alias("token"), "vector", "context")
    new = run.stage(_STAGE, lambda: vocabulary.join(rows, "token", "left_anti").select("id", "count")).count()
    size = vocabulary.count()
    if new == size:
        raise BadData(f"train.start={config.start}: has none of the ids of this input; leave train.start out")
    log.info("start: %s of %s ids have vectors in %s", f"{size - new:,}", f"{size:,}", config.start)
    run.metric("start/new_ids", float(new))
    target = checkpoint.folder(run, LOADED, 0)
    files.delete(target)
    placed = vocabulary.select("id", "token").join(rows, "token").mapInArrow(_place(folder, workers, config), _PLACED)
    by_shard = placed.repartitionById(workers, "shard")
    reports = by_shard.mapInArrow(_write(folder, target, workers, config), slice_state.REPORT).collect()
    written = [json.loads(row.report) for row in sorted(reports, key=lambda row: int(row.rank))]
    return checkpoint.write(run, {
        "folder": target, "epoch": LOADED if new or config.method == "glove" else NEW_IDS, "index": 0,
        "slices": 1, "episodes": 1, "workers": workers,
        "lengths": dict(zip(("inputs", "outputs"), methods.of(config).saved_lengths(config), strict=True)),
        **{name: [report[name] for report in written] for name in ("rows", "inputs", "outputs")},
        "ngrams": 0, "history": [], "sample": config.sample,
    })  # fmt: skip


def options(config: TrainConfig) -> TrainConfig:
    """Return the options of the pass over the new ids."""
    return config.model_copy(update={"alpha": _RATE, "min_alpha": _RATE, "epochs": 1})


def corpus(run: Run, whole: Corpus, config: TrainConfig) -> Corpus:
    """Return the estimated sizes of the pass over the new ids; ``whole`` has those of all sequences, or cells."""
    if config.method == "glove":
        return whole
    row = run.read_stage(_STAGE).agg(F.sum("count")).first()
    occurrences = int(row[0] or 0) if row else 0
    share = min(1.0, occurrences * (2 * config.window + 1) / whole.tokens)
    tokens = max(1, round(_PASSES * share * whole.tokens))
    return dataclasses.replace(whole, tokens=tokens, kept=_PASSES * share * whole.kept)


def stage(run: Run) -> str:
    """Return the folder of the stage of the new ids."""
    return run.stage_path(_STAGE)


def around_new_ids(sequences: DataFrame, folder: str, config: TrainConfig) -> DataFrame:
    """Return the parts of BLOCKS around new ids, so long that their windows are whole; each several times.

    Of GloVe it is all CELLS: the biases of all ids are new, too, since a table has none.
    """
    if config.method == "glove":
        return sequences
    return sequences.mapInArrow(_cut_out(folder, config.window), blocks.BLOCKS)


def put_back(slice_: slice_state.Slice, rank: int, inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> None:
    """Give all rows of a shard but the new ids' what they had of the table before the slice."""
    assert slice_.new_ids is not None
    assert slice_.resume_from is not None
    vocabulary = VocabularyIndex.open(slice_.vocabulary)
    workers, sample = slice_.plan.workers, slice_.config.sample

    def shards_of(count: int, matrix: str) -> plan.Shards:
        return plan.shards(vocabulary.counts, count, sample, vocabulary.folder)

    kept = np.flatnonzero(~np.isin(shards_of(workers, "inputs").ids(rank), ids_in(slice_.new_ids), assume_unique=True))
    columns = methods.of(slice_.config).start_columns(slice_.config)
    before = shard_io.load(slice_.resume_from, rank, workers, shards_of)
    for rows, saved in zip((inputs, outputs), before, strict=True):
        rows[kept[:, None], columns] = saved[kept[:, None], columns]


def _place(folder: str, workers: int, config: TrainConfig) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Build the task's function: adds each row's shard, and its place there."""

    def place(batches: Batches) -> Iterator[pa.RecordBatch]:
        vocabulary = VocabularyIndex.open(folder)
        shards = plan.shards(vocabulary.counts, workers, config.sample, vocabulary.folder)
        for batch in batches:
            ids = batch["id"].to_numpy()
            columns = [pa.array(shards.shard[ids]), pa.array(shards.local[ids]), batch["vector"], batch["context"]]
            yield pa.RecordBatch.from_arrays(columns, ["shard", "row", "vector", "context"])

    return place


def _write(
    folder: str, target: str, workers: int, config: TrainConfig
) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Build the task's function: writes a shard's two files; ids that the table lacks begin as without a start."""

    def write(batches: Batches) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        rank, vocabulary = context.partitionId(), VocabularyIndex.open(folder)
        ids = plan.shards(vocabulary.counts, workers, config.sample, vocabulary.folder).ids(rank)
        sides = methods.of(config).initial_rows(ids, config)
        for batch in batches:
            vectors, contexts = to_matrix(batch["vector"]), to_matrix(batch["context"])
            inputs, rows = methods.of(config).start_inputs(vectors, contexts, config), batch["row"].to_numpy()
            for side, values in zip(sides, (inputs, contexts), strict=True):
                side[rows, : config.vector_size] = values
        lengths = methods.of(config).saved_lengths(config)
        written: dict[str, object] = {"rows": len(ids)}
        for side, name, length in zip(sides, ("inputs", "outputs"), lengths, strict=True):
            written[name] = shard_io.save(target, f"{name}-{rank}", side, length)
        yield pa.RecordBatch.from_arrays(
            [pa.array([rank], pa.int32()), pa.array([json.dumps(written)])], ["rank", "report"]
        )

    return write


def _cut_out(folder: str, window: int) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    def cut_out(batches: Batches) -> Iterator[pa.RecordBatch]:
        ids = ids_in(folder)
        unpacked = (block for batch in batches for block in blocks.unpack(batch))
        parts = (around(block, np.isin(block.tokens, ids), window) for block in unpacked)
        yield from blocks.pack(part for part in parts if len(part.tokens))

    return cut_out


def around(block: Block, chosen: NDArray[np.bool_], window: int) -> Block:
    """Return the parts of a block's sequences that are within ``window`` tokens of chosen ones, several times each.

    Args:
        block: the sequences.
        chosen: which of its tokens, bool [m].
        window: tokens to each side.
    """
    sequence = np.repeat(np.arange(len(block.ids)), np.diff(block.offsets))
    places = np.flatnonzero(chosen)
    first = np.maximum(places - window, block.offsets[sequence[places]])
    stop = np.minimum(places + window + 1, block.offsets[sequence[places] + 1])
    change = np.bincount(first, minlength=len(chosen) + 1) - np.bincount(stop, minlength=len(chosen) + 1)
    near = np.flatnonzero(np.cumsum(change)[:-1])
    # A part ends where the next token is another sequence's, or is near to none.
    begins = np.flatnonzero((np.diff(near, prepend=-2) != 1) | (np.diff(sequence[near], prepend=-1) != 0))
    lengths = np.tile(np.diff(begins, append=len(near)), _PASSES)
    passes = np.repeat(np.arange(_PASSES), len(begins))
    ids = mix_arrays(np.tile(block.ids[sequence[near[begins]]], _PASSES), np.tile(near[begins], _PASSES), passes)
    tokens = np.tile(block.tokens[near], _PASSES)
    return block._replace(ids=ids, offsets=list_offsets.from_lengths(lengths), tokens=tokens)
