"""Pictures to vectors in Spark tasks: bytes in, threads that decode ahead of the network, batches of one size."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from embedall_spark.config import MOVABLE, Section
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.images import backbones, devices, image_reader
from embedall_spark.images.decode import BadImage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    import torch
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.images.backbones import BackboneConfig
    from embedall_spark.images.backbones.inference import Model
    from embedall_spark.sources.image_limits import Limits

_INPUT = ("id", "content", "path", "origin", "known")
_FACTS = "size int, fingerprint string, problem string"
_RESULT = "id string, vector array<float>, norm double, digest string, origin string, problem string"
_NOT_FINITE = "the network's features are not finite"
# Rows without a picture for the network that wait for a batch to be full.
_ROWS = 1000


class FeaturizeConfig(Section):
    """How tasks run the network."""

    batch_size: int | None = Field(
        None, ge=1, le=4096, description="pictures that go through the network at once; unset: 8 on a CPU, 64 on a GPU",
        json_schema_extra=MOVABLE,
    )  # fmt: skip
    threads: int | None = Field(
        None, ge=1, description="threads of the network in a task; unset: the task's share of its executor's cores",
        json_schema_extra=MOVABLE,
    )  # fmt: skip
    decode_threads: int | None = Field(
        None, ge=1, le=256, description="threads in a task that open and decode pictures ahead of the network; unset: "
        "as many as threads, 2 at least; more help where a store answers slowly",
        json_schema_extra=MOVABLE,
    )  # fmt: skip
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="numbers that the network computes with; auto: bfloat16 where the hardware is made for it and the "
        "network's vectors keep a cosine of 0.999 with those in float32 (few networks do)",
    )
    compile: bool = Field(
        False, description="torch.compile the network: minutes at the start of each process", json_schema_extra=MOVABLE
    )
    normalize: bool = Field(True, description="whether vectors have length 1; their norm is kept in any case")
    device: str | None = Field(
        None, description="where the network runs in tasks that Spark gives no GPU, such as cuda:0; unset: the CPU",
        json_schema_extra=MOVABLE,
    )  # fmt: skip
    gpus_per_task: float | None = Field(
        None, gt=0, le=1, description="GPUs that each of these tasks asks for, 0.25: four share one; unset: what the "
        "session says (spark.task.resource.gpu.amount); local masters have none",
        json_schema_extra=MOVABLE,
    )  # fmt: skip


class BackboneInfo(NamedTuple):
    """What is to be known of a network before it is used."""

    size: int
    """Length of a vector."""
    fingerprint: str


class _Row(NamedTuple):
    """A picture on its way to a vector."""

    id: str | None
    origin: str | None
    digest: str | None = None
    problem: str | None = None
    pixels: torch.Tensor | None = None


class _Work(NamedTuple):
    """What a task must know; small, and pickled with it."""

    backbone: BackboneConfig
    config: FeaturizeConfig
    limits: Limits
    fingerprint: str
    threads: int


def describe(spark: SparkSession, backbone: BackboneConfig) -> BackboneInfo:
    """Return facts of a network, as a task finds them, since it is tasks that must be able to load it.

    Raises:
        ConfigError: a task cannot load it.
    """
    row = spark.range(0, 1, 1, 1).mapInArrow(_facts(backbone), _FACTS).collect()[0]
    if row.problem is not None:
        raise ConfigError(row.problem)
    return BackboneInfo(row.size, row.fingerprint)


def featurize(
    pictures: DataFrame, backbone: BackboneConfig, config: FeaturizeConfig, limits: Limits, fingerprint: str
) -> DataFrame:
    """Return the vectors of pictures, lazily, a row for each row and in their order.

    Args:
        pictures: ``id``, ``content`` (the encoded picture) or ``path`` (of its file), ``origin``, and ``known``: the
            digest that a table has for this id, or null.
        backbone: the network.
        config: how tasks run it.
        limits: of what is decoded.
        fingerprint: of the network, as describe() gives it; a task that finds another one fails.

    Returns:
        ``id, vector, norm, digest, origin, problem``: the vector, of length 1 if so configured; its norm before that; a
        digest of content and network. Where that is ``known``, nothing is decoded, and vector and problem are null.
        Where there is a problem, vector and norm are null.
    """
    spark = pictures.sparkSession
    cores = config.threads or devices.threads(spark, config.gpus_per_task)
    work = _Work(backbone, config, limits, fingerprint, cores)
    profile = devices.profile(spark, config.gpus_per_task)
    return pictures.select(*_INPUT).mapInArrow(_task(work), _RESULT, profile=profile)


def one(content: bytes, backbone: BackboneConfig, config: FeaturizeConfig, limits: Limits) -> NDArray[np.float32]:
    """Return the vector of one picture, float32 [d], made on this process; as featurize() makes it.

    Raises:
        BadData: it is not a picture that can be used.
        ConfigError: the network cannot be loaded.
    """
    from embedall_spark.images.backbones import inference

    model = inference.model(backbone, config.device or "cpu", config.dtype, config.compile)
    try:
        found = model.vectors([model.pixels(content, limits)], config.normalize)
    except BadImage as why:
        raise BadData(f"the picture cannot be used: {why}") from None
    if not found.finite[0]:
        raise BadData(f"the picture cannot be used: {_NOT_FINITE}")
    vector: NDArray[np.float32] = found.values[0]
    return vector


def _facts(backbone: BackboneConfig) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            try:
                found = backbones.load(backbone)
                row = {"size": found.size, "fingerprint": found.fingerprint, "problem": None}
            except ConfigError as error:
                row = {"size": None, "fingerprint": None, "problem": str(error)}
            types = [("size", pa.int32()), ("fingerprint", pa.string()), ("problem", pa.string())]
            yield pa.RecordBatch.from_pylist([row], schema=pa.schema(types))

    return look


def _task(work: _Work) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import torch

        from embedall_spark.images.backbones import inference

        # Beside other tasks of the host; a worker process has one task at a time.
        torch.set_num_threads(work.threads)
        config, device = work.config, devices.of_task(work.config.device)
        model = inference.model(work.backbone, device, config.dtype, config.compile, work.fingerprint)
        size = config.batch_size or (64 if device.startswith("cuda") else 8)
        with closing(_ahead(_rows(batches), work, model, size)) as rows:
            for block in _blocks(rows, size):
                yield _made(block, model, config.normalize)

    return run


def _blocks(rows: Iterable[_Row], size: int) -> Iterator[list[_Row]]:
    """Yield rows in order, with ``size`` pictures for the network at a time, or fewer where most rows have none."""
    block: list[_Row] = []
    pictures = 0
    for row in rows:
        block.append(row)
        pictures += row.pixels is not None
        if pictures == size or len(block) == _ROWS:
            yield block
            block, pictures = [], 0
    if block:
        yield block


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """Yield rows one at a time, so that no more of their bytes are copied out of Arrow than are on their way."""
    for batch in batches:
        for at in range(batch.num_rows):
            yield {name: batch.column(name)[at].as_py() for name in _INPUT}


def _ahead(rows: Iterable[dict[str, Any]], work: _Work, model: Model, size: int) -> Generator[_Row, None, None]:
    """Yield rows with their pixels, in order, while threads go at most a batch ahead of the one that is asked for."""
    threads = work.config.decode_threads or max(2, work.threads)
    waiting: deque[Any] = deque()
    with ThreadPoolExecutor(threads, "decode", _alone) as pool:
        try:
            for row in rows:
                waiting.append(pool.submit(_pixels, row, work, model))
                if len(waiting) >= size + threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Closed early: what has not begun must not.
            pool.shutdown(wait=False, cancel_futures=True)


def _alone() -> None:
    """Keep torch's own threads out of a thread that decodes: there are as many of those as cores."""
    import torch
    from threadpoolctl import threadpool_limits

    # It sets this thread's number the first time that it is asked, which must be before the limit.
    torch.get_num_threads()
    threadpool_limits(1, "openmp")


def _pixels(row: dict[str, Any], work: _Work, model: Model) -> _Row:
    """Return a row as it is before the network: with pixels, a problem, or the digest that is known already."""
    found = _Row(row["id"], row["origin"])
    if row["content"] is None and row["path"] is None:
        return found._replace(problem=f"neither content nor path: {row['id']}")
    try:
        content = (
            row["content"] if row["content"] is not None else image_reader.read(row["path"], work.limits.max_bytes)
        )
    except (OSError, pa.ArrowException) as error:
        return found._replace(problem=f"cannot be read: {error}")
    digest = f"{hashlib.sha256(content).hexdigest()[:32]}-{work.fingerprint}"
    if digest == row["known"]:
        return found._replace(digest=digest)
    try:
        return found._replace(digest=digest, pixels=model.pixels(content, work.limits))
    except BadImage as why:
        return found._replace(problem=f"{why}: {row['id']}")


def _made(rows: list[_Row], model: Model, normalize: bool) -> pa.RecordBatch:
    """Return the result of some rows, their pictures through the network at once."""
    pixels = [row.pixels for row in rows if row.pixels is not None]
    found = model.vectors(pixels, normalize)
    embedded = np.array([row.pixels is not None for row in rows])
    problems = [row.problem for row in rows]
    for at in np.flatnonzero(embedded)[~found.finite]:
        problems[at] = f"{_NOT_FINITE}: {rows[at].id}"
    embedded[embedded] = found.finite
    ends = np.concatenate([[0], np.cumsum(embedded) * model.size]).astype(np.int32)
    norms = np.zeros(len(rows))
    norms[embedded] = found.norms[found.finite]
    columns = [
        pa.array([row.id for row in rows], pa.string()),
        pa.ListArray.from_arrays(ends, found.values[found.finite].ravel(), mask=pa.array(~embedded)),
        pa.array(norms, mask=~embedded),
        pa.array([row.digest if told is None else None for row, told in zip(rows, problems, strict=True)], pa.string()),
        pa.array([row.origin for row in rows], pa.string()),
        pa.array(problems, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["id", "vector", "norm", "digest", "origin", "problem"])
