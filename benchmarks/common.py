"""What the benchmarks share: their corpus, processes measured from outside, one evaluation for all, the last line."""

from __future__ import annotations

import argparse
import bz2
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from embedall_spark import run_manifest, run_store, user_cache
from embedall_spark.evaluate import benchmark_files as sets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import SparkSession

    from embedall_spark.kinds.words import Config

    Quality = dict[str, float]

THREADS = 2
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "wiki_en_100mb.tsv.bz2"
# As many tokens as text8 has.
WHOLE = 17_005_207
_LINE = 1000
_DIGITS = dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))
_PAUSE = 0.25
_PAGE = os.sysconf("SC_PAGE_SIZE")
_AMONG = 30_000


def options(about: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="small sizes, warm rates only: a minute on 2 cores")
    parser.add_argument("--corpus", type=Path, help="text file, a document per line; default: Wikipedia, shared data")
    parser.add_argument("--tokens", type=int, help="use only so many tokens from the corpus's beginning")
    return parser


def announce(minutes: int) -> None:
    """Say beforehand how long the full form of a benchmark takes."""
    print(f"takes about {minutes} minutes on 2 cores; --quick takes one", flush=True)


def result(name: str, ratios: Mapping[str, float], goals: Mapping[str, float]) -> str:
    """Return the line of JSON that ends a benchmark; a goal is the least value of a ratio, met only if measured."""
    rounded = {key: round(float(value), 4) for key, value in ratios.items()}
    met = all(rounded.get(key, float("nan")) >= goal for key, goal in goals.items())
    return json.dumps({"benchmark": name, "ratios": rounded, "goals": dict(goals), "met": met})


def say(what: str, **facts: Any) -> None:
    """Print a partial result as soon as it is there."""
    shown = {key: round(value, 4) if isinstance(value, float) else value for key, value in facts.items()}
    print(f"{what}: {json.dumps(shown)}", flush=True)


def absent(peer: str) -> bool:
    """Tell whether a peer is not installed, and say so."""
    if importlib.util.find_spec(peer) is not None:
        return False
    print(f"{peer} is not installed: nothing to compare with; make install brings it", flush=True)
    return True


def corpus(file: Path | None, tokens: int | None, work: str) -> Path | None:
    """Return a file with a document per line; None, with a printed reason, if there is no text.

    Without ``file`` it has the first ``tokens`` of the shared Wikipedia articles under text8's rules, 1,000 tokens a
    line, written once to our cache folder. The first ``tokens`` of ``file`` are copied to the folder ``work``.
    """
    if file is not None and not file.is_file():
        print(f"--corpus {file}: no such file", flush=True)
        return None
    if file is not None and tokens is None:
        return file
    if file is None and not SHARED.is_file():
        print("no corpus: the shared data are not beside this checkout; give --corpus LINES_FILE", flush=True)
        return None
    size = WHOLE if tokens is None else tokens
    folder = Path(work) if file else user_cache.folder("benchmarks") or Path(work)
    target = folder / f"first-{size}.lines"
    if not target.exists():
        hidden = target.with_suffix(f".{os.getpid()}")
        with hidden.open("w", encoding="utf-8") as out:
            out.writelines(_first(_lines(file) if file else _text8(SHARED), size))
        hidden.replace(target)
    return target


def _lines(file: Path) -> Iterator[list[str]]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            yield line.split()


def _text8(file: Path) -> Iterator[list[str]]:
    """Yield lines of 1,000 tokens from (id, title, text) rows: lower case, digits spelled out, nothing but a to z."""
    left: list[str] = []
    with bz2.open(file, "rt", encoding="utf-8") as rows:
        for row in rows:
            text = re.sub("[0-9]", lambda digit: f" {_DIGITS[int(digit[0])]} ", row.split("\t", 2)[2].lower())
            left += re.sub("[^a-z]+", " ", text).split()
            while len(left) >= _LINE:
                yield left[:_LINE]
                del left[:_LINE]
    yield left


def _first(lines: Iterable[list[str]], tokens: int) -> Iterator[str]:
    for line in lines:
        yield " ".join(islice(line, tokens)) + "\n"
        tokens -= len(line)
        if tokens <= 0:
            return


class Measured(NamedTuple):
    """A process, seen from outside."""

    seconds: float
    peak_bytes: int
    """Most resident memory of it and all below it; pages that processes share count in each."""
    said: dict[str, Any]
    """The last line that it printed, which is JSON."""


def measured(command: Sequence[str], limit: float = 1800) -> Measured:
    """Run a process to its end.

    Raises:
        RuntimeError: it failed, or took more than ``limit`` seconds and was ended.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        since = time.perf_counter()
        with subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, _tree_bytes(process.pid))
                if time.perf_counter() - since > limit:
                    os.killpg(process.pid, signal.SIGKILL)
                try:
                    process.wait(_PAUSE)
                except subprocess.TimeoutExpired:
                    continue
        seconds = time.perf_counter() - since
        output.seek(0)
        errors.seek(0)
        lines = output.read().splitlines()
        if process.returncode != 0:
            raise RuntimeError(f"{command[:3]} failed ({process.returncode}): {errors.read()[-2000:]}")
    return Measured(seconds, peak, json.loads(lines[-1]))


def _tree(root: int) -> list[int]:
    """Return the ids of a process and of all below it."""
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold anything; the second field after it is the parent.
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    pids, level = [], [root]
    while level:
        pids += level
        level = [pid for pid, parent in parents.items() if parent in level]
    return pids


def _tree_bytes(root: int) -> int:
    """Return the resident memory of a process and all below it, in bytes."""
    total = 0
    for pid in _tree(root):
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return total


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and all below it, those that ended and were waited for included."""
    ticks = 0
    for pid in _tree(os.getpid()):
        with suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def proportional(root: int) -> tuple[int, int]:
    """Return the memory of a process and all below it, shared pages counted once, and the most of a Python worker.

    Both in bytes; a worker's is what it has of its own, mapped files left out.
    """
    total = greatest = 0
    for pid in _tree(root):
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            total += kib["Pss"] << 10
            if pid != root and Path(f"/proc/{pid}/exe").resolve().name.startswith("python"):
                greatest = max(greatest, kib["Anonymous"] << 10)
    return total, greatest


def quality(words: Sequence[str], vectors: NDArray[np.float32]) -> Quality:
    """Return analogy accuracy among the 30,000 most frequent words (3CosAdd), and Spearman on WS-353 and SimLex-999.

    Analogies count together and as semantic and syntactic ones, whose sections' names begin with "gram".
    ``words`` are by falling frequency; the sets are those in gensim's package.
    """
    from gensim.test.utils import datapath
    from scipy.stats import spearmanr

    rows = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    place = {word: row for row, word in enumerate(words)}
    figures: Quality = {}
    for name, file in (("ws353", "wordsim353.tsv"), ("simlex", "simlex999.txt")):
        pairs = [(a.lower(), b.lower(), score) for a, b, score in sets.pairs(datapath(file))]
        rated = [(place[a], place[b], score) for a, b, score in pairs if a in place and b in place]
        left, right, scores = (np.array(column) for column in zip(*rated, strict=True))
        figures[name] = float(spearmanr(scores, np.einsum("ij,ij->i", rows[left], rows[right])).statistic)
    rows = rows[:_AMONG]
    sections, questions = zip(*sets.questions(datapath("questions-words.txt")), strict=True)
    indices = np.array([[place.get(word.lower(), _AMONG) for word in words] for words in questions])
    used = indices.max(axis=1) < len(rows)
    indices, syntactic = indices[used], np.char.startswith(sections, "gram")[used]
    answers = []
    for part in np.array_split(indices, len(indices) // 1000 + 1):
        scores = (rows[part[:, 1]] - rows[part[:, 0]] + rows[part[:, 2]]) @ rows.T
        np.put_along_axis(scores, part[:, :3], -9, axis=1)
        answers.append(scores.argmax(axis=1) == part[:, 3])
    right = np.concatenate(answers)
    kinds = {"analogy": right, "semantic": right[~syntactic], "syntactic": right[syntactic]}
    return {name: float(kind.mean()) for name, kind in kinds.items()} | figures


def read_words(folder: str) -> pa.Table:
    """Return id, vector and count of a table of words with one commit, so that all files in it are live, by count."""
    table = pq.read_table(folder, columns=["id", "vector", "count"], partitioning=None)
    return table.sort_by([("count", "descending"), ("id", "ascending")])


def matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a column of vectors of one length as float32 [n, d]."""
    return np.concatenate([np.asarray(chunk.flatten()) for chunk in column.chunks]).reshape(len(column), -1)


def open_run(spark: SparkSession, root: Path, name: str, config: Config) -> run_store.StoredRun:
    """Return a run as launch() makes it, without a table and without tracking."""
    folder, manifest = run_manifest.begin(str(root), "words", config, "benchmark", name)
    quiet = run_store.Tracker(lambda *_: None, lambda *_: None, None)
    return run_store.StoredRun(spark, folder, manifest, config.output, quiet)


def checkpoints(folder: str) -> list[dict[str, Any]]:
    """Return the manifests of the checkpoints that a run has kept, the last two slices', in order."""
    return [json.loads(file.read_text()) for file in sorted(Path(folder).glob("checkpoints/*/manifest.json"))]


def this_python(*arguments: str) -> list[str]:
    """Return a command of this Python."""
    return [sys.executable, *arguments]


def embedall(*arguments: str) -> list[str]:
    """Return a command that runs ``embedall`` in this Python."""
    return this_python("-c", "from embedall_spark.cli import main; main()", *arguments)
