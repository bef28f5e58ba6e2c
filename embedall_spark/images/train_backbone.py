"""Trains a network on labeled pictures with Spark's TorchDistributor, and keeps it without its last layer."""

from __future__ import annotations

import json
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field
from pyspark.sql import functions as F

from embedall_spark import files, torch_processes
from embedall_spark.config import MOVABLE, Output, OutputPath, Section
from embedall_spark.errors import BadData
from embedall_spark.images import pixel_shards, train_loop, trainable_networks
from embedall_spark.images.train_config import TrainConfig
from embedall_spark.sources import tabular
from embedall_spark.sources.image_config import ImagesConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame

    from embedall_spark.images.train_loop import Epoch
    from embedall_spark.run_context import Run
    from embedall_spark.sources.image_limits import Limits

log = logging.getLogger(__name__)

MAX_CLASSES = 10_000
_ROWS_PER_TASK = 4_000
_BUCKETS = 10_000
_POLL_SECONDS = 1.0
_LOST = "a training process died; its output is above. Run the command again to go on after the last finished epoch"


class TrainedOutput(Section):
    """Where a trained network goes."""

    file: OutputPath = Field(description="file of the network: a path or URI that all hosts see; replaced if it exists")
    rejects: OutputPath | None = Field(
        None, description="table of refused pictures; unset: the file's name with _rejects", json_schema_extra=MOVABLE
    )
    max_reject_share: float = Field(
        0.01, ge=0, le=1, description="stop if a larger share of the pictures is refused", json_schema_extra=MOVABLE
    )
    run_root: OutputPath | None = Field(
        None,
        description="folder of the runs' stages and checkpoints, shared by hosts; unset: .runs beside the file",
    )
    experiment: str | None = Field(
        None, description="MLflow experiment; unset: embedall/backbone", json_schema_extra=MOVABLE
    )

    @property
    def as_output(self) -> Output:
        """The output section of a run, in which the file's name without its suffix stands for the table's."""
        name = self.file.removesuffix(".pt")
        return Output(table=name if "/" in name else f"./{name}", **self.model_dump(exclude={"file"}))


class Config(Section):
    """Configuration of ``embedall train-backbone``."""

    input: ImagesConfig
    output: TrainedOutput
    train: TrainConfig = TrainConfig()


class TrainResult(NamedTuple):
    """The result of a training."""

    content: bytes
    """The file that backbones.trained.load() reads."""
    figures: dict[str, float]
    """Loss and accuracy of the last epoch."""
    classes: int
    """How many classes the network was trained on."""


def estimate(pictures: DataFrame, config: TrainConfig) -> dict[str, int]:
    """Return the number of labeled pictures (IMAGES) and of labels, and the bytes of the decoded pixels.

    Raises:
        BadData: fewer than two labels, or more than MAX_CLASSES.
        ConfigError: the network is unknown, or the pictures are too small for it.
    """
    trainable_networks.build_header(config.architecture, config.side, config.grey, config.vector_size, [])
    labels = pictures.where("problem IS NULL AND label IS NOT NULL").select("label")
    rows, classes = labels.count(), labels.distinct().count()
    _check_classes(classes)
    return {"pictures": rows, "classes": classes, "pixel_bytes": rows * config.side**2 * (1 if config.grey else 3)}


def train(run: Run, pictures: DataFrame, config: TrainConfig, limits: Limits) -> TrainResult:
    """Train a network to classify pictures by their labels.

    Pictures are decoded once, by Spark tasks, into a stage of pixels, which every host that trains copies to its own
    disk: height x width bytes per picture, three times that in color. Called again with the same run, training goes
    on after the last finished epoch.

    Args:
        run: where stages, checkpoints, figures and rejects go.
        pictures: IMAGES; those without a label are left out.
        config: the network and its training.
        limits: which pictures are too large to be decoded.

    Raises:
        BadData: fewer than two labels, or more than MAX_CLASSES, or too many pictures were refused.
        ConfigError: the network is unknown, or its weights cannot be used.
        TrainingDiverged: the loss is not finite.
        WorkerLost: a training process died; its output is on standard error.
    """
    classes, rows = _classes(run, pictures)
    header = trainable_networks.build_header(config.architecture, config.side, config.grey, config.vector_size, classes)
    pixels = run.stage("pictures", lambda: _decode(pictures, classes, rows, config, limits))
    run.reject(tabular.rejects(pixels))
    run.check_reject_share(*tabular.reject_counts(pixels))
    folder = f"{run.folder}/checkpoints"
    if not files.exists(f"{folder}/{train_loop.RESULT}"):
        arguments = (run.stage_path("pictures"), folder, config.model_dump_json(), header.model_dump_json())
        with _epoch_log(run, folder, config.epochs):
            torch_processes.run(
                run.spark,
                train_loop.fit,
                *arguments,
                folder=folder,
                lost=_LOST,
                processes=config.processes,
                gpu=config.gpu,
            )
    content = files.read_bytes(f"{folder}/{train_loop.RESULT}")
    run.artifact(train_loop.RESULT, content)
    last = _history(folder)[-1]
    figures = {f"train/{name}": value for name, value in last.items() if name != "seconds"}
    return TrainResult(content, figures, len(classes))


def _classes(run: Run, pictures: DataFrame) -> tuple[list[str], int]:
    """Return the labels in order, and how many pictures have one."""
    stage = run.stage("classes", lambda: pictures.where("problem is null").groupBy("label").count())
    table = stage.orderBy("label").limit(MAX_CLASSES + 2).toArrow()
    counts = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    if unlabeled := counts.pop(None, 0):
        log.warning("%s pictures have no label and are left out", f"{unlabeled:,}")
    _check_classes(len(counts))
    return sorted(counts), sum(counts.values())


def _check_classes(count: int) -> None:
    if not 2 <= count <= MAX_CLASSES:
        number = f"over {MAX_CLASSES:,}" if count > MAX_CLASSES else f"{count}"
        raise BadData(
            f"the pictures have {number} different labels, need 2 to {MAX_CLASSES:,}; check the column input.label"
        )


def _decode(pictures: DataFrame, classes: list[str], rows: int, config: TrainConfig, limits: Limits) -> DataFrame:
    """Return pixel_shards.SCHEMA of the labeled pictures."""
    # Which pictures are held out depends on nothing but their ids.
    bucket = F.pmod(F.xxhash64(F.lit("held out"), "id"), F.lit(_BUCKETS))
    columns = [F.xxhash64("id").alias("key"), (bucket < round(config.held_out * _BUCKETS)).alias("held_out")]
    columns += [F.col(name) for name in ("label", "content", "path", "origin", "problem")]
    labeled = pictures.where("label is not null or problem is not null").select(*columns)
    indexes = {label: index for index, label in enumerate(classes)}
    partitions = labeled.repartition(rows // _ROWS_PER_TASK + 1, "key")
    return partitions.mapInArrow(pixel_shards.converter(indexes, config.side, config.grey, limits), pixel_shards.SCHEMA)


@contextmanager
def _epoch_log(run: Run, folder: str, epochs: int) -> Iterator[None]:
    """Record the figures of each epoch as it ends, while the caller waits for the training."""
    logged, ended = len(_history(folder)), threading.Event()

    def log_new() -> None:
        nonlocal logged
        for number, epoch in enumerate(_history(folder)[logged:], logged + 1):
            for name, value in epoch.items():
                run.metric(f"train/{name}", value, number)
            note = ", ".join(f"{name} {value:.4f}" for name, value in epoch.items() if name != "seconds")
            run.progress("train", number, epochs, note)
            logged = number

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            log_new()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        log_new()


def _history(folder: str) -> list[Epoch]:
    if not files.exists(f"{folder}/{train_loop.HISTORY}"):
        return []
    history: list[Epoch] = json.loads(files.read_bytes(f"{folder}/{train_loop.HISTORY}"))
    return history
