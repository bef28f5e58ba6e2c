"""What a command costs before it does anything: session, first jobs, whole launches on tiny inputs; ours and plain.

Plain is the same session without what makes ours start fast: Spark resolves the jars by Ivy, the JVM has its own
options and no archive of classes, each Python worker imports what it needs, and each task reads the directories of
Spark's archives anew. Seconds depend on what else the machine does, CPU seconds of all processes hardly: those are
compared. Starts before the first measurement fill the caches.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import common

from embedall_spark import launch, session, spark_jvm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa
    from pyspark.sql import SparkSession

GOALS = {"plain_cpu_over_ours": 1.5}
KINDS = ("words", "nodes")
ROUNDS, QUICK_ROUNDS = 3, 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--probe", nargs=2, help="used by this benchmark itself: what to measure, in which folder")
    options = parser.parse_args(arguments)
    if options.probe is not None:
        print(json.dumps(probe(*options.probe)))
        return
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="embedall-fixed-cost-") as work:
        if not options.quick:
            print("about six minutes on 2 cores", flush=True)
            # The first start resolves the jars, the second writes the archive, which its JVM does after it has ended.
            for _ in range(2):
                common.measured(common.this_python(__file__, "--probe", "session", work))
            time.sleep(30)
        pairs = [(_measure("session", work), _measure("plain", work)) for _ in range(rounds)]
        ratios = {"plain_cpu_over_ours": median(plain["cpu"] / ours["cpu"] for ours, plain in pairs)}
        ratios["plain_seconds_over_ours"] = median(plain["seconds"] / ours["seconds"] for ours, plain in pairs)
        for kind in () if options.quick else KINDS:
            facts = _measure(kind, work)
            ratios |= {f"{kind}_jobs": facts["jobs"], f"{kind}_seconds": facts["seconds"]}
    print(common.result("fixed_cost", ratios, GOALS))


def _measure(what: str, work: str) -> dict[str, Any]:
    facts = common.measured(common.this_python(__file__, "--probe", what, work)).said
    common.say(what, **facts)
    return facts


def probe(what: str, work: str) -> dict[str, Any]:
    """Return the parts of one process's cost: seconds, CPU seconds of it and all below it, Spark jobs."""
    since = time.perf_counter()
    facts = _launch(what, Path(work)) if what in KINDS else _session(what == "plain", Path(work))
    return facts | {"seconds": time.perf_counter() - since, "cpu": common.cpu_seconds()}


def _session(plain: bool, work: Path) -> dict[str, Any]:
    """Return the seconds of a session's start and of its first jobs of each sort."""
    extra = {}
    if plain:
        spark_jvm.prepare = lambda settings, java: (settings, [])
        extra = {"spark.python.daemon.module": "pyspark.daemon", "spark.python.unix.domain.socket.enabled": "false"}
    marks = [time.perf_counter()]
    spark = session.get("fixed cost", master=f"local[{common.THREADS}]", extra=extra)
    marks.append(time.perf_counter())
    spark.range(10).count()
    marks.append(time.perf_counter())
    table = str(work / f"table-{os.getpid()}")
    spark.range(3).write.format("delta").save(table)
    marks.append(time.perf_counter())
    spark.read.format("delta").load(table).count()
    marks.append(time.perf_counter())
    spark.range(0, 10, 1, common.THREADS).mapInArrow(_kernel, "id long").count()
    marks.append(time.perf_counter())
    names = ("session", "first_job", "delta_write", "delta_count", "python_job")
    return {name: marks[index + 1] - marks[index] for index, name in enumerate(names)}


def _kernel(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Import what tasks of every kind import."""
    from embedall_spark.corpus import hash_table  # noqa: F401

    yield from batches


def _launch(kind: str, work: Path) -> dict[str, Any]:
    """Return how many Spark jobs a whole launch on a tiny input takes."""
    source = work / f"{kind}.csv"
    if kind == "words":
        source.write_text("the quick brown fox jumps over the lazy dog\n" * 50)
        values = [f"input.path={source}", "vocabulary.min_count=1"]
    else:
        ring = [f"v{i},v{(i + step) % 40}" for i in range(40) for step in (1, 2, 5)]
        source.write_text("\n".join(["src,dst", *ring]))
        values = [f"input.path={source}", "input.format=csv"]
    output = f"output.table={work / f'{kind}-{os.getpid()}' / 'vectors'}"
    summary = launch.launch(kind, None, [*values, output, "train.vector_size=16"])
    return {"jobs": _jobs(session.get("fixed cost")), "rows": summary["rows"]}


def _jobs(spark: SparkSession) -> int:
    """Return how many jobs Spark has started so far."""
    return int(spark._jsc.sc().dagScheduler().numTotalJobs())


if __name__ == "__main__":
    main(sys.argv[1:])
