"""A network is trained on labelled pictures by Spark's TorchDistributor, and kept without its last layer."""

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
_ROWS = 4_000  # pictures that a task decodes
_SHARES = 10_000
_POLL_SECONDS = 1.0
_LOST = "a process of the training died, see above for what it said; run again to go on after the last finished epoch"


class TrainedOutput(Section):
    """Where a trained network goes."""

    file: OutputPath = Field(description="file of the network: a path or URI that all hosts see; replaced if it exists")
    rejects: OutputPath | None = Field(
        None, description="table of refused pictures; unset: the file's name with _rejects", json_schema_extra=MOVABLE
    )
    max_reject_share: float = Field(
        0.01, ge=0, le=1, description="stop where a larger share of the pictures is refused", json_schema_extra=MOVABLE
    )
    run_root: OutputPath | None = Field(
        None,
        description="folder of the runs' stages and checkpoints, shared by hosts; unset: .runs beside the file",
    )
    experiment: str | None = Field(
        None, description="MLflow experiment; unset: embedall/backbone", json_schema_extra=MOVABLE
    )

    @property
    def stored(self) -> Output:
        """The same for what knows tables only; the file's name without its suffix stands for the table's."""
        name = self.file.removesuffix(".pt")
        return Output(table=name if "/" in name else f"./{name}", **self.model_dump(exclude={"file"}))


class Config(Section):
    """Configuration of ``embedall train-backbone``."""

    input: ImagesConfig
    output: TrainedOutput
    train: TrainConfig = TrainConfig()


class Trained(NamedTuple):
    """What a training has made."""

    content: bytes
    """The file that backbones.trained.load() reads."""
    figures: dict[str, float]
    classes: int


def estimate(pictures: DataFrame, config: TrainConfig) -> dict[str, int]:
    """Return how many pictures (IMAGES) have a label, how many labels there are, and the bytes of the decoded pixels.

    Raises:
        BadData: fewer than two labels, or more than MAX_CLASSES.
        ConfigError: there is no such network, or its pictures are too small.
    """
    trainable_networks.header_of(config.architecture, config.side, config.grey, config.vector_size, [])
    labelled = pictures.where("problem IS NULL AND label IS NOT NULL").select("label")
    found, classes = labelled.count(), labelled.distinct().count()
    _check_classes(classes)
    return {"pictures": found, "classes": classes, "pixel_bytes": found * config.side**2 * (1 if config.grey else 3)}


def train(run: Run, pictures: DataFrame, config: TrainConfig, limits: Limits) -> Trained:
    """Train a network to tell the labels of pictures.

    Pictures are decoded once, by Spark's tasks, into a stage of pixels, which every host that trains copies to its own
    disk: height x width bytes a picture, three times that in colour. Called again with the same run, it goes on
    after the last finished epoch.

    Args:
        run: where stages, checkpoints, figures and rejects go.
        pictures: IMAGES; those without a label are left out.
        config: what learns, and how.
        limits: of what is decoded.

    Raises:
        BadData: fewer than two labels, or more than MAX_CLASSES, or too many pictures were refused.
        ConfigError: there is no such network, or its weights cannot be used.
        TrainingDiverged: the loss is not finite.
        WorkerLost: a process of the training died; what it has said is on standard error.
    """
    classes, rows = _classes(run, pictures)
    header = trainable_networks.header_of(config.architecture, config.side, config.grey, config.vector_size, classes)
    found = run.stage("pictures", lambda: _decoded(pictures, classes, rows, config, limits))
    run.reject(tabular.rejects(found))
    run.check_reject_share(*tabular.reject_counts(found))
    folder = f"{run.folder}/checkpoints"
    if not files.exists(f"{folder}/{train_loop.RESULT}"):
        arguments = (run.stage_path("pictures"), folder, config.model_dump_json(), header.model_dump_json())
        with _shown(run, folder, config.epochs):
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
    return Trained(content, figures, len(classes))


def _classes(run: Run, pictures: DataFrame) -> tuple[list[str], int]:
    """Return the labels in order, and how many pictures have one."""
    counts = run.stage("classes", lambda: pictures.where("problem is null").groupBy("label").count())
    table = counts.orderBy("label").limit(MAX_CLASSES + 2).toArrow()
    found = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    if unlabelled := found.pop(None, 0):
        log.warning("%s pictures have no label and are left out", f"{unlabelled:,}")
    _check_classes(len(found))
    return sorted(found), sum(found.values())


def _check_classes(count: int) -> None:
    if not 2 <= count <= MAX_CLASSES:
        what = f"over {MAX_CLASSES:,}" if count > MAX_CLASSES else f"{count}"
        raise BadData(
            f"the pictures have {what} different labels, need 2 to {MAX_CLASSES:,}; check the column of labels"
        )


def _decoded(pictures: DataFrame, classes: list[str], rows: int, config: TrainConfig, limits: Limits) -> DataFrame:
    """Return shards.SCHEMA of the labelled pictures."""
    # Which pictures are held out depends on nothing but their ids.
    place = F.pmod(F.xxhash64(F.lit("held out"), "id"), F.lit(_SHARES))
    columns = [F.xxhash64("id").alias("key"), (place < round(config.held_out * _SHARES)).alias("held_out")]
    columns += [F.col(name) for name in ("label", "content", "path", "origin", "problem")]
    chosen = pictures.where("label is not null or problem is not null").select(*columns)
    known = {label: place for place, label in enumerate(classes)}
    dealt = chosen.repartition(rows // _ROWS + 1, "key")
    return dealt.mapInArrow(pixel_shards.drawer(known, config.side, config.grey, limits), pixel_shards.SCHEMA)


@contextmanager
def _shown(run: Run, folder: str, epochs: int) -> Iterator[None]:
    """Record the figures of each epoch as it ends, while the caller waits for the training."""
    seen, over = len(_history(folder)), threading.Event()

    def look() -> None:
        nonlocal seen
        for number, epoch in enumerate(_history(folder)[seen:], seen + 1):
            for name, value in epoch.items():
                run.metric(f"train/{name}", value, number)
            note = ", ".join(f"{name} {value:.4f}" for name, value in epoch.items() if name != "seconds")
            run.progress("train", number, epochs, note)
            seen = number

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        look()


def _history(folder: str) -> list[Epoch]:
    if not files.exists(f"{folder}/{train_loop.HISTORY}"):
        return []
    found: list[Epoch] = json.loads(files.read_bytes(f"{folder}/{train_loop.HISTORY}"))
    return found
