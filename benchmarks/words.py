"""Word vectors: ours beside gensim's and Spark MLlib's Word2Vec, on one corpus, in turns.

Window 5, 5 negatives, sample 1e-3, min_count 5, 2 threads each. Rates are tokens of the vocabulary per second.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import peers

from embedall_spark import session
from embedall_spark.launch import Options, launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Runs = dict[str, list[dict[str, Any]]]

GOALS = {
    "training_over_gensim_d100": 6.0,
    "training_over_mllib_d100": 30.0,
    "end_to_end_over_gensim_d100": 4.0,
    "analogy_minus_gensim_d100": -0.015,
}
QUICK_GOALS = {name: goal for name, goal in GOALS.items() if name.startswith("training")}
QUICK_TOKENS, QUICK_MLLIB_TOKENS, QUICK_EPOCHS = 300_000, 20_000, 3
MASTER = f"local[{common.THREADS}]"
# A further dimension is there for its rates: they need one warm epoch.
FURTHER_EPOCHS, FURTHER_ROUNDS = 2, 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--dims", type=int, nargs="+", default=[100, 300], help="vector sizes; the first in full")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of the first size, the others have 2")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each peer at the first size, the others have 1")
    parser.add_argument(
        "--methods", nargs="+", choices=peers.METHODS, default=["sgns", "cbow", "hs"],
        help="sgns in full; the others once, at the first size, beside gensim",
    )  # fmt: skip
    parser.add_argument(
        "--pword2vec", type=Path, metavar="PROGRAM", help="compare with this program too; how to build it: README"
    )
    options = parser.parse_args(arguments)
    goals = QUICK_GOALS if options.quick else GOALS
    ratios: dict[str, float] = {}
    if not common.absent("gensim"):
        with tempfile.TemporaryDirectory(prefix="embedall-words-") as work:
            lines = common.corpus(options.corpus, options.tokens or (QUICK_TOKENS if options.quick else None), work)
            if lines is not None:
                if not options.quick:
                    common.announce(60)
                ratios = quick(lines, work) if options.quick else full(lines, work, options)
    print(common.result("words", ratios, goals))


def full(lines: Path, work: str, options: Any) -> dict[str, float]:
    """Return ratios of whole processes: each run of a peer has one of ours before and after it."""
    ratios: dict[str, float] = {}
    for index, dim in enumerate(options.dims if "sgns" in options.methods else ()):
        epochs, rounds = (options.epochs, options.rounds) if index == 0 else (FURTHER_EPOCHS, FURTHER_ROUNDS)
        runs: Runs = defaultdict(list)
        programs = {"gensim": "gensim", "mllib": "mllib"}
        if options.pword2vec is not None:
            programs["pword2vec"] = str(options.pword2vec.absolute())
        for turn, name in enumerate(["ours", *[*programs, "ours"] * rounds]):
            folder = f"{work}/{name}-{dim}-{turn}"
            try:
                if name == "ours":
                    facts = ours(lines, folder, dim, epochs, {})
                else:
                    facts = peer(programs[name], lines, folder, dim, epochs, {})
            except RuntimeError as error:
                # The other parts are still worth having; what is missing meets no goal.
                common.say(f"{name} d={dim}", failed=str(error))
                continue
            common.say(f"{name} d={dim}", **facts)
            runs[name].append(facts)
        ratios |= compare(runs, f"d{dim}")
        common.say(f"d={dim}", **ratios)
    for method in (method for method in options.methods if method != "sgns"):
        ratios |= one_method(method, lines, work, options.dims[0], options.epochs)
    return ratios


def one_method(method: str, lines: Path, work: str, dim: int, epochs: int) -> dict[str, float]:
    """Return ratios of a further method, from one run of gensim and one of ours."""
    runs: Runs = defaultdict(list)
    runs["gensim"].append(peer("gensim", lines, f"{work}/gensim-{method}", dim, epochs, peers.METHODS[method]))
    common.say(f"gensim {method} d={dim}", **runs["gensim"][-1])
    runs["ours"].append(ours(lines, f"{work}/{method}", dim, epochs, peers.METHODS[method]))
    common.say(f"ours {method} d={dim}", **runs["ours"][-1])
    return compare(runs, f"{method}_d{dim}")


def quick(lines: Path, work: str) -> dict[str, float]:
    """Return ratios of steady rates, all in this process and one session; ours is that inside the worker."""
    runs: Runs = defaultdict(list)
    summary = launch("words", None, settings(lines, f"{work}/ours", 100, QUICK_EPOCHS, {}), Options(master=MASTER))
    runs["ours"].append({"words_per_second": rates(summary["folder"])["worker_words_per_second"]})
    common.say("ours", **runs["ours"][-1])
    runs["gensim"].append(peers.gensim(str(lines), 100, QUICK_EPOCHS, None, {}))
    common.say("gensim", **runs["gensim"][-1])
    spark = session.get("words")
    runs["mllib"].append(peers.mllib(spark, str(lines), 100, work, QUICK_MLLIB_TOKENS))
    common.say("mllib", **runs["mllib"][-1])
    return compare(runs, "d100")


def settings(lines: Path, folder: str, dim: int, epochs: int, options: Mapping[str, Any]) -> list[str]:
    """Return our configuration as overrides, with further options of training; no map, since the peers draw none."""
    values = {
        "input.path": lines,
        "output.table": f"{folder}/words",
        "train.vector_size": dim,
        "train.epochs": epochs,
        "train.threads": common.THREADS,
        "evaluate.map_words": 0,
        **{f"train.{name}": value for name, value in options.items()},
    }
    return [f"{key}={value}" for key, value in values.items()]


def ours(lines: Path, folder: str, dim: int, epochs: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures of ``embedall words`` in a process of its own, from the text to the Delta table."""
    overrides = [part for value in settings(lines, folder, dim, epochs, options) for part in ("--set", value)]
    done = common.measured(common.embedall("words", "--master", MASTER, *overrides))
    table = common.read_words(f"{folder}/words")
    return {
        "seconds": done.seconds,
        "peak_bytes": done.peak_bytes,
        "vocabulary": table.num_rows,
        **rates(done.said["folder"]),
        **common.quality(table["id"].to_pylist(), common.matrix(table["vector"])),
    }


def peer(name: str, lines: Path, folder: str, dim: int, epochs: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures of a peer in a process of its own: gensim's from the text to its saved vectors, MLlib's rate."""
    script, saved = str(Path(__file__).with_name("peers.py")), f"{folder}.vectors"
    arguments = [name, str(lines), str(dim), str(epochs), saved, json.dumps(dict(options))]
    done = common.measured(common.this_python(script, *arguments))
    if name == "mllib":
        return done.said
    from gensim.models import KeyedVectors

    vectors = KeyedVectors.load(saved)
    scores = common.quality(vectors.index_to_key, vectors.vectors)
    return {"seconds": done.seconds, "peak_bytes": done.peak_bytes, **done.said, **scores}


def rates(folder: str) -> dict[str, list[float]]:
    """Return tokens per second of the last epochs: of the whole Spark job, and of the worker inside it."""
    # A process's first epoch starts Python workers and loads kernels; checkpoints of the last two are kept.
    warm = [saved for saved in common.checkpoints(folder) if saved["epoch"] > 0]
    return {
        "words_per_second": [saved["figures"]["words_per_second"] for saved in warm],
        "worker_words_per_second": [
            report["tokens"] / report["seconds"]["train"] for saved in warm for report in saved["reports"]
        ],
    }


def compare(runs: Mapping[str, Sequence[Mapping[str, Any]]], suffix: str) -> dict[str, float]:
    """Return our medians against the peers'; above 1 is better, differences of quality above 0."""
    us = runs.get("ours", [])
    ratios = {
        f"training_over_{name}": _median(us, "words_per_second") / _median(them, "words_per_second")
        for name, them in runs.items()
        if name != "ours"
    }
    gensim = runs.get("gensim", [])
    for name, key in (("end_to_end", "seconds"), ("memory", "peak_bytes")):
        ratios[f"{name}_over_gensim"] = _median(gensim, key) / _median(us, key)
    for key in ("analogy", "ws353", "simlex"):
        ratios[f"{key}_minus_gensim"] = _median(us, key) - _median(gensim, key)
    return {f"{name}_{suffix}": value for name, value in ratios.items() if not np.isnan(value)}


def _median(facts: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the median of a figure over runs, and over epochs where it has one for each; nan where none has it."""
    values = [value for fact in facts if key in fact for value in np.atleast_1d(fact[key]).tolist()]
    return median(values) if values else float("nan")


if __name__ == "__main__":
    main()
