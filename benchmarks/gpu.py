"""The kernel of skip-gram on a GPU: rates, share of what its memory allows, and quality beside the CPU's kernel.

Needs neither Spark nor data nor network: the tokens are drawn from a seed. Takes less than four minutes on one device,
compilation included. Without a GPU the same code runs in Triton's interpreter on a tiny input, as its last line says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

# Before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from embedall_spark.train.device import sgns_kernel, trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

_SIZES = [(128, 100_000), (300, 100_000), (128, 3_000_000), (300, 3_000_000)]
_TOKENS, _SECONDS = 1 << 23, 2.5
_TINY_SIZES, _TINY_TOKENS = [(128, 50), (300, 60)], 120
GOALS = {"resident_pairs_per_second_d128_v100000": 600e6, "pinned_over_resident_d128_v100000": 0.6}
QUALITY_GOALS = {"analogy_minus_cpu": -0.01, "ws353_minus_cpu": -0.01}


def rates(device: torch.device, seconds: float) -> dict[str, float]:
    """Return the rates of all sizes."""
    on_gpu, figures = device.type == "cuda", {}
    bytes_per_second = trial.bandwidth(device, 1 << (31 if on_gpu else 20))
    figures["bandwidth_bytes_per_second"] = bytes_per_second
    for dim, vocabulary in _SIZES if on_gpu else _TINY_SIZES:
        tokens = _TOKENS if on_gpu else _TINY_TOKENS
        here = trial.make(device, vocabulary, dim, tokens)
        resident, contexts = trial.resident_rate(here, seconds)
        pinned, end_to_end = trial.pinned_rate(here, seconds), trial.end_to_end_rate(here, seconds)
        name, bound = f"d{dim}_v{vocabulary}", trial.bound(bytes_per_second, dim, contexts)
        part = {
            f"resident_pairs_per_second_{name}": resident, f"pinned_pairs_per_second_{name}": pinned,
            f"end_to_end_pairs_per_second_{name}": end_to_end, f"resident_over_bound_{name}": resident / bound,
            f"pinned_over_resident_{name}": pinned / resident, f"contexts_per_group_{name}": contexts,
        }  # fmt: skip
        print(f"{name}: {json.dumps(_rounded(part))}", flush=True)
        figures |= part
        del here
    return figures


def kernel_error(device: torch.device) -> float:
    """Return the greatest difference of a row from numpy's in float64, in shares of the greatest step.

    No two groups share a row, so that their order makes no difference.
    """
    count, dim = (200, 128) if device.type == "cuda" else (6, 32)
    random = np.random.default_rng(1)
    sizes = random.integers(1, 11, count)
    stop = np.cumsum(sizes)
    inputs = random.standard_normal((stop[-1], dim)) * 0.3
    outputs = random.standard_normal((6 * count, dim)) * 0.3
    # Row 6 g is the center of group g, the next five are its negatives.
    centers, negatives = np.arange(count) * 6, np.delete(np.arange(6 * count), np.arange(count) * 6)
    columns = (np.arange(stop[-1]), centers, stop - sizes, stop, np.full(count, -1), [0, count])
    groups = sgns_kernel.Groups(*(torch.tensor(np.asarray(c, np.int32), device=device) for c in columns))
    model = [torch.tensor(rows, dtype=torch.float32, device=device) for rows in (inputs, outputs)]
    table, alpha = torch.tensor(negatives.astype(np.int32), device=device), 0.1
    sgns_kernel.train(groups, 0, *model, table, 0, alpha, 5, 32, 5, 64)
    expected = [inputs.copy(), outputs.copy()]
    label = np.eye(1, 6)
    for group in range(count):
        contexts, targets = slice(stop[group] - sizes[group], stop[group]), slice(6 * group, 6 * group + 6)
        steps = alpha * (label - 1 / (1 + np.exp(-inputs[contexts] @ outputs[targets].T)))
        expected[0][contexts] += steps @ outputs[targets]
        expected[1][targets] += steps.T @ inputs[contexts]
    step = max(np.abs(one - two).max() for one, two in zip(expected, (inputs, outputs), strict=True))
    error = max(np.abs(one - two.cpu().numpy()).max() for one, two in zip(expected, model, strict=True))
    return float(error / step)


def quality(file: Path, dim: int, epochs: int) -> dict[str, float]:
    """Return the quality of both kernels' vectors of a text file, and the GPU's minus the CPU's."""
    from common import quality as evaluate

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        words, counts, batches = _encode(file, Path(folder))
        for kind in ("cpu", "cuda"):
            since = time.perf_counter()
            vectors = _train(Path(folder), kind, counts, batches, dim, epochs)
            figures[f"{kind}_seconds"] = time.perf_counter() - since
            figures |= {f"{name}_{kind}": value for name, value in evaluate(words, vectors).items()}
    names = ("analogy", "ws353", "simlex")
    return figures | {f"{name}_minus_cpu": figures[f"{name}_cuda"] - figures[f"{name}_cpu"] for name in names}


def _encode(file: Path, folder: Path) -> tuple[list[str], NDArray[np.int64], list[pa.RecordBatch]]:
    """Write the VOCABULARY of a file's words; return words, counts, and BLOCKS of 2^16 tokens."""
    from collections import Counter

    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    counted = [(word, n) for word, n in Counter(w for line in lines for w in line).most_common() if n >= 5]
    words, counts = [word for word, _ in counted], np.array([n for _, n in counted])
    ids = {word: row for row, word in enumerate(words)}
    pq.write_table(pa.table({"id": np.arange(len(words)), "token": words, "count": counts}), folder / "part.parquet")
    encoded = (np.array([ids[word] for word in line if word in ids], np.int32) for line in lines)
    sequences = [tokens for tokens in encoded if len(tokens) > 1]
    batches, held, size = [], [], 0
    for number, tokens in enumerate(sequences):
        held.append((number, tokens))
        size += len(tokens)
        if size >= 1 << 16 or number == len(sequences) - 1:
            row = {
                "block": len(batches), "ids": np.array([n for n, _ in held], np.int64).tobytes(),
                "lengths": np.array([len(t) for _, t in held], np.int32).tobytes(),
                "tokens": np.concatenate([t for _, t in held]).tobytes(), "count": size,
            }  # fmt: skip
            batches.append(pa.RecordBatch.from_pylist([row]))
            held, size = [], 0
    return words, counts, batches


def _train(
    folder: Path, kind: Any, counts: NDArray[np.int64], batches: list[pa.RecordBatch], dim: int, epochs: int
) -> NDArray[np.float32]:
    """Train by the task of one worker, without Spark; return the vectors, float32 [V, dim]."""
    from embedall_spark.train import plan, shard_io, single_worker, slice_state
    from embedall_spark.train.config import TrainConfig

    config = TrainConfig(vector_size=dim, epochs=epochs)
    tokens = sum(batch.column("count")[0].as_py() for batch in batches)
    corpus = plan.Corpus(len(counts), tokens, float(tokens), len(batches))
    whole, before = plan.Plan(corpus, 1, os.cpu_count() or 1, 1, 1, kind), None
    for epoch in range(epochs):
        target = folder / f"{kind}-{epoch}"
        target.mkdir()
        slice_ = slice_state.Slice("benchmark", str(folder), str(target), before, whole, config, epoch, 0)
        report = json.loads(_only(single_worker._task(slice_)(iter(batches))).column("report")[0].as_py())
        lengths = {"inputs": dim, "outputs": dim}
        before = {"folder": str(target), "workers": 1, "lengths": lengths}
        before |= {matrix: [report[matrix]] for matrix in ("inputs", "outputs")}
    pieces = shard_io.read_rows(f"{target}/{report['inputs']}", len(counts), dim)
    return np.concatenate([rows for _, rows in pieces])


def _only(reports: Iterator[pa.RecordBatch]) -> pa.RecordBatch:
    (report,) = reports
    return report


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def main(arguments: list[str] | None = None) -> str:
    """Run the benchmark; return its last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, help="text file, a document per line: also compares quality")
    parser.add_argument("--dim", type=int, default=100, help="dimensions for --corpus")
    parser.add_argument("--epochs", type=int, default=5, help="epochs for --corpus")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of each rate")
    options = parser.parse_args(arguments)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda:0" if on_gpu else "cpu")
    name = torch.cuda.get_device_name(0) if on_gpu else "Triton's interpreter on the CPU: no GPU, rates mean nothing"
    print(f"device: {name}", flush=True)
    figures = {"kernel_error": kernel_error(device), **rates(device, options.seconds if on_gpu else 0.0)}
    goals = dict(GOALS)
    if options.corpus is not None:
        figures |= quality(options.corpus, options.dim, options.epochs)
        goals |= QUALITY_GOALS
    rounded = _rounded(figures)
    met = on_gpu and all(rounded.get(key, float("nan")) >= goal for key, goal in goals.items())
    line = json.dumps({"benchmark": "gpu", "device": name, "figures": rounded, "goals": goals, "met": met})
    print(line, flush=True)
    return line


if __name__ == "__main__":
    main()
