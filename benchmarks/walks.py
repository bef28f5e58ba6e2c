"""Second-order walks: ours through Spark, output written, beside PecanPy's SparseOTF on one power-law graph, in turns.

p = 0.25, q = 4, walks of 80 vertices, 2 threads each. ``--large`` builds and walks a star with 10 million leaves and a
power-law graph with 100 million edges instead, and reports time, bytes and memory.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import common
import graphs
import pyarrow as pa
from pyspark.sql import functions as F

from embedall_spark import config as configs
from embedall_spark import run_store, session
from embedall_spark.graph import adjacency, walk_jobs
from embedall_spark.graph.walk_jobs import Walks
from embedall_spark.kinds import nodes
from embedall_spark.sources import edges

if TYPE_CHECKING:
    from collections.abc import Sequence

GOALS = {"steps_over_pecanpy": 20.0, "gib_left_of_one_beside_the_graph": 0.0}
LARGE_GOALS = {"gib_left_of_8_star": 0.0, "gib_left_of_8_power_law": 0.0}
PEER = Path(__file__).resolve().parents[1] / ".bench-env" / "bin" / "python"
SLOTS, EDGES, STARTS = 1 << 20, 10_000_000, 20_000
QUICK_SLOTS, QUICK_EDGES, QUICK_STARTS = 1 << 14, 100_000, 1_000
LENGTH, P, Q = 80, 0.25, 4.0
LARGE = {"star": (1, 10_000_000), "power_law": (1 << 24, 100_000_000)}
_GIB = 1 << 30


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--large", action="store_true", help="the two large graphs, ours alone")
    parser.add_argument("--job", nargs=4, metavar=("EDGES", "FOLDER", "NUM_WALKS", "LENGTH"), help="one run of ours")
    options = parser.parse_args(arguments)
    if options.job:
        print(json.dumps(job(*options.job)))
        return
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="embedall-walks-") as work:
        if not options.quick:
            common.announce(60 if options.large else 10)
        if options.large:
            ratios = large(Path(work), options.quick)
        elif PEER.exists():
            ratios = beside(Path(work), options.quick, options.rounds)
        else:
            print("pecanpy is not installed: nothing to compare with; make bench-env brings it", flush=True)
    print(common.result("walks", ratios, LARGE_GOALS if options.large else GOALS))


def beside(work: Path, quick: bool, rounds: int) -> dict[str, float]:
    """Return ratios to PecanPy."""
    slots, count, starts = (QUICK_SLOTS, QUICK_EDGES, QUICK_STARTS) if quick else (SLOTS, EDGES, STARTS)
    ends = graphs.rmat(slots, count)
    graphs.write(iter([(ends[:, 0], ends[:, 1])]), work / "edges")
    graphs.save_for_pecanpy(ends, work / "graph.npz")
    del ends
    us, them = [], []
    for turn in range(1 if quick else rounds):
        command = [
            __file__,
            "--job",
            str(work / "edges"),
            str(work / f"run-{turn}"),
            "4" if quick else "1",
            str(LENGTH),
        ]
        us.append(common.measured(common.this_python(*command)).said)
        common.say("ours", **us[-1])
        values = [str(value) for value in (work / "graph.npz", P, Q, common.THREADS, LENGTH - 1, starts)]
        them.append(
            common.measured([str(PEER), str(Path(__file__).with_name("pecanpy_peer.py")), "walks", *values]).said
        )
        common.say("pecanpy", **them[-1])
    rate = median(figures["steps_per_second"] for figures in us) / median(
        figures["steps_per_second"] for figures in them
    )
    return {"steps_over_pecanpy": rate, "gib_left_of_one_beside_the_graph": 1 - max(f["worker_gib"] for f in us)}


def large(work: Path, quick: bool) -> dict[str, float]:
    """Return how much of 8 GiB is left while large graphs are built and walked."""
    ratios = {}
    for name, (slots, count) in LARGE.items():
        count = count // 100 if quick else count
        graphs.write(graphs.star(count) if slots == 1 else graphs.stream(slots, count), work / name / "edges")
        # A walk from every vertex, of a few steps: what matters is that the hub is crossed again and again.
        command = [__file__, "--job", str(work / name / "edges"), str(work / name / "run"), "1", "10"]
        figures = common.measured(common.this_python(*command), limit=7200).said
        common.say(name, edges=count, **figures)
        ratios[f"gib_left_of_8_{name}"] = 8 - figures["all_gib"]
    return ratios


def job(source: str, folder: str, num_walks: str, length: str) -> dict[str, Any]:
    """Build a graph and write its walks, in this process; return figures."""
    values = {
        "input": {"path": source, "format": "parquet"},
        "output": {"table": f"{folder}/nodes"},
        "walks": {"num_walks": int(num_walks), "walk_length": int(length), "p": P, "q": Q},
    }
    config = configs.parse(nodes.Config, values)
    memory = Memory()
    spark = session.get("walks", master=f"local[{common.THREADS}]")
    run = run_store.local(spark, f"{folder}/run")
    since = time.perf_counter()
    rows = run.stage("edges", lambda: edges.read(spark, config.input)).where("problem IS NULL")
    _, _, size = adjacency.build_stages(run, rows, config.graph)
    built = time.perf_counter() - since
    walks = Walks(run.stage_path("adjacency"), size, False, config.walks, 1)
    # The host's copy of the graph is part of neither: it is made once, and then serves every walk.
    spark.range(1).mapInArrow(_touch(walks), "vertices bigint").collect()
    copied = time.perf_counter() - since - built
    memory.worker = 0
    since = time.perf_counter()
    written = run.stage("walks", lambda: walk_jobs.as_encoded(spark, walks))
    seconds = time.perf_counter() - since
    row = written.agg(F.sum(F.size("tokens") - 1), F.count("*")).first()
    assert row is not None
    on_disk = 8 * size.vertices + size.edges * (12 if size.weighted else 4)
    return {
        "vertices": size.vertices, "entries": size.edges, "weighted": size.weighted,
        "build_seconds": round(built, 1), "copy_seconds": round(copied, 1),
        "graph_bytes": on_disk, "bytes_per_entry": round(on_disk / size.edges, 2),
        "walks": int(row[1]), "steps": int(row[0]), "seconds": round(seconds, 1),
        "steps_per_second": int(row[0]) / seconds,
        "worker_gib": round(memory.worker / _GIB, 3), "all_gib": round(memory.all / _GIB, 3),
    }  # fmt: skip


def _touch(walks: Walks) -> Any:
    def touch(batches: Any) -> Any:
        for _ in batches:
            yield pa.RecordBatch.from_arrays([pa.array([walks.open().graph.indptr.size - 1])], ["vertices"])

    return touch


class Memory:
    """Watches this process and all below it: the most that all take together, and that a worker has of its own."""

    def __init__(self) -> None:
        self.all = self.worker = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            together, worker = common.proportional(os.getpid())
            self.all, self.worker = max(self.all, together), max(self.worker, worker)
            time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1:])
