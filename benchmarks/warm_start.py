"""A retrain that starts from the published vectors beside one from nothing, when the last tenth of the text arrives.

The published table is trained on nine tenths of the corpus; then both train on all of it. All three run in one session
and on one machine, one after the other; CPU seconds of all processes are compared.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import common
import numpy as np

from embedall_spark import launch, session, tables
from embedall_spark.publish import comparison
from embedall_spark.train import trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

QUICK, TOKENS = 300_000, 4_000_000
GOALS = {
    "full_cpu_over_warm_training": 3.0,
    "full_drift_over_warm": 5.0,
    "analogy_minus_full": -0.01,
    "ws353_minus_full": -0.01,
}
NEIGHBORS = 10


class Trained(NamedTuple):
    """A finished run."""

    table: str
    cpu: float
    """CPU seconds of the whole launch."""
    training_cpu: float
    """Those of the training alone."""
    rows: pa.Table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--set", action="append", default=[], help="an option of all three, such as train.method=glove")
    options = parser.parse_args(arguments)
    tokens = options.tokens or (QUICK if options.quick else TOKENS)
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="embedall-warm-start-") as work:
        lines = common.corpus(options.corpus, tokens, work)
        if lines is not None:
            if not options.quick:
                common.announce(8)
            ratios = measure(lines, Path(work), options.set)
    print(common.result("warm_start", ratios, {} if options.quick and ratios else GOALS))


def measure(lines: Path, work: Path, settings: Sequence[str] = ()) -> dict[str, float]:
    """Train all three and return the ratios."""
    text = lines.read_text(encoding="utf-8").splitlines(keepends=True)
    old = work / "old.txt"
    old.write_text("".join(text[: len(text) * 9 // 10]), encoding="utf-8")
    published = train("published", old, work, *settings)
    full = train("full", lines, work, "train.seed=2", *settings)
    warm = train("warm", lines, work, f"train.start={published.table}", *settings)
    quality = {
        run.table: common.quality(run.rows["id"].to_pylist(), common.matrix(run.rows["vector"]))
        for run in (published, full, warm)
    }
    for table, figures in quality.items():
        common.say(Path(table).name, **figures)
    drifts = [drift(published, run) for run in (full, warm)]
    known, new = neighbors_shared(published, full, warm)
    common.say("neighbors shared with the full retrain", new_ids=new, known_ids_as_rare=known)
    return {
        "full_cpu_over_warm_training": full.training_cpu / warm.training_cpu,
        "full_cpu_over_warm": full.cpu / warm.cpu,
        "full_drift_over_warm": drifts[0] / drifts[1],
        **{f"{name}_minus_full": quality[warm.table][name] - quality[full.table][name] for name in quality[full.table]},
    }


def train(name: str, source: Path, work: Path, *settings: str) -> Trained:
    """Train on a text by the command's own way."""
    table, costs = str(work / "tables" / name), []
    original = trainer.train

    def timed(*values: Any, **options: Any) -> Any:
        before = common.cpu_seconds()
        result = original(*values, **options)
        costs.append(common.cpu_seconds() - before)
        return result

    session.get("warm start", master=f"local[{common.THREADS}]")
    since = common.cpu_seconds()
    trainer.train = timed
    try:
        values = [f"input.path={source}", f"output.table={table}", "train.context=true", "evaluate.map_words=0"]
        launch.launch("words", None, [*values, *settings])
    finally:
        trainer.train = original
    trained = Trained(table, common.cpu_seconds() - since, costs[0], common.read_words(table))
    common.say(name, ids=len(trained.rows), cpu_seconds=trained.cpu, training_cpu_seconds=trained.training_cpu)
    return trained


def drift(before: Trained, after: Trained) -> float:
    """Return 1 minus the median cosine of an id to its published vector, after the rotation that publish would do."""
    spark = session.get("warm start")
    with comparison.compare(tables.read(spark, after.table), tables.read(spark, before.table)) as change:
        moved = change.drift
    common.say(
        f"drift of {Path(after.table).name}",
        median_cosine=moved.quartiles[1],
        overlap=moved.overlap,
        error=moved.overlap_error,
    )
    return 1 - moved.quartiles[1]


def neighbors_shared(published: Trained, full: Trained, warm: Trained) -> tuple[float, float]:
    """Return the mean share of neighbors that the full retrain has: of known ids as rare as new ones, and of new."""
    ids = full.rows["id"].to_pylist()
    counts = full.rows["count"].to_numpy()
    before = set(published.rows["id"].to_pylist())
    is_new = np.array([name not in before for name in ids])
    order = {name: row for row, name in enumerate(warm.rows["id"].to_pylist())}
    matrices = [common.matrix(full.rows["vector"]), common.matrix(warm.rows["vector"])[[order[name] for name in ids]]]
    units = [matrix / np.linalg.norm(matrix, axis=1, keepdims=True) for matrix in matrices]
    rare = np.flatnonzero(~is_new & (counts <= np.quantile(counts[is_new], 0.75)))[: int(is_new.sum())]
    shares = []
    for rows in (rare, np.flatnonzero(is_new)):
        nearest = [_nearest(matrix, rows) for matrix in units]
        shares.append(float(np.mean([len(np.intersect1d(*pair)) / NEIGHBORS for pair in zip(*nearest, strict=True)])))
    return shares[0], shares[1]


def _nearest(units: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the nearest other rows of some rows, int64 [n, 10]."""
    blocks = []
    for part in np.array_split(rows, len(rows) // 1000 + 1):
        products = units[part] @ units.T
        products[np.arange(len(part)), part] = -1
        blocks.append(np.argpartition(-products, NEIGHBORS, axis=1)[:, :NEIGHBORS])
    return np.concatenate(blocks)


if __name__ == "__main__":
    main(sys.argv[1:])
