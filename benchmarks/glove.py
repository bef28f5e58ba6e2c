"""GloVe: ours beside the C program of its authors, on one corpus, with as many threads.

Window 15, min_count 5, x_max 10, 15 epochs: the settings of the program's own demonstration on text8. The program is
not installed with this package: clone github.com/stanfordnlp/GloVe, run make there, and give its folder ``build``.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import common
import numpy as np

from embedall_spark import session
from embedall_spark.corpus import cooccurrence
from embedall_spark.corpus.cooccurrence import CooccurrenceConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

GOALS = {"cells_over_program_d50": 2.0, "counted_tokens_per_second": 1e6, "analogy_minus_program_d50": -0.005}
QUICK_GOALS = {"cells_over_program_d50": 2.0}
QUICK_TOKENS, QUICK_EPOCHS = 300_000, 3
WINDOW, MIN_COUNT, X_MAX = 15, 5, 10
QUALITY = ("analogy", "ws353")
MASTER = f"local[{common.THREADS}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--program", type=Path, help="folder with the programs vocab_count, cooccur, shuffle and glove")
    parser.add_argument("--dims", type=int, nargs="+", default=[50], help="vector sizes")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the counts")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side, with seeds 1, 2, ...")
    options = parser.parse_args(arguments)
    ratios: dict[str, float] = {}
    if options.program is None or not (options.program / "glove").is_file():
        print("no program to compare with: build github.com/stanfordnlp/GloVe and give --program its folder build")
    else:
        with tempfile.TemporaryDirectory(prefix="embedall-glove-") as work:
            lines = common.corpus(options.corpus, options.tokens or (QUICK_TOKENS if options.quick else None), work)
            if lines is not None:
                if not options.quick:
                    common.announce(25)
                ratios = measure(lines, work, options)
    print(common.result("glove", ratios, QUICK_GOALS if options.quick else GOALS))


def measure(lines: Path, work: str, options: Any) -> dict[str, float]:
    """Return ratios; above 1 is better, differences of quality above 0."""
    epochs = QUICK_EPOCHS if options.quick else options.epochs
    counted = count_by_program(lines, work, options.program)
    common.say("program counts", **counted)
    ratios: dict[str, float] = {}
    for dim in options.dims:
        rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "program": []}
        for seed in range(1, options.rounds + 1):
            rounds["ours"].append(ours(lines, f"{work}/ours-{dim}-{seed}", dim, epochs, seed))
            rounds["program"].append(train_by_program(work, options.program, dim, epochs, seed))
            for name, runs in rounds.items():
                common.say(f"{name} d={dim} seed={seed}", **runs[-1])
        us, them = (
            {name: fmean(facts[name] for facts in runs) for name in ("seconds", "cells_per_second", *QUALITY)}
            for runs in rounds.values()
        )
        ratios |= {
            f"cells_over_program_d{dim}": us["cells_per_second"] / them["cells_per_second"],
            f"end_to_end_over_program_d{dim}": (counted["seconds"] + them["seconds"]) / us["seconds"],
            **{f"{name}_minus_program_d{dim}": us[name] - them[name] for name in QUALITY},
        }
    if not options.quick:
        ratios["counted_tokens_per_second"] = count(rounds["ours"][-1]["folder"])
    return ratios


def ours(lines: Path, folder: str, dim: int, epochs: int, seed: int) -> dict[str, Any]:
    """Return figures of ``embedall words`` in a process of its own, from the text to the Delta table."""
    values = {
        "train.method": "glove",
        "train.vector_size": dim,
        "train.epochs": epochs,
        "train.seed": seed,
        "train.threads": common.THREADS,
        "train.glove.x_max": X_MAX,
        "evaluate.map_words": 0,
    }
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    arguments = ["words", str(lines), f"{folder}/words", "--master", MASTER, *overrides]
    done = common.measured(common.embedall(*arguments))
    table = common.read_words(f"{folder}/words")
    saved = common.checkpoints(done.said["folder"])[-1]
    (report,) = saved["reports"]
    return {
        "seconds": done.seconds,
        "peak_bytes": done.peak_bytes,
        "folder": done.said["folder"],
        "loss": saved["figures"]["loss"],
        "cells_per_second": report["tokens"] / report["seconds"]["train"],
        **common.quality(table["id"].to_pylist(), common.matrix(table["vector"])),
    }


def count(folder: str) -> float:
    """Return tokens per second of counting the blocks of a finished run, in a session that has done so before."""
    spark = session.get("glove")
    (stage,) = Path(folder).glob("stages/blocks-*")
    (vocabulary,) = (path for path in Path(folder).glob("stages/vocabulary-[0-9]*"))
    table = spark.read.parquet(str(stage))
    rates = []
    for _ in range(2):
        since = time.perf_counter()
        cells = cooccurrence.count(table, str(vocabulary), WINDOW, CooccurrenceConfig())
        cells.write.mode("overwrite").parquet(f"{folder}/counted")
        rates.append(table.agg({"count": "sum"}).first()[0] / (time.perf_counter() - since))  # type: ignore[index]
        common.say("ours counts", tokens_per_second=rates[-1])
    return float(rates[-1])


def count_by_program(lines: Path, work: str, program: Path) -> dict[str, float]:
    """Return seconds of the program's vocabulary, counting and shuffling."""
    vocabulary = f"-vocab-file {work}/vocabulary -verbose 0"
    seconds = [
        _run(f"{program}/vocab_count -min-count {MIN_COUNT} -verbose 0 < {lines} > {work}/vocabulary"),
        _run(f"{program}/cooccur {vocabulary} -window-size {WINDOW} < {lines} > {work}/counts"),
        _run(f"{program}/shuffle -verbose 0 < {work}/counts > {work}/shuffled"),
    ]
    return {"seconds": sum(seconds), "count_seconds": seconds[1], "shuffle_seconds": seconds[2]}


def train_by_program(work: str, program: Path, dim: int, epochs: int, seed: int) -> dict[str, float]:
    """Return the program's rate, and the quality of its vectors."""
    seconds = _run(
        f"{program}/glove -save-file {work}/vectors -threads {common.THREADS} -input-file {work}/shuffled "
        f"-x-max {X_MAX} -iter {epochs} -vector-size {dim} -binary 0 -vocab-file {work}/vocabulary -seed {seed} "
        "-verbose 0"
    )
    words, rows = [], []
    for line in Path(f"{work}/vectors.txt").read_text(encoding="utf-8").splitlines():
        word, *values = line.split(" ")
        if word != "<unk>":
            words.append(word)
            rows.append(np.array(values, np.float32))
    cells = Path(f"{work}/shuffled").stat().st_size // 16
    return {"seconds": seconds, "cells_per_second": cells * epochs / seconds, **common.quality(words, np.array(rows))}


def _run(command: str) -> float:
    since = time.perf_counter()
    subprocess.run(command, shell=True, check=True, capture_output=True)
    return time.perf_counter() - since


if __name__ == "__main__":
    main()
