"""Pictures to vectors: pictures/s through Spark beside a bare torch loop, and how good each network's vectors are.

Fashion products (4,000 photos of 224 pixels), decoding included, on 2 cores, in a warm session. Rates are of the shared
MobileNetV2: decoding alone, the network alone, both, and how many decoding cores keep one device busy. Quality is of
each network at hand: 1-NN accuracy of the article's type, each photo against all others, and precision among the 10
nearest. --memory measures instead what a worker holds while pictures go by; with --small decoding is most of their
work.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import common
import numpy as np
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import session
from embedall_spark.images import backbones, featurize
from embedall_spark.images.backbones import BackboneConfig, inference
from embedall_spark.images.featurize import FeaturizeConfig
from embedall_spark.sources.image_limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

    Pictures = list[tuple[str, str]]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WEIGHTS = DATA / "weights"
NETWORKS = {
    "mobilenet_v2": BackboneConfig(name="mobilenet_v2", weights=str(WEIGHTS / "mobilenet_v2_tv_v1_features.fp16.pt")),
    "efficientnet_lite0": BackboneConfig(),
    "squeezenet1_1": BackboneConfig(name="squeezenet1_1", weights=str(WEIGHTS / "squeezenet1_1.fp16.pt")),
}
TIMED, LIGHT = "mobilenet_v2", "squeezenet1_1"
SMALL = BackboneConfig(name="images:small")
PEERS, QUICK_PEERS = ("loop", "loader", "processes"), ("loop",)
# Of so few pictures, the half second that a Spark job takes is a fifth.
QUICK_GOALS = {"spark_over_bare": 0.7}
GOALS = {
    "spark_over_bare": 0.9,
    "spark_over_processes": 0.9,
    # What a bare loop over the same network's features gives, to three places.
    "mobilenet_v2_accuracy_1nn": 0.8235,
    "mobilenet_v2_precision_10": 0.7225,
}
MEMORY_GOALS = {"memory_of_few_over_many": 0.9}
ROUNDS, QUICK_ROUNDS = 3, 1
TIMED_PICTURES, QUICK_PICTURES = 1000, 96
MANY, QUICK_MANY = 100_000, 1000
# As people write it.
BATCH = 32
NEAREST = 10
LIMITS = Limits()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--pictures", type=int, help="use only so many pictures")
    parser.add_argument("--memory", action="store_true", help="memory of a worker over few and over many pictures")
    parser.add_argument("--small", action="store_true", help="with --memory: a network for pictures of 64 pixels")
    parser.add_argument("--device", default="cpu", help="device of the parts' rates, such as cuda:0")
    parser.add_argument("--parts", action="store_true", help="only the rates of decoding and of the network, no Spark")
    parser.add_argument("--bare", nargs=2, metavar=("PEER", "PICTURES"), help="time a loop without Spark")
    options = parser.parse_args(arguments)
    if options.bare:
        print(json.dumps({"rate": bare(options.bare[0], fashion(int(options.bare[1]))[0])}))
        return
    goals, ratios = MEMORY_GOALS if options.memory else QUICK_GOALS if options.quick else GOALS, {}
    if not WEIGHTS.exists():
        print("no pictures: the shared data are not beside this checkout", flush=True)
    else:
        if not options.quick:
            common.announce(25)
        pictures, labels = fashion(options.pictures or (QUICK_PICTURES if options.quick else None))
        if options.memory:
            ratios = memory(
                pictures, QUICK_MANY if options.quick else MANY, SMALL if options.small else NETWORKS[LIGHT]
            )
        else:
            sample = pictures[:: max(1, len(pictures) // TIMED_PICTURES)]
            ratios = parts([path for _, path in sample], options.device)
            if options.parts:
                print(common.result("images", ratios, {}))
                return
            ratios |= rates(sample, options.quick)
            if not options.quick:
                ratios |= qualities(pictures, labels)
        session.get("images").stop()
    print(common.result("images", ratios, goals))


def fashion(most: int | None) -> tuple[Pictures, list[str]]:
    """Return ids and paths of the products' photos, and their article types; ``most`` of them, spread evenly."""
    folder = DATA / "images" / "fashion_products_4k"
    with (folder / "products.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if most is not None:
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
    pictures = [(row["id"], str(folder / "images" / f"{row['id']}.jpg")) for row in rows]
    return pictures, [row["articleType"] for row in rows]


def rates(pictures: Pictures, quick: bool) -> dict[str, float]:
    """Return our rate as a multiple of each peer's, medians over rounds in turns."""
    spark = session.get("images", master=f"local[{common.THREADS}]")
    network = NETWORKS[TIMED]
    fingerprint = featurize.describe(spark, network).fingerprint
    table = frame(spark, pictures)
    warm_up = frame(spark, pictures[:32])
    ways: dict[str, Callable[[DataFrame], DataFrame]] = {
        "ours": lambda rows: featurize.featurize(rows, network, FeaturizeConfig(), LIMITS, fingerprint),
        "ours_batch_32": lambda rows: featurize.featurize(
            rows, network, FeaturizeConfig(batch_size=BATCH), LIMITS, fingerprint
        ),
        "predict_batch_udf": lambda rows: rows.select("id", predicting(network)("path").alias("vector")),
    }
    if quick:
        ways = {"ours": ways["ours"]}
    measured_rates: dict[str, list[float]] = {}
    for name in ways:
        drain(ways[name](warm_up))
    for turn in range(QUICK_ROUNDS if quick else ROUNDS):
        for name, way in ways.items():
            measured_rates.setdefault(name, []).append(len(pictures) / drain(way(table)))
        for peer in QUICK_PEERS if quick else PEERS:
            command = common.this_python(__file__, "--bare", peer, str(len(pictures)))
            measured_rates.setdefault(peer, []).append(common.measured(command).said["rate"])
        common.say(f"pictures/s, round {turn + 1}", **{name: values[-1] for name, values in measured_rates.items()})
    if not quick and importlib.util.find_spec("daft") is not None:
        measured_rates["daft"] = [with_daft(pictures)]
    elif not quick:
        print("daft is not installed: pip install daft to compare with it too", flush=True)
    middle = {name: median(values) for name, values in measured_rates.items()}
    common.say("pictures/s", **middle)
    ratios = {f"spark_over_{name}": middle["ours"] / rate for name, rate in middle.items() if name != "ours"}
    # The better of the two that one writes by hand.
    ratios["spark_over_bare"] = middle["ours"] / max(middle["loop"], middle.get("loader", 0.0))
    return {"pictures_per_second": middle["ours"], **ratios}


def parts(paths: list[str], device: str) -> dict[str, float]:
    """Return pictures/s of decoding on one core, of the network on a device, and of both as a task does it.

    A CPU's rates are per second of one core's time, so that they hold on a busy machine; a GPU's are per second.
    ``decoding_cores_per_device``: how many cores decode as fast as the device computes, a core of it where it is a CPU.
    """
    import pyarrow as pa
    import torch

    torch.set_num_threads(1)
    network, on_gpu = NETWORKS[TIMED], device.startswith("cuda")
    model = inference.load_model(network, device, "float32")
    size = 64 if on_gpu else 8
    contents = [Path(path).read_bytes() for path in paths]
    model.vectors([model.pixels(content, LIMITS) for content in contents[:size]], True)
    since = time.process_time()
    pixels = [model.pixels(content, LIMITS) for content in contents]
    decode = len(pixels) / (time.process_time() - since)
    clock = time.perf_counter if on_gpu else time.process_time
    since = clock()
    for start in range(0, len(pixels), size):
        model.vectors(pixels[start : start + size], True)
    alone = len(pixels) / (clock() - since)
    config = FeaturizeConfig(device=device if on_gpu else None)
    options = featurize.TaskOptions(network, config, LIMITS, backbones.load(network).fingerprint, 1)
    rows = [dict.fromkeys(featurize.INPUT) | {"id": path, "path": path} for path in paths]
    schema = pa.schema([(name, pa.binary() if name == "content" else pa.string()) for name in featurize.INPUT])
    run = featurize.task(options)
    since = clock()
    embedded = sum(batch.num_rows for batch in run([pa.RecordBatch.from_pylist(rows, schema=schema)]))
    both = embedded / (clock() - since)
    values = {"decode_per_core": decode, "network_per_device": alone, "both": both}
    common.say(f"pictures/s, {device}", **values)
    return {**values, "decoding_cores_per_device": alone / decode}


def frame(spark: SparkSession, pictures: Pictures, repeats: int = 1) -> DataFrame:
    """Return pictures as featurize() takes them, in four tasks a core."""
    nothing = F.lit(None)
    rows = spark.createDataFrame(pictures, "id string, path string")
    if repeats > 1:
        rows = rows.crossJoin(spark.range(repeats).select(F.col("id").alias("again")))
        rows = rows.select(F.concat_ws("-", "id", "again").alias("id"), "path")
    spread = rows.repartition(4 * common.THREADS, "id")
    columns = {"content": nothing.cast("binary"), "known": nothing.cast("string"), "origin": F.col("path")}
    return spread.withColumns(columns).persist()


def drain(rows: DataFrame) -> float:
    """Make all rows and keep none; return the seconds."""
    since = time.perf_counter()
    rows.write.format("noop").mode("overwrite").save()
    return time.perf_counter() - since


def predicting(network: BackboneConfig) -> Callable[..., Any]:
    """Return Spark's own way of the same."""
    from pyspark.ml.functions import predict_batch_udf

    def make() -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        import torch

        torch.set_num_threads(1)
        backbone = backbones.load(network)

        def predict(paths: NDArray[Any]) -> NDArray[np.float32]:
            pixels = torch.stack([pixels_of(path, backbone) for path in paths])
            with torch.inference_mode():
                vectors: NDArray[np.float32] = backbone.module(pixels).numpy()
                return vectors

        return predict

    return predict_batch_udf(make, return_type=T.ArrayType(T.FloatType()), batch_size=BATCH)


def pixels_of(path: str, backbone: backbones.Backbone) -> Any:
    """Return a picture as a network takes it, as one reads a file by hand."""
    from PIL import Image

    with Image.open(path) as picture:
        return backbone.transform(picture.convert("RGB"))


def bare(peer: str, pictures: Pictures) -> float:
    """Return pictures/s without Spark, the network loaded before.

    loop: decode a batch, run it. loader: torch's DataLoader decodes in processes, one per core. processes: a loop in a
    process per core over its share, with all that featurize() does to the network: what is left is Spark's own cost.
    """
    paths = [path for _, path in pictures]
    if peer == "processes":
        return in_processes(paths)
    import torch

    torch.set_num_threads(common.THREADS)
    backbone = backbones.load(NETWORKS[TIMED])

    def batches() -> Iterator[torch.Tensor]:
        if peer == "loader":
            # Its worker processes are forked from this one.
            yield from torch.utils.data.DataLoader(
                Paths(paths, backbone), BATCH, num_workers=common.THREADS, multiprocessing_context="fork"
            )
            return
        for i in range(0, len(paths), BATCH):
            yield torch.stack([pixels_of(path, backbone) for path in paths[i : i + BATCH]])

    with torch.inference_mode():
        backbone.module(torch.stack([pixels_of(path, backbone) for path in paths[:BATCH]]))
        since = time.perf_counter()
        count = sum(len(backbone.module(pixels)) for pixels in batches())
    return count / (time.perf_counter() - since)


def in_processes(paths: list[str]) -> float:
    """Return the pictures/s of a process per core, from when all of them have run the network once."""
    count = common.THREADS
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        warm = [pool.submit(share_of, paths[i::count][:16], 2.0) for i in range(count)]
        wait(warm)
        since = time.perf_counter()
        wait([pool.submit(share_of, paths[i::count]) for i in range(count)])
        return len(paths) / (time.perf_counter() - since)


def share_of(paths: list[str], pause: float = 0.0) -> None:
    """Run the network over some pictures in this process; a pause leaves the next share to another one."""
    import torch

    torch.set_num_threads(1)
    model = inference.load_model(NETWORKS[TIMED], "cpu", "float32")
    for i in range(0, len(paths), 8):
        model.vectors([model.pixels(Path(path).read_bytes(), LIMITS) for path in paths[i : i + 8]], True)
    time.sleep(pause)


class Paths:
    """Files as torch's DataLoader wants them."""

    def __init__(self, paths: list[str], backbone: backbones.Backbone) -> None:
        self.paths, self.backbone = paths, backbone

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        return pixels_of(self.paths[i], self.backbone)


def with_daft(pictures: Pictures) -> float:
    """Return pictures/s of Daft with a function over batches, a network per process."""
    import daft

    @daft.udf(return_dtype=daft.DataType.list(daft.DataType.float32()), batch_size=BATCH, concurrency=common.THREADS)
    class Embed:
        def __init__(self) -> None:
            import torch

            torch.set_num_threads(1)
            self.backbone = backbones.load(NETWORKS[TIMED])

        def __call__(self, paths: Any) -> Any:
            import torch

            with torch.inference_mode():
                return list(
                    self.backbone.module(
                        torch.stack([pixels_of(path, self.backbone) for path in paths.to_pylist()])
                    ).numpy()
                )

    rows = daft.from_pydict({"path": [path for _, path in pictures]}).into_partitions(4 * common.THREADS)
    since = time.perf_counter()
    count = len(rows.select(Embed(daft.col("path"))).collect())
    return count / (time.perf_counter() - since)


def qualities(pictures: Pictures, labels: list[str]) -> dict[str, float]:
    """Return 1-NN accuracy and precision among the ten nearest, of the vectors that Spark makes with each network."""
    spark = session.get("images")
    ratios: dict[str, float] = {}
    for name, network in NETWORKS.items():
        facts = featurize.describe(spark, network)
        raw = FeaturizeConfig(normalize=False)
        rows = featurize.featurize(frame(spark, pictures), network, raw, LIMITS, facts.fingerprint)
        table = rows.select("id", "vector").toArrow()
        place = {key: i for i, key in enumerate(table["id"].to_pylist())}
        vectors = common.matrix(table["vector"])[[place[key] for key, _ in pictures]]
        figures = neighbors(vectors, labels)
        common.say(name, **figures)
        ratios |= {f"{name}_{figure}": value for figure, value in figures.items()}
    return ratios


def neighbors(vectors: NDArray[np.float32], labels: list[str]) -> dict[str, float]:
    """Return how well the nearest other vectors share a label.

    ``accuracy_1nn``: the nearest by distance between vectors as the network gives them; ``accuracy_1nn_cosine`` by
    their direction, and so is ``precision_10``, the share among the ten nearest.
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kinds = np.unique(labels, return_inverse=True)[1]
    by_euclid, by_cosine = (kinds[nearest(rows)] == kinds[:, None] for rows in (vectors, unit))
    return {
        "accuracy_1nn": float(by_euclid[:, 0].mean()),
        "accuracy_1nn_cosine": float(by_cosine[:, 0].mean()),
        "precision_10": float(by_cosine.mean()),
    }


def nearest(rows: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the ten nearest other rows of each, the nearest first."""
    scores = 2 * rows @ rows.T - (rows**2).sum(1)
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]


def small() -> tuple[Any, Any]:
    """Return the lightest network and a transform to pictures of 64 pixels; tasks call it."""
    from embedall_spark.images.vision_library import transforms

    steps = [transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()]
    return backbones.load(NETWORKS[LIGHT]).module, transforms.Compose(steps)


def memory(pictures: Pictures, many: int, network: BackboneConfig) -> dict[str, float]:
    """Return how a worker's own memory over few pictures compares with that over many, the same ones repeated."""
    # For tasks to find small().
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    spark = session.get("images", master=f"local[{common.THREADS}]")
    fingerprint = featurize.describe(spark, network).fingerprint
    peaks: list[int] = []
    for repeats in (1, -(-many // len(pictures))):
        rows = featurize.featurize(frame(spark, pictures, repeats), network, FeaturizeConfig(), LIMITS, fingerprint)
        peak, seconds = peak_of_a_worker(lambda rows=rows: drain(rows))
        peaks.append(peak)
        common.say("memory", pictures=len(pictures) * repeats, worker_mebibytes=peak / 2**20, seconds=seconds)
    return {"memory_of_few_over_many": peaks[0] / peaks[1], "worker_mebibytes": peaks[1] / 2**20}


def peak_of_a_worker(work: Callable[[], float]) -> tuple[int, float]:
    """Return the most bytes of its own that a Python worker held while ``work`` ran, and what that returned."""
    done, peak = threading.Event(), 0
    with ThreadPoolExecutor(1) as beside:
        result = beside.submit(work)
        result.add_done_callback(lambda _: done.set())
        while not done.wait(0.5):
            peak = max(peak, common.proportional(os.getpid())[1])
        return peak, result.result()


if __name__ == "__main__":
    main(sys.argv[1:])
