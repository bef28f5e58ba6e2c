"""A billion tokens on two cores: words from text to a Delta table, at 10 million, 100 million and a billion tokens.

The text is made by Spark: documents of 1,000 tokens, Zipf's law over a million words. Nine of ten rarer tokens
of a document belong to its topic, so that the nearest neighbors of a word should have its topic. Texts, finished points
and a point's unfinished run are kept in --folder: a benchmark that was stopped goes on where it was. With --cluster the
workers are those of a standalone cluster on this machine, with one thread each; then a second run is killed at a random
moment and started again, and must end in the same table.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cluster
import common
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark import randomness, session, user_cache

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

POINTS, QUICK_POINTS = (10_000_000, 100_000_000, 1_000_000_000), (300_000, 1_000_000)
VOCABULARY, TOPICS, COMMON_WORDS, LENGTH = 1_000_000, 100, 1_000, 1_000
# Cost per token may grow by 15 %, memory be the model and 4 GiB, an estimate be wrong by a factor of 1.5.
GOALS = {"cost_per_token_first_over_last": 1 / 1.15, "memory_limit_over_used": 1.0, "right_neighbors": 0.9}
QUICK_GOALS = {"right_neighbors": 0.0}
MASTER = f"local[{common.THREADS}]"
_STAGE = re.compile(r" INFO ([a-z-]+): done in ([0-9.]+) s")
_NEEDS = re.compile(r"estimated ([0-9,]+) s, and for each worker ([0-9.]+) GiB")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--points", type=int, nargs="+", help="tokens of each point; default: 10M, 100M and 1 billion")
    parser.add_argument("--dims", type=int, nargs="+", default=[100], help="vector sizes")
    parser.add_argument("--workers", type=int, default=1, help="barrier tasks that share the model")
    parser.add_argument("--cluster", action="store_true", help="on a standalone cluster; a second run is killed")
    parser.add_argument("--folder", type=Path, help="where texts and results are kept; default: the cache folder")
    options = parser.parse_args(arguments)
    folder = options.folder or user_cache.folder("benchmarks")
    if folder is None:
        raise SystemExit("no folder to keep texts in; give --folder")
    root = folder / "billion"
    points = options.points or (QUICK_POINTS if options.quick else POINTS)
    if not options.quick and options.points is None:
        common.announce(60)
    ratios: dict[str, float] = {}
    for dim in options.dims:
        results = []
        for tokens in points:
            results.append(point(root, tokens, dim, options.workers, options.cluster))
            common.say(f"{tokens:,} tokens, d={dim}", **results[-1])
        ratios |= {f"{name}_d{dim}": value for name, value in compare(results).items()}
    goals = QUICK_GOALS if options.quick else GOALS
    print(common.result("billion", ratios, {f"{name}_d{options.dims[0]}": goal for name, goal in goals.items()}))


def compare(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return what the points say together; fixed costs are taken off by the difference of neighboring points."""
    costs = [
        (after["seconds"] - before["seconds"]) / (after["tokens"] - before["tokens"])
        for before, after in pairwise(results)
    ]
    last = results[-1]
    ratios = {
        "memory_limit_over_used": (last["model_bytes"] + (4 << 30)) / last["peak_bytes"],
        "right_neighbors": last["right_neighbors"],
        "seconds_over_estimated": last["seconds"] / max(1, last["estimated_seconds"]),
        "memory_over_estimated": last["worker_peak_bytes"] / last["estimated_memory_bytes"],
        "training_seconds_over_estimated": last["training_seconds"] / max(1, last["estimated_training_seconds"]),
        "memory_over_estimated_in_training": last["worker_peak_bytes"] / last["estimated_training_memory_bytes"],
    }
    if "same_after_kill" in last:
        ratios["same_after_kill"] = last["same_after_kill"]
    if len(costs) > 1:
        ratios["cost_per_token_first_over_last"] = costs[0] / costs[-1]
    return ratios


def point(root: Path, tokens: int, dim: int, workers: int, on_cluster: bool) -> dict[str, Any]:
    """Return the figures of a point, measured now or earlier."""
    name = f"{tokens}-d{dim}-w{workers}{'-cluster' if on_cluster else ''}"
    result = root / f"{name}.json"
    if not result.exists():
        text, folder = write_text(root / f"text-{tokens}", tokens), root / name
        if on_cluster:
            with cluster.standalone(workers, folder / "cluster") as (address, properties):
                command = _command(text, folder, dim, workers, address)
                command += ["--properties", str(properties), "--set", "train.threads=1"]
                facts = measure(command, folder)
                facts |= kill_and_resume(command, folder, facts["seconds"])
        else:
            facts = measure(_command(text, folder, dim, workers, MASTER), folder)
        result.write_text(json.dumps({"tokens": tokens, **facts}, indent=1))
        shutil.rmtree(folder)
    return dict(json.loads(result.read_text()))


def kill_and_resume(command: Sequence[str], folder: Path, seconds: float) -> dict[str, Any]:
    """Return when a second run was killed, and whether its table is, after another start, the first run's."""
    again = [part.replace(f"{folder}/words", f"{folder}/words-again") for part in command]
    moment = float(np.random.default_rng().uniform(0.2, 0.9)) * seconds
    with (folder / "log-killed.txt").open("w") as log:
        process = subprocess.Popen(again, stdout=log, stderr=log, start_new_session=True)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with (folder / "log-again.txt").open("w") as log:
        subprocess.run(again, check=True, stdout=log, stderr=log)
    first, second = (common.read_words(f"{folder}/{name}") for name in ("words", "words-again"))
    return {"killed_after_seconds": moment, "same_after_kill": float(first.equals(second))}


def write_text(folder: Path, tokens: int) -> Path:
    """Write the documents by Spark, a line each, once."""
    if not (folder / "_SUCCESS").exists():
        since = time.perf_counter()
        spark = session.get("billion", master=MASTER)
        documents = spark.range(0, tokens // LENGTH, 1, max(2, tokens // 25_000_000))
        documents.mapInArrow(_documents, "value string").write.mode("overwrite").text(str(folder))
        spark.stop()
        common.say("text", tokens=tokens, seconds=time.perf_counter() - since)
    return folder


def _documents(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    words = pa.array([f"w{token}" for token in range(VOCABULARY)])
    for batch in batches:
        for part in range(0, batch.num_rows, 500):
            numbers = batch.column(0).to_numpy()[part : part + 500]
            random = randomness.generator(int(numbers[0]))
            # Log-uniform ranks follow Zipf's law with exponent 1.
            ranks = ((VOCABULARY + 1.0) ** random.random((len(numbers), LENGTH))).astype(np.int64) - 1
            topics = random.integers(TOPICS, size=(len(numbers), 1))
            of_topic = (random.random(ranks.shape) < 0.9) & (ranks >= COMMON_WORDS)
            ranks = np.where(of_topic, ranks // TOPICS * TOPICS + topics, ranks).clip(max=VOCABULARY - 1)
            offsets = pa.array(np.arange(0, ranks.size + 1, LENGTH, dtype=np.int32))
            lists = pa.ListArray.from_arrays(offsets, words.take(pa.array(ranks.ravel())))
            yield pa.RecordBatch.from_arrays([pc.binary_join(lists, " ")], ["value"])


def _command(text: Path, folder: Path, dim: int, workers: int, master: str) -> list[str]:
    """Return ``embedall words`` on the text."""
    values = {"train.vector_size": dim, "train.epochs": 1, "train.workers": workers, "evaluate.map_words": 0}
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return common.embedall("words", f"{text}/part-*", f"{folder}/words", "--master", master, *overrides)


def measure(command: list[str], folder: Path) -> dict[str, Any]:
    """Return figures of ``embedall words``, and of what its dry run has said before."""
    dry = subprocess.run([*command, "--dry-run"], check=True, capture_output=True, text=True).stdout
    estimate = json.loads(dry.splitlines()[-1])
    folder.mkdir(parents=True, exist_ok=True)
    log, since, peak, worker_peak = folder / "log.txt", time.perf_counter(), 0, 0
    before = common.cpu_seconds()
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        while process.poll() is None:
            total, worker = common.proportional(process.pid)
            peak, worker_peak = max(peak, total), max(worker_peak, worker)
            time.sleep(1)
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise RuntimeError(log.read_text()[-2000:])
    seconds = time.perf_counter() - since
    table = common.read_words(f"{folder}/words")
    saved = common.checkpoints(json.loads(output.splitlines()[-1])["folder"])
    report = saved[-1]["reports"]
    trained, memory = (float(value.replace(",", "")) for value in _NEEDS.findall(log.read_text())[0])
    return {
        "seconds": seconds,
        "cpu_seconds": common.cpu_seconds() - before,
        "training_seconds": saved[-1]["figures"]["seconds"] * saved[-1]["slices"],
        "stages": {name: float(value) for name, value in _STAGE.findall(log.read_text())},
        "words_per_second": sum(part["tokens"] for part in report) / max(part["seconds"]["train"] for part in report),
        "vocabulary": table.num_rows,
        "model_bytes": 2 * table.num_rows * len(table["vector"][0]) * 4,
        "peak_bytes": peak,
        "worker_peak_bytes": worker_peak,
        "disk_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "estimated_seconds": estimate["seconds"],
        "estimated_memory_bytes": estimate["worker_memory_bytes"],
        "estimated_training_seconds": trained,
        "estimated_training_memory_bytes": memory * 2**30,
        "right_neighbors": right_neighbors(table),
    }


def right_neighbors(table: pa.Table) -> float:
    """Return the share of the ten nearest neighbors with a word's topic, for the 500 most frequent words with one."""
    table = table.slice(0, 50_000)
    ranks = np.array([int(word[1:]) for word in table["id"].to_pylist()])
    vectors = common.matrix(table["vector"])
    topical = np.flatnonzero(ranks >= COMMON_WORDS)
    ranks, vectors = ranks[topical], vectors[topical]
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    queries = np.arange(min(500, len(ranks)))
    nearest = np.argsort(-(vectors[queries] @ vectors.T), axis=1)[:, 1:11]
    return float((ranks[nearest] % TOPICS == ranks[queries, None] % TOPICS).mean())


if __name__ == "__main__":
    main()
