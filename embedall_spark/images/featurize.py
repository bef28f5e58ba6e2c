"""Turns pictures into vectors in Spark tasks: threads decode ahead of the network, which gets batches of one size."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from embedall_spark import devices, extras, list_offsets
from embedall_spark.config import MOVABLE, Section
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.images import backbones, image_reader
from embedall_spark.images.decode import BadImage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    import torch
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    from embedall_spark.images.backbones import BackboneConfig
    from embedall_spark.images.backbones.inference import Model
    from embedall_spark.sources.image_limits import Limits

INPUT = ("id", "content", "path", "origin", "known")
_INFO = "size int, fingerprint string, problem string"
_RESULT = "id string, vector array<float>, norm double, digest string, origin string, problem string"
_NOT_FINITE = "the network's features are not finite"
# A block ends after so many rows, even if it has too few pictures for a full batch.
_MAX_BLOCK_ROWS = 1000


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
        description="number format that the network computes in; auto: bfloat16 where the hardware supports it "
        "directly and the network's vectors keep a cosine of 0.999 with those in float32 (few networks do)",
    )
    compile: bool = Field(
        False, description="torch.compile the network: minutes at the start of each process", json_schema_extra=MOVABLE
    )
    normalize: bool = Field(True, description="scale vectors to length 1; their original norm is stored in any case")
    device: str | None = Field(
        None, description="device of tasks to which Spark assigns no GPU, such as cuda:0; unset: the CPU",
        json_schema_extra=MOVABLE,
    )  # fmt: skip
    gpus_per_task: float | None = Field(
        None, gt=0, le=1, description="share of a GPU that each of these tasks requests, 0.25: four tasks share one; "
        "unset: as the session says (spark.task.resource.gpu.amount); ignored by local masters",
        json_schema_extra=MOVABLE,
    )  # fmt: skip


class BackboneInfo(NamedTuple):
    """What is known about a network before it is used."""

    size: int
    """Dimension of its vectors."""
    fingerprint: str


class _Row(NamedTuple):
    """A picture on its way to a vector."""

    id: str | None
    origin: str | None
    digest: str | None = None
    problem: str | None = None
    pixels: torch.Tensor | None = None


class TaskOptions(NamedTuple):
    """What a task needs to know; small, and pickled with it."""

    backbone: BackboneConfig
    config: FeaturizeConfig
    limits: Limits
    fingerprint: str
    threads: int


def describe(spark: SparkSession, backbone: BackboneConfig, text: bool = False) -> BackboneInfo:
    """Return dimension and fingerprint of a network, loaded by a task, since it is tasks that must be able to load it.

    With ``text`` its text side is loaded too; both sides have the same dimension.

    Raises:
        ConfigError: a task cannot load it, or a host lacks what networks need.
    """
    extras.check_hosts(spark, extras.IMAGES, f"backbone.name: the network {backbone.name}")
    row = spark.range(0, 1, 1, 1).mapInArrow(_info_reader(backbone, text), _INFO).collect()[0]
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
        limits: which pictures are too large to be decoded.
        fingerprint: of the network, as describe() returns it; a task whose network has another one fails.

    Returns:
        ``id, vector, norm, digest, origin, problem``: the vector, float32 [d], of length 1 if so configured; its norm
        before that; a digest of content and network. Where that equals ``known``, nothing is decoded, and vector and
        problem are null. Where there is a problem, vector and norm are null.
    """
    spark = pictures.sparkSession
    cores = config.threads or devices.threads(spark, config.gpus_per_task)
    options = TaskOptions(backbone, config, limits, fingerprint, cores)
    profile = devices.resource_profile(spark, config.gpus_per_task)
    return pictures.select(*INPUT).mapInArrow(task(options), _RESULT, profile=profile)


def featurize_one(
    content: bytes, backbone: BackboneConfig, config: FeaturizeConfig, limits: Limits
) -> NDArray[np.float32]:
    """Return the vector of one picture, float32 [d], as featurize() computes it, but in this process.

    Raises:
        BadData: the picture cannot be used.
        ConfigError: the network cannot be loaded.
    """
    from embedall_spark.images.backbones import inference

    model = inference.load_model(backbone, config.device or "cpu", config.dtype, config.compile)
    try:
        features = model.vectors([model.pixels(content, limits)], config.normalize)
    except BadImage as error:
        raise BadData(f"the picture cannot be used: {error}") from None
    if not features.finite[0]:
        raise BadData(f"the picture cannot be used: {_NOT_FINITE}")
    vector: NDArray[np.float32] = features.values[0]
    return vector


def _info_reader(
    backbone: BackboneConfig, text: bool
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read_info(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            try:
                network = backbones.load_text(backbone) if text else backbones.load(backbone)
                row = {"size": network.size, "fingerprint": network.fingerprint, "problem": None}
            except ConfigError as error:
                row = {"size": None, "fingerprint": None, "problem": str(error)}
            types = [("size", pa.int32()), ("fingerprint", pa.string()), ("problem", pa.string())]
            yield pa.RecordBatch.from_pylist([row], schema=pa.schema(types))

    return read_info


def task(options: TaskOptions) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Build the task's function, which maps batches of INPUT to rows as featurize() returns them, in their order."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import torch

        from embedall_spark.images.backbones import inference

        # Other tasks of the host have their own worker processes, and one task at a time each.
        torch.set_num_threads(options.threads)
        config, device = options.config, devices.task_device(options.config.device)
        model = inference.load_model(options.backbone, device, config.dtype, config.compile, options.fingerprint)
        size = config.batch_size or (64 if device.startswith("cuda") else 8)
        with closing(_decode_ahead(_rows(batches), options, model, size)) as rows:
            for block in _blocks(rows, size):
                yield _to_batch(block, model, config.normalize)

    return run


def _blocks(rows: Iterable[_Row], size: int) -> Iterator[list[_Row]]:
    """Yield rows in order, with ``size`` pictures for the network at a time, or fewer where most rows have none."""
    block: list[_Row] = []
    pictures = 0
    for row in rows:
        block.append(row)
        pictures += row.pixels is not None
        if pictures == size or len(block) == _MAX_BLOCK_ROWS:
            yield block
            block, pictures = [], 0
    if block:
        yield block


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """Yield rows one at a time, so that no more bytes are copied out of Arrow than are being decoded."""
    for batch in batches:
        for index in range(batch.num_rows):
            yield {name: batch.column(name)[index].as_py() for name in INPUT}


def _decode_ahead(
    rows: Iterable[dict[str, Any]], options: TaskOptions, model: Model, size: int
) -> Generator[_Row, None, None]:
    """Yield rows with their pixels, in order, while threads decode at most one batch ahead of the consumer."""
    threads = options.config.decode_threads or max(2, options.threads)
    waiting: deque[Any] = deque()
    with ThreadPoolExecutor(threads, "decode", _limit_threads) as pool:
        try:
            for row in rows:
                waiting.append(pool.submit(_decode, row, options, model))
                if len(waiting) >= size + threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # When closed early, pictures that wait are not decoded.
            pool.shutdown(wait=False, cancel_futures=True)


def _limit_threads() -> None:
    """Keep a decoding thread from starting torch threads of its own: there are as many such threads as cores."""
    import torch
    from threadpoolctl import threadpool_limits

    # The first call sets this thread's number of threads, which must happen before the limit.
    torch.get_num_threads()
    threadpool_limits(1, "openmp")


def _decode(row: dict[str, Any], options: TaskOptions, model: Model) -> _Row:
    """Return a row with the pixels for the network, or with a problem, or with a digest that is known already."""
    decoded = _Row(row["id"], row["origin"])
    content, path, limits = row["content"], row["path"], options.limits
    if content is None and path is None:
        return decoded._replace(problem=f"neither content nor path: {row['id']}")
    try:
        content = image_reader.read(path, limits.max_bytes) if content is None else content
    except (OSError, pa.ArrowException) as error:
        return decoded._replace(problem=f"cannot be read: {error}")
    digest = f"{hashlib.sha256(content).hexdigest()[:32]}-{options.fingerprint}"
    if digest == row["known"]:
        return decoded._replace(digest=digest)
    try:
        return decoded._replace(digest=digest, pixels=model.pixels(content, limits))
    except BadImage as error:
        return decoded._replace(problem=f"{error}: {row['id']}")


def _to_batch(rows: list[_Row], model: Model, normalize: bool) -> pa.RecordBatch:
    """Return rows as they are stored, their pictures run through the network as one batch."""
    features = model.vectors([row.pixels for row in rows if row.pixels is not None], normalize)
    embedded = np.array([row.pixels is not None for row in rows])
    problems = [row.problem for row in rows]
    for index in np.flatnonzero(embedded)[~features.finite]:
        problems[index] = f"{_NOT_FINITE}: {rows[index].id}"
    embedded[embedded] = features.finite
    ends = (list_offsets.from_lengths(embedded) * model.size).astype(np.int32)
    norms = np.zeros(len(rows))
    norms[embedded] = features.norms[features.finite]
    digests = [row.digest if problem is None else None for row, problem in zip(rows, problems, strict=True)]
    columns = [
        pa.array([row.id for row in rows], pa.string()),
        pa.ListArray.from_arrays(ends, features.values[features.finite].ravel(), mask=pa.array(~embedded)),
        pa.array(norms, mask=~embedded),
        pa.array(digests, pa.string()),
        pa.array([row.origin for row in rows], pa.string()),
        pa.array(problems, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["id", "vector", "norm", "digest", "origin", "problem"])
